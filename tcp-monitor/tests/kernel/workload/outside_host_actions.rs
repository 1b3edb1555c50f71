//! Actions of which one end is an outside host: sequences of segments that two kernels do not
//! produce, and how each must be counted.

use std::{
    io::{Read, Write},
    mem,
    net::{Shutdown, TcpStream},
    time::Duration,
};

use anyhow::Result;
use socket2::SockRef;

use crate::{
    support::{
        outside_host::OutsideHost,
        packet_builder::{ACK, FIN, RST, SYN, Segment},
        testbed::Side,
    },
    workload::{
        queue_actions::{
            cookies, cookies_while_full, drain_accept_queue, fill_accept_queue, full_at_handshake_ack,
            full_at_syn, full_request_queue,
        },
        worker::{Action, Payload, Worker, read_end},
    },
};

/// Weight in the draw, name, for which values of `net.ipv4.tcp_syncookies`, and function.
pub(crate) const OUTSIDE_HOST_ACTIONS: &[(u32, &str, Cookies, Action)] = &[
    (3, "a SYN-ACK is not answered", Cookies::NotAlways, unanswered_syn_ack),
    (3, "a SYN-ACK is answered with a RST", Cookies::NotAlways, rst_answers_syn_ack),
    (2, "a SYN-ACK is answered with another SYN", Cookies::NotAlways, syn_answers_syn_ack),
    (2, "a SYN is received twice", Cookies::NotAlways, syn_twice),
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
    (1, "data is not acknowledged", Cookies::Any, data_unacknowledged),
    (1, "a FIN is not acknowledged", Cookies::Any, fin_unacknowledged),
    (4, "the accept queue is full at the handshake ACK", Cookies::NotAlways, full_at_handshake_ack),
    (3, "the accept queue is full at the SYN", Cookies::Any, full_at_syn),
    (3, "the request queue is full", Cookies::NotAlways, full_request_queue),
    (3, "SYN cookies", Cookies::Always, cookies),
    (2, "SYN cookies while the accept queue is full", Cookies::Always, cookies_while_full),
];

/// Values of `net.ipv4.tcp_syncookies` for which an action is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cookies {
    Any,
    /// Those with half-open connections.
    NotAlways,
    /// That without.
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

fn unanswered_syn_ack(worker: &mut Worker<'_>) -> Result<()> {
    half_open(worker)?;
    fail(worker, "timed_out")
}

fn rst_answers_syn_ack(worker: &mut Worker<'_>) -> Result<()> {
    let host = half_open(worker)?;
    match worker.rng.u8(..5) {
        0 => host.send(Segment::new(RST, host.seq, 0)),
        1 => host.rst(),
        2 => {
            host.send(Segment::new(RST, host.seq.wrapping_sub(1000), 0));
            worker.expect_note(Side::Server, IGNORED_RSTS, 1);
            return fail(worker, "timed_out");
        }
        // Some kernels accept any sequence number in the window, some accept any acknowledgement
        // number.
        chosen => {
            let segment = if chosen == 3 {
                Segment::new(RST, host.seq.wrapping_add(1000), 0)
            } else {
                Segment::new(RST | ACK, host.seq, host.ack.wrapping_add(7))
            };
            host.send(segment);
            let port = worker.unaccepted_port()?;
            let rows = worker.testbed.namespace(Side::Server).sockets(port)?;
            if rows.iter().any(|row| row.remote == host.address()) {
                worker.expect_note(Side::Server, IGNORED_RSTS, 1);
                return fail(worker, "timed_out");
            }
        }
    }
    fail(worker, "reset")
}

fn syn_answers_syn_ack(worker: &mut Worker<'_>) -> Result<()> {
    let host = half_open(worker)?;
    if worker.rng.bool() {
        host.send(Segment::new(SYN, host.seq.wrapping_add(500), 0));
        host.await_rst()?;
        worker.expect_note(Side::Server, RESET_BY_SYN, 1);
        fail(worker, "reset")
    } else {
        // Out of window: it is answered with an ACK, and the half-open connection stays.
        host.send(Segment::new(SYN, host.seq.wrapping_sub(500), 0));
        host.await_segment("an ACK", |segment| segment.flags == ACK)?;
        fail(worker, "timed_out")
    }
}

fn syn_twice(worker: &mut Worker<'_>) -> Result<()> {
    let mut host = half_open(worker)?;
    host.seq = host.seq.wrapping_sub(1);
    host.open()?;
    host.rst();
    fail(worker, "reset")
}

fn wrong_ack(worker: &mut Worker<'_>) -> Result<()> {
    let host = half_open(worker)?;
    host.send(Segment::new(ACK, host.seq, host.ack.wrapping_add(1)));
    host.await_rst()?;
    fail(worker, "timed_out")
}

/// A half-open connection of the listener that accepts none.
fn half_open<'a>(worker: &mut Worker<'a>) -> Result<OutsideHost<'a>> {
    let port = worker.unaccepted_port()?;
    let mut host = worker.new_host(port);
    host.open()?;
    Ok(host)
}

