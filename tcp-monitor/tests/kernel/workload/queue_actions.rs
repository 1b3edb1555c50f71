//! Actions with outside hosts while the accept queue or the request queue is full, and with SYN
//! cookies.

use std::net::TcpStream;

use anyhow::{Result, ensure};
use socket2::Socket;

use crate::{
    support::{
        outside_host::OutsideHost,
        packet_builder::{ACK, Segment},
        socket_table::canonical,
        testbed::Side,
    },
    workload::{
        outside_host_actions::COOKIES_WHILE_FULL,
        worker::{Payload, Worker, read_end},
    },
};

/// Half-open connections whose handshake ACK arrives while the accept queue is full.
pub(crate) fn full_at_handshake_ack(worker: &mut Worker<'_>) -> Result<()> {
    let port = worker.port();
    let backlog = worker.rng.u8(2..6);
    let listener = worker.listen_to_outside(port, backlog.into())?;
    // The request queue is as long as the accept queue, which takes one more connection.
    let mut late = Vec::new();
    for _ in 0..worker.rng.u8(1..backlog) {
        let mut host = worker.new_host(port);
        host.open()?;
        late.push(host);
    }
    let mut queued = fill_accept_queue(worker, port, backlog)?;
    for mut host in late {
        host.acknowledge();
        if worker.settings.abort_on_overflow {
            host.await_rst()?;
            worker.expect_failures(Side::Server, port, "server", "accept_queue_full", 1);
            continue;
        }
        for _ in 0..worker.rng.u8(..3) {
            host.acknowledge();
        }
        match worker.rng.u8(..4) {
            0 => {
                host.rst();
                worker.expect_failures(Side::Server, port, "server", "accept_queue_full", 1);
            }
            1 => worker.expect_failures(Side::Server, port, "server", "accept_queue_full", 1),
            2 => {
                let first = queued.remove(0);
                end(worker, accept(&listener)?, first, port)?;
                host.acknowledge();
                queued.push(host);
            }
            _ => {
                // Its FIN is dropped too.
                host.fin();
                let first = queued.remove(0);
                end(worker, accept(&listener)?, first, port)?;
                host.seq = host.seq.wrapping_sub(1);
                host.acknowledge();
                queued.push(host);
            }
        }
    }
    drain_accept_queue(worker, &listener, queued, port)?;
    // Without the listener, a half-open connection is removed when its SYN-ACK should be
    // retransmitted.
    drop(listener);
    Ok(())
}

pub(crate) fn full_at_syn(worker: &mut Worker<'_>) -> Result<()> {
    let port = worker.port();
    let backlog = worker.rng.u8(1..4);
    let listener = worker.listen_to_outside(port, backlog.into())?;
    let mut queued = fill_accept_queue(worker, port, backlog)?;
    for _ in 0..worker.rng.u8(1..4) {
        let mut host = worker.new_host(port);
        for _ in 0..worker.rng.u8(1..3) {
            host.syn();
            worker.expect_failures(Side::Server, port, "server", "accept_queue_full", 1);
        }
        if worker.rng.bool() {
            let first = queued.remove(0);
            end(worker, accept(&listener)?, first, port)?;
            host.open()?;
            host.acknowledge();
            queued.push(host);
        }
    }
    drain_accept_queue(worker, &listener, queued, port)
}

pub(crate) fn full_request_queue(worker: &mut Worker<'_>) -> Result<()> {
    let port = worker.port();
    let backlog = worker.rng.u8(1..4);
    let listener = worker.listen_to_outside(port, backlog.into())?;
    let mut requests = Vec::new();
    for _ in 0..usize::from(backlog) + worker.testbed.spare_requests {
        let mut host = worker.new_host(port);
        host.open()?;
        requests.push(host);
    }
    for _ in 0..worker.rng.u8(1..3) {
        let mut host = worker.new_host(port);
        if worker.settings.syncookies == 0 {
            host.syn();
            worker.expect_failures(Side::Server, port, "server", "syn_dropped", 1);
        } else {
            answer_with_cookie(worker, &mut host, &listener, port)?;
        }
    }
    for host in requests {
        host.rst();
        worker.expect_failures(Side::Server, port, "server", "reset", 1);
    }
    Ok(())
}

