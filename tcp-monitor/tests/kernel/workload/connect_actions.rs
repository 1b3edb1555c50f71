//! Actions in which connect() fails, reuses a port or connects a socket to itself, and how each
//! must be counted.

use std::{
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};

use crate::{
    support::{
        deadline::{Deadline, STALLED},
        packet_builder::Unreachable,
        testbed::{Route, Side},
    },
    workload::{
        socket_actions::exchange,
        worker::{Connection, Pair, Worker, bind, bind_within, read_end, transfer},
    },
};

pub(crate) fn refused(worker: &mut Worker<'_>) -> Result<()> {
    let (route, port) = (worker.route(), worker.closed_port()?);
    worker.testbed.move_to(route.client_side())?;
    let connected = TcpStream::connect(worker.testbed.address(route, port));
    ensure!(connected.is_err(), "port {port} has a listener");
    expect_refused(worker, route, port);
    Ok(())
}

pub(crate) fn refused_then_connected(worker: &mut Worker<'_>) -> Result<()> {
    let (route, port) = (worker.route(), worker.closed_port()?);
    let address = worker.testbed.address(route, port);
    worker.testbed.move_to(route.client_side())?;
    let client = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    ensure!(client.connect(&address.into()).is_err(), "port {port} has a listener");
    expect_refused(worker, route, port);

    let of = Connection { route, port: worker.port() };
    let address = worker.testbed.address(route, of.port);
    let listener = worker.listen(address, 16)?;
    client.connect(&address.into()).context("the second connect() failed")?;
    let (mut server, mut client) = (TcpStream::from(listener.accept()?.0), TcpStream::from(client));
    let payload = exchange(worker, &mut server, &mut client)?;
    drop(client);
    read_end(&mut server)?;
    worker.expect_closed(of, "remote", "local", payload);
    Ok(())
}

fn expect_refused(worker: &mut Worker<'_>, route: Route, port: u16) {
    worker.expect_failures(route.client_side(), port, "client", "refused", 1);
    worker.expect_failures(Side::Server, port, "server", "no_listener", 1);
}

pub(crate) fn given_up(worker: &mut Worker<'_>) -> Result<()> {
    let port = worker.port();
    let client = begin(worker, worker.testbed.outside.silent(port))?;
    if worker.rng.u8(..4) > 0 {
        worker.expect_failures(Side::Server, port, "client", "aborted", 1);
    } else {
        // It is not answered, and fails after three seconds.
        worker.failing.push(client);
        worker.expect_failures(Side::Server, port, "client", "timed_out", 1);
    }
    Ok(())
}

pub(crate) fn unreachable(worker: &mut Worker<'_>) -> Result<()> {
    let port = worker.port();
    let (why, reason) = match worker.rng.u8(..3) {
        0 => (Unreachable::Net, "net_unreachable"),
        1 => (Unreachable::Host, "host_unreachable"),
        _ => (Unreachable::Port, "refused"),
    };
    let client = begin(worker, worker.testbed.outside.unreachable(why, port))?;
    worker.expect_failures(Side::Server, port, "client", reason, 1);
    if why == Unreachable::Port {
        worker.expect_note(Side::Server, REFUSED_BY_ICMP, 1);
    }
    await_closed(&client)
}

/// connect() that does not block, from the server's side.
pub(crate) fn begin(worker: &mut Worker<'_>, address: SocketAddr) -> Result<Socket> {
    let client = worker.client(Side::Server, address)?;
    let begun = client.connect(&address.into());
    ensure!(
        begun.as_ref().is_err_and(|error| error.raw_os_error() == Some(EINPROGRESS)),
        "connect() to {address}: {begun:?}"
    );
    Ok(client)
}

/// The server's end is in TIME_WAIT when a client connects from the same port.
pub(crate) fn port_reused(worker: &mut Worker<'_>) -> Result<()> {
    let Pair { mut server, mut client, of } = worker.connect()?;
    let payload = exchange(worker, &mut server, &mut client)?;
    let from = client.local_addr()?;
    drop(server);
    read_end(&mut client)?;
    drop(client);
    worker.expect_closed(of, "local", "remote", payload);
    worker.testbed.namespace(Side::Server).await_sockets(of.port, "TIME_WAIT", |rows| {
        rows.iter().all(|row| row.remote != from || row.state == "time_wait")
    })?;

    let address = worker.testbed.address(of.route, of.port);
    let listener = worker.listen(address, 16)?;
    worker.testbed.move_to(of.route.client_side())?;
    let client = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    client.set_reuse_address(true)?;
    if !bind_within(&client, from, PORT_WAIT)? {
        return Ok(());
    }
    match client.connect(&address.into()) {
        Ok(()) => {}
        // In the same namespace, the kernel keeps a port for its TIME_WAIT.
        Err(error) if error.raw_os_error() == Some(EADDRNOTAVAIL) => {
            worker.expect_failures(of.route.client_side(), of.port, "client", "aborted", 1);
            worker.expect_note(of.route.client_side(), NO_SYN, 1);
            return Ok(());
        }
        Err(error) => return Err(error).context("a port cannot be reused"),
    }
    let (mut server, mut client) = (TcpStream::from(listener.accept()?.0), TcpStream::from(client));
    let payload = exchange(worker, &mut server, &mut client)?;
    drop(client);
    read_end(&mut server)?;
    worker.expect_closed(of, "remote", "local", payload);
    Ok(())
}

/// A simultaneous open and, after it, a simultaneous close.
pub(crate) fn connects_to_itself(worker: &mut Worker<'_>) -> Result<()> {
    let route = if worker.rng.bool() { Route::LoopbackV4 } else { Route::LoopbackV6 };
    let port = worker.port();
    let address = worker.testbed.address(route, port);
    worker.testbed.move_to(Side::Server)?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    bind(&socket, address)?;
    if let Err(error) = socket.connect(&address.into()) {
        // It did so before, and is in TIME_WAIT.
        ensure!(error.raw_os_error() == Some(EADDRNOTAVAIL), "connect() to {address}: {error}");
        worker.expect_failures(Side::Server, port, "client", "aborted", 1);
        worker.expect_note(Side::Server, NO_SYN, 1);
        return Ok(());
    }
    let (mut writer, mut reader) = (TcpStream::from(socket.try_clone()?), TcpStream::from(socket));
    let count = worker.rng.usize(..2000);
    transfer(&mut writer, &mut reader, count)?;
    worker.expect_end(Side::Server, port, ("client", "both"), (count, count));
    Ok(())
}

/// Waits until connect() failed. An ICMP error that arrives while the socket is locked is only
/// noted; the kernel then waits for another.
fn await_closed(socket: &Socket) -> Result<()> {
    let deadline = Deadline::new();
    loop {
        let mut state = [PollFd::new(socket, PollFlags::OUT)];
        poll(&mut state, Some(&Timespec::try_from(STALLED)?))?;
        if state[0].revents().contains(PollFlags::HUP) {
            return Ok(());
        }
        deadline.check().context("waited for the end of connect()")?;
        thread::sleep(Duration::from_millis(5));
    }
}

/// A note for identities: connect() failed before a SYN was sent.
pub(crate) const NO_SYN: &str = "no SYN left";
/// It was refused by an ICMP error, not by a RST.
pub(crate) const REFUSED_BY_ICMP: &str = "refused by ICMP";

/// Another connection may have the port as its ephemeral port, for long.
const PORT_WAIT: Duration = Duration::from_millis(500);
const EADDRNOTAVAIL: i32 = 99;
const EINPROGRESS: i32 = 115;