/// Notes how that half-open connection failed.
fn fail(worker: &mut Worker<'_>, reason: &str) -> Result<()> {
    let port = worker.unaccepted_port()?;
    worker.expect_failures(Side::Server, port, "server", reason, 1);
    Ok(())
}

fn odd_segments(worker: &mut Worker<'_>) -> Result<()> {
    let port = worker.unaccepted_port()?;
    let host = worker.new_host(port);
    for flags in [0, FIN, SYN | FIN, SYN | RST, RST, RST | ACK, SYN | RST | FIN] {
        host.send(Segment::new(flags, worker.rng.u32(..), worker.rng.u32(..)));
    }
    for flags in [ACK, SYN | ACK, FIN | ACK] {
        host.send(Segment::new(flags, worker.rng.u32(..), worker.rng.u32(..)));
        host.await_rst()?;
    }
    let port = worker.closed_port()?;
    let host = worker.new_host(port);
    for flags in [FIN, ACK, SYN | ACK] {
        host.send(Segment::new(flags, worker.rng.u32(..), worker.rng.u32(..)));
        host.await_rst()?;
    }
    host.syn();
    host.await_rst()?;
    worker.expect_failures(Side::Server, port, "server", "no_listener", 1);
    Ok(())
}

fn fins_cross(worker: &mut Worker<'_>) -> Result<()> {
    let (_server, host, port) = closing(worker)?;
    host.acknowledge();
    worker.expect_server_closed(port, "both", Payload::default());
    Ok(())
}

fn rst_in_closing(worker: &mut Worker<'_>) -> Result<()> {
    let (_server, host, port) = closing(worker)?;
    host.rst();
    worker.expect_server_closed(port, "remote_reset", Payload::default());
    Ok(())
}

/// The server's socket is in CLOSING, its FIN not acknowledged.
fn closing<'a>(worker: &mut Worker<'a>) -> Result<(Option<TcpStream>, OutsideHost<'a>, u16)> {
    let (server, mut host, port) = worker.receive()?;
    let server = close(worker, server)?;
    // The next segment acknowledges what was sent before the FIN.
    let before = host.ack;
    host.await_fin()?;
    let after = mem::replace(&mut host.ack, before);
    host.fin();
    host.await_acknowledgement()?;
    host.ack = after;
    Ok((server, host, port))
}

/// Sends a FIN, by close() or by shutdown().
fn close(worker: &mut Worker<'_>, server: TcpStream) -> Result<Option<TcpStream>> {
    if worker.rng.bool() {
        return Ok(None);
    }
    server.shutdown(Shutdown::Write)?;
    Ok(Some(server))
}

fn rst_in_last_ack(worker: &mut Worker<'_>) -> Result<()> {
    let (mut server, mut host, port) = worker.receive()?;
    host.fin();
    read_end(&mut server)?;
    let _server = close(worker, server)?;
    host.await_fin()?;
    host.rst();
    worker.expect_server_closed(port, "remote_reset", Payload::default());
    Ok(())
}

fn rst_in_close_wait(worker: &mut Worker<'_>) -> Result<()> {
    let (mut server, mut host, port) = worker.receive()?;
    host.fin();
    read_end(&mut server)?;
    host.rst();
    worker.expect_server_closed(port, "remote_reset", Payload::default());
    Ok(())
}

fn rst_in_fin_wait1(worker: &mut Worker<'_>) -> Result<()> {
    let (server, mut host, port) = worker.receive()?;
    let how = if worker.rng.bool() { Shutdown::Write } else { Shutdown::Both };
    server.shutdown(how)?;
    let before = host.ack;
    host.await_fin()?;
    host.send(Segment::new(RST | ACK, host.seq, before));
    worker.expect_server_closed(port, "remote_reset", Payload::default());
    Ok(())
}

fn rst_in_fin_wait2(worker: &mut Worker<'_>) -> Result<()> {
    let (server, mut host, port) = worker.receive()?;
    if worker.rng.bool() {
        // FIN_WAIT2 continues in a timewait socket, and the connection is counted as closed.
        drop(server);
        host.await_fin()?;
        host.acknowledge();
        host.rst();
        worker.expect_note(Side::Server, RESET_AFTER_CLOSE, 1);
        worker.expect_server_closed(port, "local", Payload::default());
        return Ok(());
    }
    let how = if worker.rng.bool() { Shutdown::Write } else { Shutdown::Both };
    server.shutdown(how)?;
    host.await_fin()?;
    host.acknowledge();
    host.rst();
    worker.expect_server_closed(port, "remote_reset", Payload::default());
    Ok(())
}

fn rst_in_time_wait(worker: &mut Worker<'_>) -> Result<()> {
    let (host, port) = time_wait(worker)?;
    host.rst();
    worker.expect_server_closed(port, "local", Payload::default());
    Ok(())
}