pub(crate) fn cookies(worker: &mut Worker<'_>) -> Result<()> {
    let port = worker.port();
    let listener = worker.listen_to_outside(port, 16)?;
    let mut host = worker.new_host(port);
    answer_with_cookie(worker, &mut host, &listener, port)
}

/// A SYN that is answered with a cookie, and then one of the segments that may follow.
fn answer_with_cookie(
    worker: &mut Worker<'_>,
    host: &mut OutsideHost<'_>,
    listener: &Socket,
    port: u16,
) -> Result<()> {
    host.open()?;
    match worker.rng.u8(..3) {
        0 => Ok(()),
        1 => {
            host.send(Segment::new(ACK, host.seq, host.ack.wrapping_add(1 << 20)));
            host.await_rst()?;
            Ok(())
        }
        _ => {
            host.acknowledge();
            end_with(worker, accept(listener)?, host, port)
        }
    }
}

pub(crate) fn cookies_while_full(worker: &mut Worker<'_>) -> Result<()> {
    let port = worker.port();
    let backlog = worker.rng.u8(1..4);
    let listener = worker.listen_to_outside(port, backlog.into())?;
    let mut host = worker.new_host(port);
    host.open()?;
    let mut queued = fill_accept_queue(worker, port, backlog)?;
    for _ in 0..worker.rng.u8(1..4) {
        // The cookie is valid and counted by the kernel, and the ACK dropped.
        host.acknowledge();
        worker.expect_note(Side::Server, COOKIES_WHILE_FULL, 1);
    }
    if worker.rng.bool() {
        let first = queued.remove(0);
        end(worker, accept(&listener)?, first, port)?;
        host.acknowledge();
        queued.push(host);
    }
    drain_accept_queue(worker, &listener, queued, port)
}

/// Opens connections until the accept queue is full.
pub(crate) fn fill_accept_queue<'a>(
    worker: &mut Worker<'a>,
    port: u16,
    backlog: u8,
) -> Result<Vec<OutsideHost<'a>>> {
    let mut queued = Vec::new();
    for _ in 0..=backlog {
        let mut host = worker.new_host(port);
        host.open()?;
        host.acknowledge();
        queued.push(host);
    }
    Ok(queued)
}

/// Accepts and ends some of the connections in an accept queue, in order. The rest ends with the
/// listener.
pub(crate) fn drain_accept_queue(
    worker: &mut Worker<'_>,
    listener: &Socket,
    queued: Vec<OutsideHost<'_>>,
    port: u16,
) -> Result<()> {
    let accepted = worker.rng.usize(..=queued.len());
    for (i, host) in queued.into_iter().enumerate() {
        if i < accepted {
            end(worker, accept(listener)?, host, port)?;
        } else {
            worker.expect_server_closed(port, "local_reset", Payload::default());
        }
    }
    Ok(())
}

/// The outside host closes first.
fn end(worker: &mut Worker<'_>, server: TcpStream, mut host: OutsideHost<'_>, port: u16) -> Result<()> {
    end_with(worker, server, &mut host, port)
}

fn end_with(
    worker: &mut Worker<'_>,
    mut server: TcpStream,
    host: &mut OutsideHost<'_>,
    port: u16,
) -> Result<()> {
    let from = server.peer_addr()?;
    ensure!(canonical(from) == host.address(), "{from} was accepted, not {}", host.address());
    host.fin();
    read_end(&mut server)?;
    drop(server);
    host.await_fin()?;
    host.acknowledge();
    worker.expect_server_closed(port, "remote", Payload::default());
    Ok(())
}

fn accept(listener: &Socket) -> Result<TcpStream> {
    Ok(listener.accept()?.0.into())
}
