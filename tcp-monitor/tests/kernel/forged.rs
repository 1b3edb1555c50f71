//! Connections of which one end is a stranger: what no two kernels do to each other, each with what it must count as.

use std::{
    io::{Read, Write},
    mem,
    net::{Shutdown, TcpStream},
    time::Duration,
};

use anyhow::Result;
use socket2::SockRef;

use crate::{
    actor::{Act, Actor, Payload, read_end},
    forge::{ACK, FIN, RST, SYN, Segment},
    queues::{
        cookies, cookies_while_full, empty, fill, full_at_the_last_ack, full_at_the_syn, full_of_requests,
    },
    stage::Side,
    stranger::Stranger,
};

/// How often each is done, by weight, and with which of `net.ipv4.tcp_syncookies`.
pub(crate) const FORGED: &[(u32, &str, Cookies, Act)] = &[
    (3, "a SYN-ACK is not answered", Cookies::NotAlways, silence),
    (3, "a SYN-ACK is answered with a RST", Cookies::NotAlways, rst_answers_syn_ack),
    (2, "a SYN-ACK is answered with another SYN", Cookies::NotAlways, syn_answers_syn_ack),
    (2, "a SYN comes twice", Cookies::NotAlways, syn_twice),
    (2, "a SYN-ACK is answered with a wrong ACK", Cookies::NotAlways, wrong_ack),
    (2, "segments that no connection begins with", Cookies::Any, odd_segments),
    (3, "FINs cross", Cookies::Any, fins_cross),
    (2, "a RST comes in CLOSING", Cookies::Any, rst_in_closing),
    (2, "a RST comes in LAST_ACK", Cookies::Any, rst_in_last_ack),
    (2, "a RST comes in CLOSE_WAIT", Cookies::Any, rst_in_close_wait),
    (2, "a RST comes in FIN_WAIT1", Cookies::Any, rst_in_fin_wait1),
    (2, "a RST comes in FIN_WAIT2", Cookies::Any, rst_in_fin_wait2),
    (2, "a RST comes in TIME_WAIT", Cookies::Any, rst_in_time_wait),
    (2, "a RST comes that is out of window", Cookies::Any, rst_out_of_window),
    (2, "a FIN comes with data", Cookies::Any, fin_with_data),
    (2, "data comes after close() before the FIN is acknowledged", Cookies::Any, data_after_close),
    (2, "TIME_WAIT is ended by a SYN", Cookies::Any, syn_in_time_wait),
    (
        2,
        "TIME_WAIT is ended by a SYN while the accept queue is full",
        Cookies::Any,
        syn_in_time_wait_while_full,
    ),
    (1, "data is not acknowledged any more", Cookies::Any, data_unacknowledged),
    (1, "a FIN is not acknowledged", Cookies::Any, fin_unacknowledged),
    (4, "the accept queue is full at the last ACK", Cookies::NotAlways, full_at_the_last_ack),
    (3, "the accept queue is full at the SYN", Cookies::Any, full_at_the_syn),
    (3, "the request queue is full", Cookies::NotAlways, full_of_requests),
    (3, "SYN cookies", Cookies::Always, cookies),
    (2, "SYN cookies while the accept queue is full", Cookies::Always, cookies_while_full),
];

/// Settings that an act is possible with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cookies {
    Any,
    /// There are half-open requests.
    NotAlways,
    /// There are none.
    Always,
}

impl Cookies {
    pub(crate) fn allow(self, syncookies: u8) -> bool {
        match self {
            Self::Any => true,
            Self::NotAlways => syncookies < 2,
            Self::Always => syncookies == 2,
        }
    }
}

fn silence(actor: &mut Actor<'_>) -> Result<()> {
    half_open(actor)?;
    fail(actor, "timed_out")
}

