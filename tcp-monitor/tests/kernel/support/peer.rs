//! A peer: a process in a namespace that is one end of the traffic, and executes one command a
//! line.
//!
//! The process runs this test binary (see [`run`]). It holds at most one listener and one
//! connection.

use std::{
    fs,
    io::{self, BufRead, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    process::{ChildStdin, Command, Stdio},
    str::SplitWhitespace,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::Signal;
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::{
    child_process::ChildProcess,
    line_reader::LineReader,
    namespace::{Namespace, move_into},
    socket_table::canonical,
};

/// First argument of the test binary as a peer.
pub(crate) const PEER: &str = "--peer";
/// First argument of the test binary as a server of the one connection that is its stdin.
pub(crate) const ECHO_CLIENT: &str = "--echo-client";
/// Command name of a process that serves one client of the echo server.
pub(crate) const ECHO_COMM: &str = "echo-child";
/// How much the echo server reads from a client.
const ECHO_LIMIT: usize = 1024;
/// Begins the error of a connect() that failed, followed by how long it took, as the peer measured
/// it.
pub(crate) const FAILED_AFTER: &str = "connect() failed after ";

/// The trial's handle of a peer process.
pub(crate) struct Peer {
    process: ChildProcess,
    commands: ChildStdin,
    answers: LineReader<String>,
    answered: usize,
}

/// Local and remote address of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

impl Peer {
    /// Starts a peer whose command name will be `comm`.
    pub(crate) fn spawn(namespace: &Namespace, comm: &str) -> Result<Self> {
        let mut process = ChildProcess::spawn(
            Command::new(std::env::current_exe()?)
                .args([PEER, namespace.name(), comm])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped()),
        )?;
        let commands = process.stdin()?;
        let answers = LineReader::read(process.stdout()?, str::to_owned);
        Ok(Self { process, commands, answers, answered: 0 })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn listen(&mut self, address: SocketAddr) -> Result<()> {
        self.ask(&format!("listen {address}"))?;
        Ok(())
    }

    pub(crate) fn connect(&mut self, address: SocketAddr) -> Result<Ends> {
        self.begin_connect(address)?;
        self.end_connect()
    }

    /// Has the peer call connect(), without waiting for the result.
    pub(crate) fn begin_connect(&mut self, address: SocketAddr) -> Result<()> {
        self.request(&format!("connect {address}"))
    }

    /// The same from this address, which may be in TIME_WAIT (SO_REUSEADDR).
    pub(crate) fn begin_connect_from(&mut self, local: SocketAddr, remote: SocketAddr) -> Result<()> {
        self.request(&format!("connect_from {local} {remote}"))
    }

    pub(crate) fn end_connect(&mut self) -> Result<Ends> {
        ends(&self.answer()?)
    }

    pub(crate) fn accept(&mut self) -> Result<Ends> {
        ends(&self.ask("accept")?)
    }

    /// Writes `count` bytes.
    pub(crate) fn send(&mut self, count: usize) -> Result<()> {
        self.ask(&format!("send {count}"))?;
        Ok(())
    }

    /// Reads exactly `count` bytes.
    pub(crate) fn read(&mut self, count: usize) -> Result<()> {
        self.ask(&format!("read {count}"))?;
        Ok(())
    }

    /// Reads until the other side has closed; how many bytes came.
    pub(crate) fn read_to_end(&mut self) -> Result<usize> {
        Ok(self.ask("read_to_end")?.parse()?)
    }

    /// close() as soon as read() returns 0, without a command in between.
    pub(crate) fn close_at_end(&mut self) -> Result<()> {
        self.request("close_at_end")
    }

    pub(crate) fn shut_down_write(&mut self) -> Result<()> {
        self.ask("shut_down_write")?;
        Ok(())
    }

    pub(crate) fn close(&mut self) -> Result<()> {
        self.ask("close")?;
        Ok(())
    }

    /// SO_LINGER with a time of 0, then close(): a RST instead of a FIN.
    pub(crate) fn abort(&mut self) -> Result<()> {
        self.ask("abort")?;
        Ok(())
    }

    /// Accepts `clients` connections and gives each to a process of its own, which reads at most
    /// 1024 bytes, writes them back and exits.
    pub(crate) fn begin_echo(&mut self, clients: usize) -> Result<()> {
        self.request(&format!("echo {clients}"))
    }

    /// The pids of those processes, when all have ended.
    pub(crate) fn end_echo(&mut self) -> Result<Vec<u32>> {
        self.answer()?.split_whitespace().map(|pid| Ok(pid.parse()?)).collect()
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.wait()?;
        Ok(())
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        self.request(command)?;
        self.answer().with_context(|| format!("the peer was to {command}"))
    }

    fn request(&mut self, command: &str) -> Result<()> {
        writeln!(self.commands, "{command}").context("a peer has ended")
    }

    fn answer(&mut self) -> Result<String> {
        let at = self.answered;
        let answer = self.answers.wait_for("a peer's answer", |lines| lines.get(at).cloned())?;
        self.answered += 1;
        answer.strip_prefix("ok").map(|rest| rest.trim().to_owned()).ok_or_else(|| anyhow!(answer))
    }
}

/// A server that listens on `address` and a client that is connected to it.
pub(crate) fn connected(server: &Namespace, client: &Namespace, address: SocketAddr) -> Result<(Peer, Peer)> {
    let (mut server, mut client) = (Peer::spawn(server, "server")?, Peer::spawn(client, "client")?);
    server.listen(address)?;
    client.connect(address)?;
    server.accept()?;
    Ok((server, client))
}

fn ends(answer: &str) -> Result<Ends> {
    let (local, remote) = answer.split_once(' ').context("two addresses expected")?;
    Ok(Ends { local: canonical(local.parse()?), remote: canonical(remote.parse()?) })
}

/// The peer process: one command a line on stdin, one answer a line on stdout, until stdin ends.
pub(crate) fn run(namespace: &str, comm: &str) -> Result<()> {
    move_into(namespace)?;
    fs::write("/proc/self/comm", comm)?;
    let mut process = Process::default();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        let answer = match process.execute(words.next().unwrap_or_default(), &mut words) {
            Ok(answer) => format!("ok {answer}"),
            Err(error) => format!("{error:#}"),
        };
        println!("{}", answer.replace('\n', " "));
    }
    Ok(())
}

#[derive(Default)]
struct Process {
    listener: Option<TcpListener>,
    connection: Option<TcpStream>,
}

impl Process {
    fn execute(&mut self, verb: &str, words: &mut SplitWhitespace<'_>) -> Result<String> {
        let mut operand = || words.next().context("an operand is missing");
        match verb {
            "listen" => self.listener = Some(TcpListener::bind(operand()?.parse::<SocketAddr>()?)?),
            "connect" => {
                let (address, begun) = (operand()?.parse::<SocketAddr>()?, Instant::now());
                let connected = TcpStream::connect(address);
                let elapsed = begun.elapsed().as_micros();
                return self.hold(connected.with_context(|| format!("{FAILED_AFTER}{elapsed} us"))?);
            }
            "connect_from" => {
                let (local, remote) = (operand()?.parse::<SocketAddr>()?, operand()?.parse::<SocketAddr>()?);
                let socket = Socket::new(Domain::for_address(local), Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                socket.bind(&local.into())?;
                socket.connect(&remote.into())?;
                return self.hold(socket.into());
            }
            "accept" => {
                let (connection, _) = self.listener()?.accept()?;
                return self.hold(connection);
            }
            "send" => self.connection()?.write_all(&payload(operand()?.parse()?))?,
            "read" => {
                let mut bytes = vec![0; operand()?.parse()?];
                self.connection()?.read_exact(&mut bytes)?;
            }
            "read_to_end" => {
                let mut bytes = Vec::new();
                return Ok(self.connection()?.read_to_end(&mut bytes)?.to_string());
            }
            "close_at_end" => {
                let mut connection = self.connection.take().context("no connection")?;
                connection.read_to_end(&mut Vec::new())?;
            }
            "shut_down_write" => self.connection()?.shutdown(Shutdown::Write)?,
            "close" => self.connection = None,
            "abort" => {
                SockRef::from(&*self.connection()?).set_linger(Some(Duration::ZERO))?;
                self.connection = None;
            }
            "echo" => return self.echo(operand()?.parse()?),
            unknown => bail!("unknown command {unknown}"),
        }
        Ok(String::new())
    }

    fn echo(&mut self, clients: usize) -> Result<String> {
        let mut children = Vec::new();
        for _ in 0..clients {
            let (connection, _) = self.listener()?.accept()?;
            let mut child = Command::new(std::env::current_exe()?);
            // The child waits for the other end of its stdout to be closed.
            let (start, hold) = io::pipe()?;
            child.arg(ECHO_CLIENT).stdin(OwnedFd::from(connection)).stdout(OwnedFd::from(start));
            children.push(child.spawn()?);
            // Closes the parent's copy of the connection: else the parent may be the last to close
            // it.
            drop(child);
            drop(hold);
        }
        let mut pids = Vec::new();
        for mut child in children {
            pids.push(child.id().to_string());
            child.wait()?;
        }
        Ok(pids.join(" "))
    }

    fn hold(&mut self, connection: TcpStream) -> Result<String> {
        connection.set_nodelay(true)?;
        let answer = format!("{} {}", connection.local_addr()?, connection.peer_addr()?);
        self.connection = Some(connection);
        Ok(answer)
    }

    fn listener(&self) -> Result<&TcpListener> {
        self.listener.as_ref().context("no listener")
    }

    fn connection(&mut self) -> Result<&mut TcpStream> {
        self.connection.as_mut().context("no connection")
    }
}

/// Serves the connection on stdin: one read, one write, end of process.
pub(crate) fn echo_client() -> Result<()> {
    fs::write("/proc/self/comm", ECHO_COMM)?;
    fs::File::from(io::stdout().as_fd().try_clone_to_owned()?).read_to_end(&mut Vec::new())?;
    let mut connection = TcpStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut bytes = [0; ECHO_LIMIT];
    let count = connection.read(&mut bytes)?;
    connection.write_all(&bytes[..count])?;
    Ok(())
}

/// `Hello, World!`, over and over.
fn payload(count: usize) -> Vec<u8> {
    b"Hello, World!".iter().copied().cycle().take(count).collect()
}
