//! Actions between two sockets of this machine, from beginning to end, and how each must be
//! counted.

use std::{
    io::Write,
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

use crate::{
    support::{child_process::output, deadline::STALLED, testbed::Side},
    workload::{
        connect_actions::{
            begin, connects_to_itself, given_up, port_reused, refused, refused_then_connected, unreachable,
        },
        worker::{
            Action, Connection, Pair, Payload, Worker, await_acknowledgement, leave_unread, read_end, reset,
            transfer,
        },
    },
};

/// Weight in the draw, name and function.
pub(crate) const SOCKET_ACTIONS: &[(u32, &str, Action)] = &[
    (6, "the client closes first", client_closes_first),
    (6, "the server closes first", server_closes_first),
    (3, "the client closes its half", client_half_closes),
    (3, "the server closes its half", server_half_closes),
    (3, "the client aborts", client_aborts),
    (3, "the server aborts", server_aborts),
    (2, "the server aborts what the client has half closed", server_aborts_in_close_wait),
    (2, "the client leaves data unread", client_leaves_data_unread),
    (2, "the client leaves data and a FIN unread", client_leaves_fin_unread),
    (2, "data comes after shutdown", data_after_shutdown),
    (2, "both close at once", both_close_at_once),
    (3, "a closed port", refused),
    (2, "a closed port, and an open one by the same socket", refused_then_connected),
    (2, "connect() is given up", given_up),
    (2, "a router reports an unreachable address", unreachable),
    (2, "a port is reused", port_reused),
    (2, "a socket connects to itself", connects_to_itself),
    (2, "a listener closes before it accepts", listener_closes),
    (1, "a socket is destroyed", destroyed),
    (3, "more clients than the accept queue takes", overfull_accept_queue),
];

fn client_closes_first(worker: &mut Worker<'_>) -> Result<()> {
    let Pair { mut server, mut client, of } = worker.connect()?;
    let payload = exchange(worker, &mut server, &mut client)?;
    drop(client);
    read_end(&mut server)?;
    worker.expect_closed(of, "remote", "local", payload);
    Ok(())
}

fn server_closes_first(worker: &mut Worker<'_>) -> Result<()> {
    let Pair { mut server, mut client, of } = worker.connect()?;
    let payload = exchange(worker, &mut server, &mut client)?;
    drop(server);
    read_end(&mut client)?;
    worker.expect_closed(of, "local", "remote", payload);
    Ok(())
}

fn client_half_closes(worker: &mut Worker<'_>) -> Result<()> {
    let Pair { mut server, mut client, of } = worker.connect()?;
    let mut payload = exchange(worker, &mut server, &mut client)?;
    client.shutdown(Shutdown::Write)?;
    read_end(&mut server)?;
    payload.to_client += more(worker, &mut server, &mut client)?;
    drop(server);
    read_end(&mut client)?;
    worker.expect_closed(of, "remote", "local", payload);
    Ok(())
}

fn server_half_closes(worker: &mut Worker<'_>) -> Result<()> {
    let Pair { mut server, mut client, of } = worker.connect()?;
    let mut payload = exchange(worker, &mut server, &mut client)?;
    server.shutdown(Shutdown::Write)?;
    read_end(&mut client)?;
    payload.to_server += more(worker, &mut client, &mut server)?;
    drop(client);
    read_end(&mut server)?;
    worker.expect_closed(of, "local", "remote", payload);
    Ok(())
}

fn client_aborts(worker: &mut Worker<'_>) -> Result<()> {
    let Pair { mut server, mut client, of } = worker.connect()?;
    let payload = exchange(worker, &mut server, &mut client)?;
    reset(client)?;
    worker.expect_closed(of, "remote_reset", "local_reset", payload);
    await_error(&server)
}

fn server_aborts(worker: &mut Worker<'_>) -> Result<()> {
    let Pair { mut server, mut client, of } = worker.connect()?;
    let payload = exchange(worker, &mut server, &mut client)?;
    reset(server)?;
    worker.expect_closed(of, "local_reset", "remote_reset", payload);
    await_error(&client)
}

fn server_aborts_in_close_wait(worker: &mut Worker<'_>) -> Result<()> {
    let Pair { mut server, mut client, of } = worker.connect()?;
    let payload = exchange(worker, &mut server, &mut client)?;
    client.shutdown(Shutdown::Write)?;
    read_end(&mut server)?;
    await_acknowledgement(&client)?;
    reset(server)?;
    worker.expect_closed(of, "local_reset", "remote_reset", payload);
    await_error(&client)
}

fn client_leaves_data_unread(worker: &mut Worker<'_>) -> Result<()> {
    let Pair { mut server, mut client, of } = worker.connect()?;
    let mut payload = exchange(worker, &mut server, &mut client)?;
    let unread = worker.rng.usize(1..500);
    leave_unread(&mut server, unread)?;
    payload.to_client += unread;
    drop(client);
    worker.expect_closed(of, "remote_reset", "local_reset", payload);
    await_error(&server)
}

fn client_leaves_fin_unread(worker: &mut Worker<'_>) -> Result<()> {
    let Pair { mut server, mut client, of } = worker.connect()?;
    let mut payload = exchange(worker, &mut server, &mut client)?;
    let unread = worker.rng.usize(1..500);
    leave_unread(&mut server, unread)?;
    payload.to_client += unread;
    server.shutdown(Shutdown::Write)?;
    await_acknowledgement(&server)?;
    drop(client);
    worker.expect_closed(of, "remote_reset", "local_reset", payload);
    await_error(&server)
}

fn data_after_shutdown(worker: &mut Worker<'_>) -> Result<()> {
    let Pair { mut server, mut client, of } = worker.connect()?;
    let payload = exchange(worker, &mut server, &mut client)?;
    client.shutdown(Shutdown::Both)?;
    await_acknowledgement(&client)?;
    read_end(&mut server)?;
    server.write_all(b"late")?;
    worker.expect_closed(of, "remote_reset", "local_reset", payload);
    await_error(&server)
}

/// Which end closes first depends on timing.
fn both_close_at_once(worker: &mut Worker<'_>) -> Result<()> {
    let of = Connection { route: worker.route(), port: worker.uncounted_port() };
    let Pair { server, client, .. } = worker.connect_at(of)?;
    thread::scope(|scope| {
        scope.spawn(move || drop(client));
        drop(server);
    });
    Ok(())
}

fn listener_closes(worker: &mut Worker<'_>) -> Result<()> {
    let of = Connection { route: worker.route(), port: worker.port() };
    let address = worker.testbed.address(of.route, of.port);
    let listener = worker.listen(address, 16)?;
    let mut clients = Vec::new();
    for _ in 0..worker.rng.u8(1..8) {
        worker.testbed.move_to(of.route.client_side())?;
        let mut client = TcpStream::connect(address)?;
        // It is acknowledged by the child, which is then established.
        leave_unread(&mut client, 10)?;
        if worker.rng.bool() {
            client.shutdown(Shutdown::Write)?;
            await_acknowledgement(&client)?;
        }
        worker.expect_closed(of, "local_reset", "remote_reset", Payload { to_server: 10, to_client: 0 });
        clients.push(client);
    }
    drop(listener);
    clients.iter().try_for_each(await_error)
}

fn destroyed(worker: &mut Worker<'_>) -> Result<()> {
    if worker.rng.bool() {
        let port = worker.port();
        let client = begin(worker, worker.testbed.outside.silent(port))?;
        let from = client.local_addr()?.as_socket().context("no address")?.port();
        destroy(worker, "state syn-sent", &format!("sport = :{from} and dport = :{port}"))?;
        worker.expect_failures(Side::Server, port, "client", "aborted", 1);
        worker.expect_note(Side::Server, DESTROYED_IN_SYN_SENT, 1);
        return await_events(&client, PollFlags::OUT);
    }
    let Pair { mut server, mut client, of } = worker.connect()?;
    let payload = exchange(worker, &mut server, &mut client)?;
    let peer = client.local_addr()?.port();
    if worker.rng.bool() {
        client.shutdown(Shutdown::Write)?;
        read_end(&mut server)?;
        await_acknowledgement(&client)?;
    }
    destroy(worker, "state connected", &format!("sport = :{} and dport = :{peer}", of.port))?;
    worker.expect_closed(of, "killed", "remote_reset", payload);
    await_error(&client)
}

fn destroy(worker: &Worker<'_>, states: &str, filter: &str) -> Result<()> {
    let mut ss = worker.testbed.namespace(Side::Server).command("ss");
    ss.args(["-K", "-tnH"]).args(states.split(' ')).arg(filter);
    let destroyed = output(&mut ss)?;
    ensure!(destroyed.lines().count() == 1, "ss -K destroyed {destroyed:?}");
    Ok(())
}

/// The outcome of each connection depends on timing and on the settings.
fn overfull_accept_queue(worker: &mut Worker<'_>) -> Result<()> {
    let of = Connection { route: worker.route(), port: worker.contended_port() };
    let address = worker.testbed.address(of.route, of.port);
    let backlog = worker.rng.i32(0..3);
    let Some(listener) = worker.try_listen(address, backlog)? else {
        // The last one was kept.
        return Ok(());
    };
    listener.set_nonblocking(true)?;
    let mut clients = Vec::new();
    for _ in 0..worker.rng.usize(2..10) {
        let client = worker.client(of.route.client_side(), address)?;
        // In progress, or refused already.
        let _ = client.connect(&address.into());
        clients.push(client);
    }
    let mut accepted = Vec::new();
    while worker.rng.u8(..3) > 0 {
        match listener.accept() {
            Ok((server, _)) => accepted.push(server),
            Err(_) => break,
        }
    }
    for client in clients {
        match worker.rng.u8(..6) {
            0 => SockRef::from(&client).set_linger(Some(Duration::ZERO))?,
            1 => drop(client.send(b"hello")),
            2 => worker.kept_open.push(client),
            _ => {}
        }
    }
    if worker.rng.bool() {
        worker.kept_open.push(listener);
    }
    Ok(())
}

/// Some payload in both directions.
pub(crate) fn exchange(
    worker: &mut Worker<'_>,
    server: &mut TcpStream,
    client: &mut TcpStream,
) -> Result<Payload> {
    let payload = Payload { to_server: worker.amount(), to_client: worker.amount() };
    transfer(client, server, payload.to_server)?;
    transfer(server, client, payload.to_client)?;
    Ok(payload)
}

fn more(worker: &mut Worker<'_>, from: &mut TcpStream, to: &mut TcpStream) -> Result<usize> {
    let count = worker.amount();
    transfer(from, to, count)?;
    Ok(count)
}

/// Waits for the RST.
fn await_error(stream: &TcpStream) -> Result<()> {
    await_events(stream, PollFlags::empty())
}

/// Waits for an event, or an error.
fn await_events(socket: &impl AsFd, events: PollFlags) -> Result<()> {
    let mut ready = [PollFd::new(socket, events)];
    let ready = poll(&mut ready, Some(&Timespec::try_from(STALLED)?))?;
    ensure!(ready == 1, "the connection did not end");
    Ok(())
}

/// A note for identities: an administrator destroyed the socket before it was connected.
pub(crate) const DESTROYED_IN_SYN_SENT: &str = "destroyed in SYN_SENT";
