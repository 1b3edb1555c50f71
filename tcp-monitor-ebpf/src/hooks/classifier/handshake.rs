//! A server's handshakes before there is a socket, as segments show them: requests that half open,
//! and SYNs that fail.
//!
//! The tracepoints begin at the handshake ACK. Before it the kernel reacts at once when a segment
//! is received, on the same CPU. So the classifier looks up what will receive the segment and
//! records what the segment will have come to without a reaction; a reaction cancels that.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_get_socket_cookie};
use tcp_monitor_common::{
    TcpState,
    abi::half_open::{HalfOpen, PendingPort},
    counters::HandshakeFailure,
    record::Role,
    rules::{control::flag::FIN, segment_outcome::SegmentOutcome},
};

use super::ingress::{Ingress, accepts, record};
use crate::{
    kernel::{
        asm::add,
        layout::layout,
        lookup::{
            Listener, Pending, Receiver, Request, Requests, listener, receiver, request_of, timer_has_expired,
        },
        now,
        path::Path,
    },
    output::ports::{Watched, counters_of},
    state::{
        acks::{Awaited, COOKIE},
        half_open::{self, fail},
        pending_ports::{self, consume},
        pending_segments::{self, cancel_syn},
    },
};

/// A SYN was received.
#[inline(always)]
pub(super) fn receive_syn(segment: Ingress<'_>, watched: Watched) {
    // The kernel drops a SYN that is a FIN too.
    if segment.tcp().flags & FIN != 0 || !segment.is_for_this_host() {
        return;
    }
    let Some(pending) = pending_segments::of_this_cpu() else { return };
    // SAFETY: the map's own value, and only this CPU's.
    let at_port = unsafe { pending_ports::entry(pending, segment.tcp().destination_port()) };
    // SAFETY: as above.
    let effects = unsafe { effects(at_port) };
    let outcome = match receiver(segment.skb, segment.segment, effects) {
        Receiver::Listener(listener) => outcome_of_syn(listener),
        Receiver::NoSocket => SegmentOutcome::NoListener,
        Receiver::Request(request) => {
            if ends(request, segment) {
                fail(request.cookie, HandshakeFailure::Reset);
            }
            return;
        }
        Receiver::FinWait2Timewait(rcv_nxt) | Receiver::TimeWait(rcv_nxt) => {
            // A SYN that is newer than the connection begins another, and the request queue has
            // room for it.
            let is_new = segment.tcp().sequence().wrapping_sub(rcv_nxt) as i32 > 0;
            match listener(segment.skb, segment.segment, effects) {
                Some(listener) if is_new && listener.full => SegmentOutcome::SynOverflow,
                Some(_) if is_new => SegmentOutcome::SynAccepted,
                Some(_) | None => return,
            }
        }
        Receiver::RequestWithoutListener => match listener(segment.skb, segment.segment, effects) {
            Some(listener) => outcome_of_syn(listener),
            None => SegmentOutcome::NoListener,
        },
        // A connection that answers itself.
        Receiver::Other => return,
    };
    let role = if matches!(outcome, SegmentOutcome::NoListener) { None } else { Some(Role::Server) };
    if matches!(outcome, SegmentOutcome::SynAccepted) {
        // SAFETY: the map's own value, and only this CPU's.
        unsafe { (*at_port).syns += 1 };
    }
    record(pending, segment, outcome, watched.slot(role), 0);
}

/// What a SYN that is not answered comes to (kernel: `tcp_conn_request`, in its order).
#[inline(always)]
fn outcome_of_syn(listener: Listener) -> SegmentOutcome {
    match (listener.requests, listener.full) {
        (Requests::TooMany, _) | (Requests::PerhapsTooMany, false) => SegmentOutcome::SynDropped,
        (Requests::PerhapsTooMany | Requests::Few, true) => SegmentOutcome::SynOverflow,
        (Requests::Few, false) => SegmentOutcome::SynAccepted,
    }
}