fn rst_answers_syn_ack(actor: &mut Actor<'_>) -> Result<()> {
    let stranger = half_open(actor)?;
    match actor.rng.u8(..5) {
        0 => stranger.send(Segment::new(RST, stranger.seq, 0)),
        1 => stranger.rst(),
        2 => {
            stranger.send(Segment::new(RST, stranger.seq.wrapping_sub(1000), 0));
            actor.note(Side::Server, IGNORED_RSTS, 1);
            return fail(actor, "timed_out");
        }
        // Some kernels take what is within the window, some are content with the right sequence number.
        chosen => {
            let segment = if chosen == 3 {
                Segment::new(RST, stranger.seq.wrapping_add(1000), 0)
            } else {
                Segment::new(RST | ACK, stranger.seq, stranger.ack.wrapping_add(7))
            };
            stranger.send(segment);
            let port = actor.waiting_room()?;
            let rows = actor.stage.namespace(Side::Server).sockets(port)?;
            if rows.iter().any(|row| row.remote == stranger.address()) {
                actor.note(Side::Server, IGNORED_RSTS, 1);
                return fail(actor, "timed_out");
            }
        }
    }
    fail(actor, "reset")
}

fn syn_answers_syn_ack(actor: &mut Actor<'_>) -> Result<()> {
    let stranger = half_open(actor)?;
    if actor.rng.bool() {
        stranger.send(Segment::new(SYN, stranger.seq.wrapping_add(500), 0));
        stranger.await_rst()?;
        actor.note(Side::Server, RESET_BY_SYN, 1);
        fail(actor, "reset")
    } else {
        // Out of window: it is told so, and the request stays.
        stranger.send(Segment::new(SYN, stranger.seq.wrapping_sub(500), 0));
        stranger.await_segment("an ACK", |segment| segment.flags == ACK)?;
        fail(actor, "timed_out")
    }
}

fn syn_twice(actor: &mut Actor<'_>) -> Result<()> {
    let mut stranger = half_open(actor)?;
    stranger.seq = stranger.seq.wrapping_sub(1);
    stranger.open()?;
    stranger.rst();
    fail(actor, "reset")
}

fn wrong_ack(actor: &mut Actor<'_>) -> Result<()> {
    let stranger = half_open(actor)?;
    stranger.send(Segment::new(ACK, stranger.seq, stranger.ack.wrapping_add(1)));
    stranger.await_rst()?;
    fail(actor, "timed_out")
}

/// A request in the waiting room.
fn half_open<'a>(actor: &mut Actor<'a>) -> Result<Stranger<'a>> {
    let port = actor.waiting_room()?;
    let mut stranger = actor.meet(port);
    stranger.open()?;
    Ok(stranger)
}

/// Enters what became of a request in the waiting room.
fn fail(actor: &mut Actor<'_>, reason: &str) -> Result<()> {
    let port = actor.waiting_room()?;
    actor.book_failures(Side::Server, port, "server", reason, 1);
    Ok(())
}

fn odd_segments(actor: &mut Actor<'_>) -> Result<()> {
    let port = actor.waiting_room()?;
    let stranger = actor.meet(port);
    for flags in [0, FIN, SYN | FIN, SYN | RST, RST, RST | ACK, SYN | RST | FIN] {
        stranger.send(Segment::new(flags, actor.rng.u32(..), actor.rng.u32(..)));
    }
    for flags in [ACK, SYN | ACK, FIN | ACK] {
        stranger.send(Segment::new(flags, actor.rng.u32(..), actor.rng.u32(..)));
        stranger.await_rst()?;
    }
    let port = actor.closed_port()?;
    let stranger = actor.meet(port);
    for flags in [FIN, ACK, SYN | ACK] {
        stranger.send(Segment::new(flags, actor.rng.u32(..), actor.rng.u32(..)));
        stranger.await_rst()?;
    }
    stranger.syn();
    stranger.await_rst()?;
    actor.book_failures(Side::Server, port, "server", "no_listener", 1);
    Ok(())
}

fn fins_cross(actor: &mut Actor<'_>) -> Result<()> {
    let (_server, stranger, port) = closing(actor)?;
    stranger.acknowledge();
    actor.book_server(port, "both", Payload::default());
    Ok(())
}

fn rst_in_closing(actor: &mut Actor<'_>) -> Result<()> {
    let (_server, stranger, port) = closing(actor)?;
    stranger.rst();
    actor.book_server(port, "remote_reset", Payload::default());
    Ok(())
}