/// The server's end is in TIME_WAIT.
fn time_wait<'a>(worker: &mut Worker<'a>) -> Result<(OutsideHost<'a>, u16)> {
    let (server, mut host, port) = worker.receive()?;
    drop(server);
    host.await_fin()?;
    host.fin();
    host.await_acknowledgement()?;
    Ok((host, port))
}

fn rst_out_of_window(worker: &mut Worker<'_>) -> Result<()> {
    let (mut server, mut host, port) = worker.receive()?;
    host.send(Segment::new(RST, host.seq.wrapping_sub(100_000), 0));
    // In the window, but not the next sequence number: answered with a challenge ACK (RFC 5961).
    host.send(Segment::new(RST, host.seq.wrapping_add(100), 0));
    worker.expect_note(Side::Server, IGNORED_RSTS, 2);
    host.send(Segment::new(SYN, host.seq.wrapping_add(100), 0));
    let count = worker.rng.usize(1..100);
    host.data(count);
    host.fin();
    let mut unread = vec![0; count];
    server.read_exact(&mut unread)?;
    read_end(&mut server)?;
    drop(server);
    host.await_fin()?;
    host.acknowledge();
    worker.expect_server_closed(port, "remote", Payload { to_server: count, to_client: 0 });
    Ok(())
}

fn fin_with_data(worker: &mut Worker<'_>) -> Result<()> {
    let (mut server, mut host, port) = worker.receive()?;
    let count = worker.rng.usize(1..100);
    host.send(Segment { flags: FIN | ACK, seq: host.seq, ack: host.ack, len: count });
    host.seq = host.seq.wrapping_add(count as u32 + 1);
    let mut unread = vec![0; count];
    server.read_exact(&mut unread)?;
    read_end(&mut server)?;
    drop(server);
    host.await_fin()?;
    host.acknowledge();
    worker.expect_server_closed(port, "remote", Payload { to_server: count, to_client: 0 });
    Ok(())
}

fn data_after_close(worker: &mut Worker<'_>) -> Result<()> {
    let (server, mut host, port) = worker.receive()?;
    drop(server);
    let before = host.ack;
    host.await_fin()?;
    host.ack = before;
    host.data(10);
    host.await_rst()?;
    worker.expect_server_closed(port, "local_reset", Payload::default());
    Ok(())
}

fn syn_in_time_wait(worker: &mut Worker<'_>) -> Result<()> {
    let (mut host, port) = time_wait(worker)?;
    worker.expect_server_closed(port, "local", Payload::default());
    let listener = worker.listen_to_outside(port, 16)?;
    host.seq = host.seq.wrapping_add(1_000);
    host.open()?;
    host.acknowledge();
    let (server, _) = listener.accept()?;
    let mut server = TcpStream::from(server);
    host.fin();
    read_end(&mut server)?;
    drop(server);
    host.await_fin()?;
    host.acknowledge();
    worker.expect_server_closed(port, "remote", Payload::default());
    Ok(())
}

fn syn_in_time_wait_while_full(worker: &mut Worker<'_>) -> Result<()> {
    let (mut waiting, port) = time_wait(worker)?;
    worker.expect_server_closed(port, "local", Payload::default());
    let listener = worker.listen_to_outside(port, 1)?;
    let queued = fill_accept_queue(worker, port, 1)?;
    // A SYN with an older sequence number is answered in TIME_WAIT.
    waiting.send(Segment::new(SYN, waiting.seq.wrapping_sub(5_000), 0));
    waiting.seq = waiting.seq.wrapping_add(1_000);
    waiting.syn();
    worker.expect_failures(Side::Server, port, "server", "accept_queue_full", 1);
    drain_accept_queue(worker, &listener, queued, port)
}

fn data_unacknowledged(worker: &mut Worker<'_>) -> Result<()> {
    let (server, host, port) = worker.receive()?;
    SockRef::from(&server).set_tcp_user_timeout(Some(Duration::from_millis(100)))?;
    (&server).write_all(b"hello")?;
    host.await_segment("data", |segment| segment.len > 0)?;
    worker.expect_server_closed(port, "timed_out", Payload::default());
    worker.failing.push(server.into());
    Ok(())
}

fn fin_unacknowledged(worker: &mut Worker<'_>) -> Result<()> {
    let (mut server, mut host, port) = worker.receive()?;
    if worker.rng.bool() {
        host.fin();
        read_end(&mut server)?;
    }
    drop(server);
    worker.expect_server_closed(port, "timed_out", Payload::default());
    Ok(())
}

/// A note for identities: half-open connections that a SYN ended.
pub(crate) const RESET_BY_SYN: &str = "reset by a SYN";
/// Timewait sockets that were reset in FIN_WAIT2.
pub(crate) const RESET_AFTER_CLOSE: &str = "reset after close";
/// RSTs that were not acceptable.
pub(crate) const IGNORED_RSTS: &str = "ignored RSTs";
/// Valid cookies received while the accept queue was full.
pub(crate) const COOKIES_WHILE_FULL: &str = "cookies while full";
