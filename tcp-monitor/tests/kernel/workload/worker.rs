//! A worker: makes connections one after the other, and notes how each must be counted.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    ioctl::{Getter, Opcode, ioctl},
};
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::{
    deadline::{Deadline, STALLED},
    outside_host::OutsideHost,
    testbed::{ExpectedCounts, Route, Settings, Side, Testbed},
};

/// One thing that a worker does: mostly one connection.
pub(crate) type Action = fn(&mut Worker<'_>) -> Result<()>;

pub(crate) struct Worker<'a> {
    pub(crate) testbed: &'a Testbed,
    pub(crate) rng: Rng,
    pub(crate) expected: ExpectedCounts,
    pub(crate) settings: Settings,
    ports: Ports,
    /// A listener that accepts no connection.
    unaccepted_port: Option<Socket>,
    /// Sockets that are closed at the end.
    pub(crate) kept_open: Vec<Socket>,
    /// Sockets that fail some time later, without a call.
    pub(crate) failing: Vec<Socket>,
}

/// The ports of one worker.
#[derive(Clone, Copy)]
struct Ports {
    first: u16,
}

/// How many ports a worker has whose counts are known exactly.
const COUNTED: u16 = 24;
/// How many follow them whose counts depend on timing.
const UNCOUNTED: u16 = 4;
/// Offset of the port of the listener that accepts no connection.
const UNACCEPTED: u16 = 0;
/// Offset of a port that had a listener once.
const CLOSED: u16 = 1;
/// The first port of the first worker, below the ephemeral ports.
pub(crate) const FIRST_PORT: u16 = 10_000;

/// A connection between two sockets of this process.
pub(crate) struct Pair {
    pub(crate) server: TcpStream,
    pub(crate) client: TcpStream,
    pub(crate) of: Connection,
}

/// Route and port of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    pub(crate) route: Route,
    pub(crate) port: u16,
}

/// Acknowledged payload of each direction, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Payload {
    pub(crate) to_server: usize,
    pub(crate) to_client: usize,
}

/// Binds `socket` to an address that may be in TIME_WAIT.
pub(crate) fn bind(socket: &Socket, address: SocketAddr) -> Result<()> {
    ensure!(bind_within(socket, address, STALLED)?, "{address} is in use");
    Ok(())
}

/// The same, or `false` if the address is still in use after this time.
pub(crate) fn bind_within(socket: &Socket, address: SocketAddr, patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        match socket.bind(&address.into()) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() != ErrorKind::AddrInUse => {
                return Err(error).with_context(|| format!("cannot bind {address}"));
            }
            Err(_) if Instant::now() > deadline => return Ok(false),
            Err(_) => thread::sleep(FORK_PAUSE),
        }
    }
}

/// A child process has copies of all sockets, including those closed since, until it executes its
/// program.
const FORK_PAUSE: Duration = Duration::from_millis(1);

/// Whether the counts of a port are known exactly.
pub(crate) fn has_expected_counts(port: u16, workers: u16) -> bool {
    let Some(offset) = port.checked_sub(FIRST_PORT) else { return false };
    offset / (COUNTED + UNCOUNTED) < workers && offset % (COUNTED + UNCOUNTED) < COUNTED
}

/// All ports of so many workers, as a value of `--port`.
pub(crate) fn ports_of(workers: u16) -> String {
    format!("{FIRST_PORT}-{}", FIRST_PORT + workers * (COUNTED + UNCOUNTED) - 1)
}

impl<'a> Worker<'a> {
    pub(crate) fn new(testbed: &'a Testbed, number: u16, seed: u64, settings: Settings) -> Self {
        Self {
            testbed,
            rng: Rng::with_seed(seed),
            expected: ExpectedCounts::default(),
            settings,
            ports: Ports { first: FIRST_PORT + number * (COUNTED + UNCOUNTED) },
            unaccepted_port: None,
            kept_open: Vec::new(),
            failing: Vec::new(),
        }
    }

