//! Connections with strangers for which the accept queue or the request queue has no room, or that need none: SYN cookies.

use std::net::TcpStream;

use anyhow::{Result, ensure};
use socket2::Socket;

use crate::{
    actor::{Actor, Payload, read_end},
    forge::{ACK, Segment},
    forged::COOKIES_WHILE_FULL,
    sockets::canonical,
    stage::Side,
    stranger::Stranger,
};

/// What each request comes to whose last ACK the accept queue had no room for.
pub(crate) fn full_at_the_last_ack(actor: &mut Actor<'_>) -> Result<()> {
    let port = actor.port();
    let backlog = actor.rng.u8(2..6);
    let listener = actor.listen_to_strangers(port, backlog.into())?;
    // The request queue is as long as the accept queue, and one more request is needed to fill that.
    let mut late = Vec::new();
    for _ in 0..actor.rng.u8(1..backlog) {
        let mut stranger = actor.meet(port);
        stranger.open()?;
        late.push(stranger);
    }
    let mut queued = fill(actor, port, backlog)?;
    for mut stranger in late {
        stranger.acknowledge();
        if actor.settings.abort_on_overflow {
            stranger.await_rst()?;
            actor.book_failures(Side::Server, port, "server", "accept_queue_full", 1);
            continue;
        }
        for _ in 0..actor.rng.u8(..3) {
            stranger.acknowledge();
        }
        match actor.rng.u8(..4) {
            0 => {
                stranger.rst();
                actor.book_failures(Side::Server, port, "server", "accept_queue_full", 1);
            }
            1 => actor.book_failures(Side::Server, port, "server", "accept_queue_full", 1),
            2 => {
                let first = queued.remove(0);
                end(actor, accept(&listener)?, first, port)?;
                stranger.acknowledge();
                queued.push(stranger);
            }
            _ => {
                // Its FIN finds no room either.
                stranger.fin();
                let first = queued.remove(0);
                end(actor, accept(&listener)?, first, port)?;
                stranger.seq = stranger.seq.wrapping_sub(1);
                stranger.acknowledge();
                queued.push(stranger);
            }
        }
    }
    empty(actor, &listener, queued, port)?;
    // A request that is still there is given up when its SYN-ACK should be sent again.
    drop(listener);
    Ok(())
}

pub(crate) fn full_at_the_syn(actor: &mut Actor<'_>) -> Result<()> {
    let port = actor.port();
    let backlog = actor.rng.u8(1..4);
    let listener = actor.listen_to_strangers(port, backlog.into())?;
    let mut queued = fill(actor, port, backlog)?;
    for _ in 0..actor.rng.u8(1..4) {
        let mut stranger = actor.meet(port);
        for _ in 0..actor.rng.u8(1..3) {
            stranger.syn();
            actor.book_failures(Side::Server, port, "server", "accept_queue_full", 1);
        }
        if actor.rng.bool() {
            let first = queued.remove(0);
            end(actor, accept(&listener)?, first, port)?;
            stranger.open()?;
            stranger.acknowledge();
            queued.push(stranger);
        }
    }
    empty(actor, &listener, queued, port)
}

pub(crate) fn full_of_requests(actor: &mut Actor<'_>) -> Result<()> {
    let port = actor.port();
    let backlog = actor.rng.u8(1..4);
    let listener = actor.listen_to_strangers(port, backlog.into())?;
    let mut requests = Vec::new();
    for _ in 0..usize::from(backlog) + actor.stage.spare_requests {
        let mut stranger = actor.meet(port);
        stranger.open()?;
        requests.push(stranger);
    }
    for _ in 0..actor.rng.u8(1..3) {
        let mut stranger = actor.meet(port);
        if actor.settings.syncookies == 0 {
            stranger.syn();
            actor.book_failures(Side::Server, port, "server", "syn_dropped", 1);
        } else {
            bake(actor, &mut stranger, &listener, port)?;
        }
    }
    for stranger in requests {
        stranger.rst();
        actor.book_failures(Side::Server, port, "server", "reset", 1);
    }
    Ok(())
}

pub(crate) fn cookies(actor: &mut Actor<'_>) -> Result<()> {
    let port = actor.port();
    let listener = actor.listen_to_strangers(port, 16)?;
    let mut stranger = actor.meet(port);
    bake(actor, &mut stranger, &listener, port)
}

/// A SYN that is answered with a cookie, and what may follow.
fn bake(actor: &mut Actor<'_>, stranger: &mut Stranger<'_>, listener: &Socket, port: u16) -> Result<()> {
    stranger.open()?;
    match actor.rng.u8(..3) {
        0 => Ok(()),
        1 => {
            stranger.send(Segment::new(ACK, stranger.seq, stranger.ack.wrapping_add(1 << 20)));
            stranger.await_rst()?;
            Ok(())
        }
        _ => {
            stranger.acknowledge();
            end_with(actor, accept(listener)?, stranger, port)
        }
    }
}

pub(crate) fn cookies_while_full(actor: &mut Actor<'_>) -> Result<()> {
    let port = actor.port();
    let backlog = actor.rng.u8(1..4);
    let listener = actor.listen_to_strangers(port, backlog.into())?;
    let mut stranger = actor.meet(port);
    stranger.open()?;
    let mut queued = fill(actor, port, backlog)?;
    for _ in 0..actor.rng.u8(1..4) {
        // Taken for good, counted by the kernel, and dropped.
        stranger.acknowledge();
        actor.note(Side::Server, COOKIES_WHILE_FULL, 1);
    }
    if actor.rng.bool() {
        let first = queued.remove(0);
        end(actor, accept(&listener)?, first, port)?;
        stranger.acknowledge();
        queued.push(stranger);
    }
    empty(actor, &listener, queued, port)
}

/// Connections until the accept queue is full.
pub(crate) fn fill<'a>(actor: &mut Actor<'a>, port: u16, backlog: u8) -> Result<Vec<Stranger<'a>>> {
    let mut queued = Vec::new();
    for _ in 0..=backlog {
        let mut stranger = actor.meet(port);
        stranger.open()?;
        stranger.acknowledge();
        queued.push(stranger);
    }
    Ok(queued)
}

/// Accepts and ends some of the connections in an accept queue, in order; the rest ends with the listener.
pub(crate) fn empty(
    actor: &mut Actor<'_>,
    listener: &Socket,
    queued: Vec<Stranger<'_>>,
    port: u16,
) -> Result<()> {
    let accepted = actor.rng.usize(..=queued.len());
    for (i, stranger) in queued.into_iter().enumerate() {
        if i < accepted {
            end(actor, accept(listener)?, stranger, port)?;
        } else {
            actor.book_server(port, "local_reset", Payload::default());
        }
    }
    Ok(())
}

/// The stranger closes first.
fn end(actor: &mut Actor<'_>, server: TcpStream, mut stranger: Stranger<'_>, port: u16) -> Result<()> {
    end_with(actor, server, &mut stranger, port)
}

fn end_with(
    actor: &mut Actor<'_>,
    mut server: TcpStream,
    stranger: &mut Stranger<'_>,
    port: u16,
) -> Result<()> {
    let from = server.peer_addr()?;
    ensure!(canonical(from) == stranger.address(), "{from} was accepted, not {}", stranger.address());
    stranger.fin();
    read_end(&mut server)?;
    drop(server);
    stranger.await_fin()?;
    stranger.acknowledge();
    actor.book_server(port, "remote", Payload::default());
    Ok(())
}

fn accept(listener: &Socket) -> Result<TcpStream> {
    Ok(listener.accept()?.0.into())
}
