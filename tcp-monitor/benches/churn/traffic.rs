//! The traffic: threads that connect, exchange 13 bytes each way, and close.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::net::{Shutdown, shutdown};
use socket2::SockRef;

use crate::options::{Closing, Conditions};
use crate::site::{PORT, Site};
use crate::support::namespace::move_into;

/// The traffic of one run.
pub(crate) struct Traffic {
    pub(crate) connections: u64,
    pub(crate) elapsed: Duration,
}

/// A server that accepts no connection yet.
pub(crate) fn listen(site: &Site) -> Result<TcpListener> {
    site.server().enter(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?))
}

/// Makes one connection that carries nothing.
pub(crate) fn probe(site: &Site, listener: &TcpListener) -> Result<()> {
    let client = site.client().enter(|| Ok(TcpStream::connect(site.destination(0))?))?;
    let (server, _) = listener.accept()?;
    drop((client, server));
    Ok(())
}

/// Makes connections as long as the conditions say, with a client and a server thread for each CPU.
pub(crate) fn run(site: &Site, listener: &TcpListener, conditions: &Conditions) -> Result<Traffic> {
    let threads = thread::available_parallelism()?.get() as u64;
    let ready = Barrier::new(threads as usize);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let servers: Vec<_> = (0..threads).map(|_| scope.spawn(|| serve(listener, &over))).collect();
        let clients: Vec<_> = (0..threads)
            .map(|first| {
                let ready = &ready;
                scope.spawn(move || -> Result<Traffic> {
                    let entered = move_into(site.client().name());
                    ready.wait();
                    entered?;
                    connect(site, conditions, (first..).step_by(threads as usize)).context("a client failed")
                })
            })
            .collect();
        let clients: Vec<_> = clients.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Release);
        shutdown(listener, Shutdown::Read)?;
        for server in servers {
            server.join().map_err(|_| anyhow!("a server panicked"))?.context("a server failed")?;
        }
        let mut traffic = Traffic { connections: 0, elapsed: Duration::ZERO };
        for client in clients {
            let client = client.map_err(|_| anyhow!("a client panicked"))??;
            traffic.connections += client.connections;
            traffic.elapsed = traffic.elapsed.max(client.elapsed);
        }
        Ok(traffic)
    })
}

/// A client thread: makes the connections of these numbers, in time.
fn connect(site: &Site, conditions: &Conditions, numbers: impl Iterator<Item = u64>) -> io::Result<Traffic> {
    let begin = Instant::now();
    let mut connections = 0;
    for number in numbers {
        let elapsed = begin.elapsed();
        let due = conditions.rate.map_or(elapsed, |rate| Duration::from_secs(number) / rate);
        if due.max(elapsed) >= conditions.duration {
            break;
        }
        thread::sleep(due.saturating_sub(elapsed));
        client(TcpStream::connect(site.destination(number))?, close_of(conditions.close, number))?;
        connections += 1;
    }
    Ok(Traffic { connections, elapsed: begin.elapsed() })
}

/// How one connection is closed. The client sends it to the server.
#[derive(Clone, Copy)]
enum Close {
    Server,
    Client,
    Reset,
}

const fn close_of(closing: Closing, number: u64) -> Close {
    match closing {
        Closing::Server => Close::Server,
        Closing::Client => Close::Client,
        Closing::Reset => Close::Reset,
        Closing::Mixed => match number % 3 {
            0 => Close::Server,
            1 => Close::Client,
            _ => Close::Reset,
        },
    }
}

/// The client's end of a connection.
fn client(mut stream: TcpStream, close: Close) -> io::Result<()> {
    let server_closes = matches!(close, Close::Server);
    stream.write_all(&[u8::from(server_closes); MESSAGE])?;
    let mut answer = [0; MESSAGE];
    stream.read_exact(&mut answer)?;
    match close {
        Close::Server => read_end(&mut stream),
        Close::Client => Ok(()),
        Close::Reset => SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
    }
}

/// A server thread: until the listener is shut down.
fn serve(listener: &TcpListener, over: &AtomicBool) -> io::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(_) if over.load(Ordering::Acquire) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut request = [0; MESSAGE];
        stream.read_exact(&mut request)?;
        stream.write_all(&request)?;
        if request[0] == 0 {
            read_end(&mut stream)?;
        }
    }
}

/// Waits for the peer's FIN or RST.
fn read_end(stream: &mut TcpStream) -> io::Result<()> {
    match stream.read(&mut [0]) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error),
    }
}

/// Bytes each way.
const MESSAGE: usize = 13;