/// The server's socket is in CLOSING, its FIN not acknowledged.
fn closing<'a>(actor: &mut Actor<'a>) -> Result<(Option<TcpStream>, Stranger<'a>, u16)> {
    let (server, mut stranger, port) = actor.receive()?;
    let server = close(actor, server)?;
    // Acknowledges what came before the FIN.
    let before = stranger.ack;
    stranger.await_fin()?;
    let after = mem::replace(&mut stranger.ack, before);
    stranger.fin();
    stranger.await_acknowledgement()?;
    stranger.ack = after;
    Ok((server, stranger, port))
}

/// Sends a FIN, by close() or by shutdown().
fn close(actor: &mut Actor<'_>, server: TcpStream) -> Result<Option<TcpStream>> {
    if actor.rng.bool() {
        return Ok(None);
    }
    server.shutdown(Shutdown::Write)?;
    Ok(Some(server))
}

fn rst_in_last_ack(actor: &mut Actor<'_>) -> Result<()> {
    let (mut server, mut stranger, port) = actor.receive()?;
    stranger.fin();
    read_end(&mut server)?;
    let _server = close(actor, server)?;
    stranger.await_fin()?;
    stranger.rst();
    actor.book_server(port, "remote_reset", Payload::default());
    Ok(())
}

fn rst_in_close_wait(actor: &mut Actor<'_>) -> Result<()> {
    let (mut server, mut stranger, port) = actor.receive()?;
    stranger.fin();
    read_end(&mut server)?;
    stranger.rst();
    actor.book_server(port, "remote_reset", Payload::default());
    Ok(())
}

fn rst_in_fin_wait1(actor: &mut Actor<'_>) -> Result<()> {
    let (server, mut stranger, port) = actor.receive()?;
    let how = if actor.rng.bool() { Shutdown::Write } else { Shutdown::Both };
    server.shutdown(how)?;
    let before = stranger.ack;
    stranger.await_fin()?;
    stranger.send(Segment::new(RST | ACK, stranger.seq, before));
    actor.book_server(port, "remote_reset", Payload::default());
    Ok(())
}

fn rst_in_fin_wait2(actor: &mut Actor<'_>) -> Result<()> {
    let (server, mut stranger, port) = actor.receive()?;
    if actor.rng.bool() {
        // Then a minisocket takes over, and the connection counts as closed.
        drop(server);
        stranger.await_fin()?;
        stranger.acknowledge();
        stranger.rst();
        actor.note(Side::Server, RESET_AFTER_CLOSE, 1);
        actor.book_server(port, "local", Payload::default());
        return Ok(());
    }
    let how = if actor.rng.bool() { Shutdown::Write } else { Shutdown::Both };
    server.shutdown(how)?;
    stranger.await_fin()?;
    stranger.acknowledge();
    stranger.rst();
    actor.book_server(port, "remote_reset", Payload::default());
    Ok(())
}

fn rst_in_time_wait(actor: &mut Actor<'_>) -> Result<()> {
    let (stranger, port) = time_wait(actor)?;
    stranger.rst();
    actor.book_server(port, "local", Payload::default());
    Ok(())
}

/// The server's end is in TIME_WAIT.
fn time_wait<'a>(actor: &mut Actor<'a>) -> Result<(Stranger<'a>, u16)> {
    let (server, mut stranger, port) = actor.receive()?;
    drop(server);
    stranger.await_fin()?;
    stranger.fin();
    stranger.await_acknowledgement()?;
    Ok((stranger, port))
}

fn rst_out_of_window(actor: &mut Actor<'_>) -> Result<()> {
    let (mut server, mut stranger, port) = actor.receive()?;
    stranger.send(Segment::new(RST, stranger.seq.wrapping_sub(100_000), 0));
    // In the window, but not what is expected next: the kernel wants to hear it again (RFC 5961).
    stranger.send(Segment::new(RST, stranger.seq.wrapping_add(100), 0));
    actor.note(Side::Server, IGNORED_RSTS, 2);
    stranger.send(Segment::new(SYN, stranger.seq.wrapping_add(100), 0));
    let count = actor.rng.usize(1..100);
    stranger.data(count);
    stranger.fin();
    let mut unread = vec![0; count];
    server.read_exact(&mut unread)?;
    read_end(&mut server)?;
    drop(server);
    stranger.await_fin()?;
    stranger.acknowledge();
    actor.book_server(port, "remote", Payload { to_server: count, to_client: 0 });
    Ok(())
}