/// A handshake ACK was received: it answers a SYN-ACK of this host.
#[inline(always)]
pub(super) fn receive_handshake_ack(segment: Ingress<'_>, watched: Watched, path: Path, awaited: u8) {
    let number = segment.tcp().acknowledgement();
    if !segment.is_for_this_host() {
        expect_again(path, number, awaited);
        return;
    }
    let Some(pending) = pending_segments::of_this_cpu() else { return };
    // SAFETY: the map's own value, and only this CPU's.
    let at_port = unsafe { pending_ports::entry(pending, segment.tcp().destination_port()) };
    // SAFETY: as above.
    let effects = unsafe { effects(at_port) };
    match receiver(segment.skb, segment.segment, effects) {
        // Not what it waits for; answered without effect.
        Receiver::Request(request) if !accepts(request, segment) => path.expect(number, Awaited::Request),
        // The kernel waits for data, also while the accept queue is full.
        Receiver::Request(request) if request.deferral != 0 && is_bare(request, segment) => {
            if let Some(half_open) = half_open::get(request.cookie) {
                // SAFETY: the map's own value.
                unsafe { (*half_open).deferral = request.deferral };
            }
            path.expect(number, Awaited::Request);
        }
        Receiver::Request(request) if request.full => {
            let slot = match half_open::get(request.cookie) {
                Some(half_open) => {
                    if !request.aborts {
                        // If there is room for it after all, this is not read.
                        // SAFETY: the map's own value.
                        unsafe {
                            (*half_open).overflowed = 1;
                            (*half_open).deferral = request.deferral;
                        }
                    }
                    // SAFETY: as above.
                    unsafe { (*half_open).slot }
                }
                None => watched.slot(Some(Role::Server)),
            };
            if request.aborts {
                record(pending, segment, SegmentOutcome::AckRefused, slot, request.cookie);
            } else {
                record(pending, segment, SegmentOutcome::AckOverflow, slot, request.cookie);
                // The next segment with this number tries again.
                path.expect(number, Awaited::Request);
            }
        }
        // SAFETY: the map's own value, and only this CPU's.
        Receiver::Request(_) => unsafe { (*at_port).acks += 1 },
        Receiver::Listener(listener) if awaited == COOKIE => {
            if listener.full {
                record(pending, segment, SegmentOutcome::AckOverflow, watched.slot(Some(Role::Server)), 0);
                path.expect(number, Awaited::Cookie);
            } else {
                // SAFETY: as above.
                unsafe {
                    (*at_port).acks += 1;
                    (*at_port).cookies += 1;
                }
            }
        }
        // It goes to another namespace of this host.
        Receiver::NoSocket if segment.payload_len == 0 => expect_again(path, number, awaited),
        Receiver::NoSocket
        | Receiver::Listener(_)
        | Receiver::RequestWithoutListener
        | Receiver::FinWait2Timewait(_)
        | Receiver::TimeWait(_)
        | Receiver::Other => {}
    }
}

/// What earlier segments to a port will still do to its queues.
///
/// # Safety
///
/// `at_port` must point into a map value.
#[inline(always)]
unsafe fn effects(at_port: *const PendingPort) -> Pending {
    // SAFETY: by the caller's word.
    unsafe {
        Pending {
            requests: (*at_port).syns,
            completed: (*at_port).acks.saturating_sub((*at_port).cookies),
            children: (*at_port).acks,
        }
    }
}

/// An ACK that another namespace of this host receives is awaited on.
#[inline(always)]
pub(super) fn expect_again(path: Path, number: u32, awaited: u8) {
    if awaited == COOKIE {
        path.expect(number, Awaited::Cookie);
    } else {
        path.expect(number, Awaited::Request);
    }
}

/// A SYN-ACK leaves on `path`. Returns what awaits its ACK, if it is of this host.
#[inline(always)]
pub(super) fn send_syn_ack(
    skb: *mut __sk_buff,
    path: Path,
    watched: Watched,
    netns: u32,
    port: u16,
) -> Option<Awaited> {
    let pending = pending_segments::of_this_cpu()?;
    let now = now();
    // SAFETY: the map's own value, and only this CPU's.
    let answered = unsafe {
        let at_port = pending_ports::find(pending, port, now);
        if !at_port.is_null() {
            consume(&raw mut (*at_port).syns);
        }
        cancel_syn(pending, path, now)
    };
    // SAFETY: the context of a classifier.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        // A SYN cookie: the kernel keeps no request.
        if answered.time == 0 {
            return None;
        }
        if let Some(counters) = counters_of(answered.slot) {
            // SAFETY: the map's own value.
            unsafe { add(&raw mut (*counters).syn_cookies[0], 1) };
        }
        return Some(Awaited::Cookie);
    }
    // SAFETY: not NULL.
    let state = unsafe { (&raw const (*sk).state).read_volatile() };
    // SAFETY: takes the context of a classifier.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    if state != TcpState::NewSynRecv as u32 {
        return None;
    }
    let request = request_of(sk);
    if request.is_null() {
        return None;
    }
    // Without a SYN it is retransmitted, or on a second interface. If the timer has expired, the
    // request is older than the agent, or the table had no room for it.
    if answered.time == 0 && (half_open::syn_ack_retransmitted(cookie, request) || timer_has_expired(request))
    {
        return Some(Awaited::Request);
    }
    let listener = request.load::<u64>(layout!(skc_listener));
    let request = HalfOpen {
        syn_at: if answered.time == 0 { now } else { answered.time },
        syn_ack_at: now,
        listener,
        slot: watched.slot(Some(Role::Server)),
        netns,
        port,
        ..HalfOpen::default()
    };
    half_open::insert(cookie, request);
    Some(Awaited::Request)
}

/// Whether a SYN that is no retransmission ends a request (kernel: `tcp_check_req`).
#[inline(always)]
fn ends(request: Request, segment: Ingress<'_>) -> bool {
    let is_retransmission = segment.tcp().sequence() == request.rcv_nxt.wrapping_sub(1);
    !is_retransmission && accepts(request, segment)
}

/// Whether an ACK carries nothing else (kernel: `tcp_check_req`).
#[inline(always)]
fn is_bare(request: Request, segment: Ingress<'_>) -> bool {
    let tcp = segment.tcp();
    tcp.sequence() == request.rcv_nxt && segment.payload_len == 0 && tcp.flags & FIN == 0
}