    /// Closes the sockets that were kept open, and waits until those that fail have failed.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.kept_open.clear();
        for socket in self.failing.drain(..) {
            let patience = Timespec::try_from(STALLED)?;
            let ended = poll(&mut [PollFd::new(&socket, PollFlags::empty())], Some(&patience))?;
            ensure!(ended == 1, "{socket:?} did not fail within {STALLED:?}");
        }
        Ok(())
    }

    /// Closes the listener that accepts no connection. Returns the expected counts.
    pub(crate) fn into_expected(self) -> ExpectedCounts {
        self.expected
    }

    /// A port whose counts are known exactly.
    pub(crate) fn port(&mut self) -> u16 {
        self.ports.first + self.rng.u16(CLOSED + 1..COUNTED)
    }

    /// A port whose counts depend on timing.
    pub(crate) fn uncounted_port(&mut self) -> u16 {
        self.ports.first + COUNTED
    }

    /// The same; it may have a listener already.
    pub(crate) fn contended_port(&mut self) -> u16 {
        self.ports.first + COUNTED + self.rng.u16(1..UNCOUNTED)
    }

    /// A port without a listener.
    pub(crate) fn closed_port(&mut self) -> Result<u16> {
        let port = self.ports.first + CLOSED;
        // It had one once, so that the port has counters of its own.
        let address = self.testbed.address(Route::LoopbackV4, port);
        self.listen(address, 1)?;
        // bind() fails while there is a listener.
        let probe = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        probe.set_reuse_address(true)?;
        bind(&probe, address)?;
        Ok(port)
    }

    /// The port of a listener that accepts no connection and stays until the end.
    pub(crate) fn unaccepted_port(&mut self) -> Result<u16> {
        let port = self.ports.first + UNACCEPTED;
        if self.unaccepted_port.is_none() {
            let anywhere = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
            self.unaccepted_port = Some(self.listen(anywhere, 4096)?);
        }
        Ok(port)
    }

    pub(crate) fn route(&mut self) -> Route {
        Route::ALL[self.rng.usize(..Route::ALL.len())]
    }

    /// A number of bytes, mostly small.
    pub(crate) fn amount(&mut self) -> usize {
        match self.rng.u8(..4) {
            0 => 0,
            1 | 2 => self.rng.usize(1..200),
            _ => self.rng.usize(200..20_000),
        }
    }

    /// A listener on the server's side. Its accept queue takes `backlog` + 1 connections.
    pub(crate) fn listen(&self, address: SocketAddr, backlog: i32) -> Result<Socket> {
        let deadline = Deadline::new();
        loop {
            if let Some(listener) = self.try_listen(address, backlog)? {
                return Ok(listener);
            }
            deadline.check().with_context(|| format!("{address} is in use"))?;
            thread::sleep(FORK_PAUSE);
        }
    }

    /// The same, or `None` if the port has a listener.
    pub(crate) fn try_listen(&self, address: SocketAddr, backlog: i32) -> Result<Option<Socket>> {
        self.testbed.move_to(Side::Server)?;
        let listener = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        listener.set_reuse_address(true)?;
        if address.is_ipv6() {
            // So that `::` includes the IPv4 addresses.
            listener.set_only_v6(false)?;
        }
        match listener.bind(&address.into()) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot bind {address}")),
        }
        listener.listen(backlog)?;
        Ok(Some(listener))
    }

    /// A socket whose connect() does not block.
    pub(crate) fn client(&self, side: Side, address: SocketAddr) -> Result<Socket> {
        self.testbed.move_to(side)?;
        let client = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        client.set_nonblocking(true)?;
        Ok(client)
    }

    /// A connection on a random route.
    pub(crate) fn connect(&mut self) -> Result<Pair> {
        let of = Connection { route: self.route(), port: self.port() };
        self.connect_at(of)
    }

    pub(crate) fn connect_at(&mut self, of: Connection) -> Result<Pair> {
        let address = self.testbed.address(of.route, of.port);
        let listener = self.listen(address, 16)?;
        self.testbed.move_to(of.route.client_side())?;
        let client = TcpStream::connect(address).with_context(|| format!("no connection to {address}"))?;
        let (server, _) = listener.accept()?;
        Ok(Pair { server: server.into(), client, of })
    }

    /// Notes a connection that ended: `closed_by` of the server's and of the client's end.
    pub(crate) fn expect_closed(&mut self, of: Connection, server: &str, client: &str, payload: Payload) {
        self.expect_server_closed(of.port, server, payload);
        let side = of.route.client_side();
        self.expect_end(side, of.port, ("client", client), (payload.to_server, payload.to_client));
    }

    /// The same of a connection whose client is an outside host.
    pub(crate) fn expect_server_closed(&mut self, port: u16, closed_by: &str, payload: Payload) {
        self.expect_end(Side::Server, port, ("server", closed_by), (payload.to_client, payload.to_server));
    }

    pub(crate) fn expect_end(
        &mut self,
        side: Side,
        port: u16,
        (role, closed_by): (&str, &str),
        (sent, received): (usize, usize),
    ) {
        let port = &port.to_string();
        self.expected.add(side, "handshakes_total", &[("port", port), ("role", role)], 1);
        self.expected.add(
            side,
            "connections_closed_total",
            &[("port", port), ("role", role), ("closed_by", closed_by)],
            1,
        );
        for (direction, bytes) in [("sent", sent), ("received", received)] {
            self.expected.add(side, "bytes_total", &[("port", port), ("direction", direction)], bytes as u64);
        }
    }

    /// Notes handshakes that failed.
    pub(crate) fn expect_failures(&mut self, side: Side, port: u16, role: &str, reason: &str, count: u64) {
        let labels = [("port", &*port.to_string()), ("role", role), ("reason", reason)];
        self.expected.add(side, "handshake_failures_total", &labels, count);
    }

    /// Notes what no series of the agent has, and an identity needs.
    pub(crate) fn expect_note(&mut self, side: Side, what: &str, count: u64) {
        self.expected.add(side, what, &[], count);
    }

    /// An outside host for one of the server's ports.
    pub(crate) fn new_host(&mut self, port: u16) -> OutsideHost<'a> {
        let v6 = self.rng.bool();
        self.new_host_over(v6, port)
    }

    pub(crate) fn new_host_over(&mut self, v6: bool, port: u16) -> OutsideHost<'a> {
        self.testbed.outside.new_host(self.testbed.outside_address(v6, port), self.rng.u32(..))
    }

    /// A listener that outside hosts reach at `port`.
    pub(crate) fn listen_to_outside(&self, port: u16, backlog: i32) -> Result<Socket> {
        let anywhere = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        self.listen(anywhere, backlog)
    }

    /// A connection with an outside host.
    pub(crate) fn receive(&mut self) -> Result<(TcpStream, OutsideHost<'a>, u16)> {
        let port = self.port();
        let listener = self.listen_to_outside(port, 16)?;
        let mut host = self.new_host(port);
        host.open()?;
        host.acknowledge();
        let (server, _) = listener.accept()?;
        Ok((server.into(), host, port))
    }
}