fn fin_with_data(actor: &mut Actor<'_>) -> Result<()> {
    let (mut server, mut stranger, port) = actor.receive()?;
    let count = actor.rng.usize(1..100);
    stranger.send(Segment { flags: FIN | ACK, seq: stranger.seq, ack: stranger.ack, len: count });
    stranger.seq = stranger.seq.wrapping_add(count as u32 + 1);
    let mut unread = vec![0; count];
    server.read_exact(&mut unread)?;
    read_end(&mut server)?;
    drop(server);
    stranger.await_fin()?;
    stranger.acknowledge();
    actor.book_server(port, "remote", Payload { to_server: count, to_client: 0 });
    Ok(())
}

fn data_after_close(actor: &mut Actor<'_>) -> Result<()> {
    let (server, mut stranger, port) = actor.receive()?;
    drop(server);
    let before = stranger.ack;
    stranger.await_fin()?;
    stranger.ack = before;
    stranger.data(10);
    stranger.await_rst()?;
    actor.book_server(port, "local_reset", Payload::default());
    Ok(())
}

fn syn_in_time_wait(actor: &mut Actor<'_>) -> Result<()> {
    let (mut stranger, port) = time_wait(actor)?;
    actor.book_server(port, "local", Payload::default());
    let listener = actor.listen_to_strangers(port, 16)?;
    stranger.seq = stranger.seq.wrapping_add(1_000);
    stranger.open()?;
    stranger.acknowledge();
    let (server, _) = listener.accept()?;
    let mut server = TcpStream::from(server);
    stranger.fin();
    read_end(&mut server)?;
    drop(server);
    stranger.await_fin()?;
    stranger.acknowledge();
    actor.book_server(port, "remote", Payload::default());
    Ok(())
}

fn syn_in_time_wait_while_full(actor: &mut Actor<'_>) -> Result<()> {
    let (mut waiting, port) = time_wait(actor)?;
    actor.book_server(port, "local", Payload::default());
    let listener = actor.listen_to_strangers(port, 1)?;
    let queued = fill(actor, port, 1)?;
    // One that is older than the connection is answered by TIME_WAIT itself.
    waiting.send(Segment::new(SYN, waiting.seq.wrapping_sub(5_000), 0));
    waiting.seq = waiting.seq.wrapping_add(1_000);
    waiting.syn();
    actor.book_failures(Side::Server, port, "server", "accept_queue_full", 1);
    empty(actor, &listener, queued, port)
}

fn data_unacknowledged(actor: &mut Actor<'_>) -> Result<()> {
    let (server, stranger, port) = actor.receive()?;
    SockRef::from(&server).set_tcp_user_timeout(Some(Duration::from_millis(100)))?;
    (&server).write_all(b"hello")?;
    stranger.await_segment("data", |segment| segment.len > 0)?;
    actor.book_server(port, "timed_out", Payload::default());
    actor.dying.push(server.into());
    Ok(())
}

fn fin_unacknowledged(actor: &mut Actor<'_>) -> Result<()> {
    let (mut server, mut stranger, port) = actor.receive()?;
    if actor.rng.bool() {
        stranger.fin();
        read_end(&mut server)?;
    }
    drop(server);
    actor.book_server(port, "timed_out", Payload::default());
    Ok(())
}

/// Notes in the ledger: a SYN ended a request.
pub(crate) const RESET_BY_SYN: &str = "reset by a SYN";
/// A minisocket was reset while it awaited the peer's FIN.
pub(crate) const RESET_AFTER_CLOSE: &str = "reset after close";
/// A RST was not what the connection or request expects next.
pub(crate) const IGNORED_RSTS: &str = "ignored RSTs";
/// A good cookie came while the accept queue was full.
pub(crate) const COOKIES_WHILE_FULL: &str = "cookies while full";