/// Writes `count` bytes to `from`, and reads them from `to`.
pub(crate) fn transfer(from: &mut TcpStream, to: &mut TcpStream, count: usize) -> Result<()> {
    from.write_all(&vec![b'.'; count])?;
    let mut rest = vec![0; count];
    to.read_exact(&mut rest)?;
    await_acknowledgement(from)
}

/// Writes `count` bytes that are not read.
pub(crate) fn leave_unread(from: &mut TcpStream, count: usize) -> Result<()> {
    from.write_all(&vec![b'.'; count])?;
    await_acknowledgement(from)
}

/// Reads the end of the stream.
pub(crate) fn read_end(stream: &mut TcpStream) -> Result<()> {
    let count = stream.read(&mut [0; 64])?;
    ensure!(count == 0, "{count} bytes where the end should be");
    Ok(())
}

/// Closes with a RST.
pub(crate) fn reset(stream: TcpStream) -> Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(())
}

/// Waits until the other end has acknowledged everything, including a FIN.
pub(crate) fn await_acknowledgement(stream: &impl AsFd) -> Result<()> {
    const SIOCOUTQ: Opcode = 0x5411;
    let mut deadline = Deadline::new();
    loop {
        // SAFETY: SIOCOUTQ writes an int (linux/sockios.h).
        let waiting = unsafe { ioctl(stream, Getter::<SIOCOUTQ, i32>::new())? };
        if waiting == 0 {
            return Ok(());
        }
        deadline.observe(&waiting);
        deadline.check().with_context(|| format!("{waiting} bytes are not acknowledged"))?;
        // The kernel does not notify when the queue becomes empty.
        thread::sleep(Duration::from_micros(100));
    }
}
