//! The server's side of handshakes, as segments show it: requests that half open, and SYNs that come to nothing.
//!
//! The tracepoints begin at the last ACK. What happens before it, the kernel does at once when a segment comes in, on the
//! CPU that it came in on. So the classifier asks beforehand who will receive the segment, notes what it would have come to
//! if nothing followed, and takes the note back when something does. A driver may hand over several segments at a time, each of
//! which passes here before the first takes effect.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    helpers::generated::bpf_get_socket_cookie,
    macros::map,
    maps::{HashMap, LruHashMap},
};
use tcp_monitor_common::{
    TcpState,
    abi::half_open::{AT_ONCE, CLOSED_LISTENERS_LIMIT, HALF_OPEN_LIMIT, HalfOpen, NOTES, Pending},
    counters::{HandshakeFailure, Table},
    record::Role,
    rules::{
        control::flag::{ACK, FIN},
        payload::sequence_space,
        segment_outcome::SegmentOutcome,
    },
};

use crate::{
    acks::{Awaited, COOKIE, Path},
    arrivals::{self, came, take_back, taking_effect},
    fate::{Passing, count_end, count_failure, note},
    instruction::{add, element},
    kernel::{KernelPtr, layout},
    lookup::{
        Awaiting, Listener, Receiver, Request, Requests, answering, has_run_out, listener, receiver, timeouts,
    },
    ports::{Watched, counters_of},
    socket::now,
    tables::forgotten,
};

#[map]
pub(crate) static HALF_OPEN: HashMap<u64, HalfOpen> = HashMap::with_max_entries(HALF_OPEN_LIMIT, 0);

/// When listeners closed, by their address: see [`listener_closes`].
#[map]
static CLOSED_LISTENERS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(CLOSED_LISTENERS_LIMIT, 0);

/// A connection of which no request was kept.
pub(crate) const SYN_COOKIE: u64 = u64::MAX;

/// A SYN comes in.
#[inline(always)]
pub(crate) fn syn_arrives(passing: Passing<'_>, watched: Watched) {
    // The kernel has no use for a SYN that is a FIN too, and drops it.
    if passing.segment.tcp.flags & FIN != 0 || !passing.is_for_this_host() {
        return;
    }
    let Some(arrivals) = arrivals::of_this_cpu() else { return };
    // SAFETY: the map's own value, and only this CPU's.
    let pending = unsafe { arrivals::pending(arrivals, passing.segment.tcp.destination_port()) };
    // SAFETY: as above.
    let awaiting = unsafe { awaiting(pending) };
    let fate = match receiver(passing.skb, passing.segment, awaiting) {
        Receiver::Listener(listener) => fate_of_syn(listener),
        Receiver::Nobody => SegmentOutcome::NoListener,
        Receiver::Request(request) => {
            if ends(request, passing) {
                end(request.cookie, HandshakeFailure::Reset);
            }
            return;
        }
        Receiver::FinWait2Timewait(rcv_nxt) | Receiver::TimeWait(rcv_nxt) => {
            // A SYN that is newer than the connection begins another, and the request queue has room for it.
            let is_new = passing.segment.tcp.sequence().wrapping_sub(rcv_nxt) as i32 > 0;
            match listener(passing.skb, passing.segment, awaiting) {
                Some(listener) if is_new && listener.full => SegmentOutcome::SynOverflow,
                Some(_) if is_new => SegmentOutcome::SynAccepted,
                Some(_) | None => return,
            }
        }
        Receiver::Deserted => match listener(passing.skb, passing.segment, awaiting) {
            Some(listener) => fate_of_syn(listener),
            None => SegmentOutcome::NoListener,
        },
        // A connection that answers by itself.
        Receiver::Other => return,
    };
    let role = if matches!(fate, SegmentOutcome::NoListener) { None } else { Some(Role::Server) };
    if matches!(fate, SegmentOutcome::SynAccepted) {
        // SAFETY: the map's own value, and only this CPU's.
        unsafe { (*pending).syns += 1 };
    }
    note(arrivals, passing, fate, watched.slot(role), 0);
}

/// What a SYN comes to that is not answered (kernel: `tcp_conn_request`, in its order).
#[inline(always)]
fn fate_of_syn(listener: Listener) -> SegmentOutcome {
    match (listener.requests, listener.full) {
        (Requests::TooMany, _) | (Requests::PerhapsTooMany, false) => SegmentOutcome::SynDropped,
        (Requests::PerhapsTooMany | Requests::Few, true) => SegmentOutcome::SynOverflow,
        (Requests::Few, false) => SegmentOutcome::SynAccepted,
    }
}

/// An ACK comes in that answers a SYN-ACK of this host.
#[inline(always)]
pub(crate) fn last_ack_arrives(passing: Passing<'_>, watched: Watched, path: Path, awaited: u8) {
    let number = passing.segment.tcp.acknowledgement();
    if !passing.is_for_this_host() {
        expect_again(path, number, awaited);
        return;
    }
    let Some(arrivals) = arrivals::of_this_cpu() else { return };
    // SAFETY: the map's own value, and only this CPU's.
    let pending = unsafe { arrivals::pending(arrivals, passing.segment.tcp.destination_port()) };
    // SAFETY: as above.
    let awaiting = unsafe { awaiting(pending) };
    match receiver(passing.skb, passing.segment, awaiting) {
        // Not what it waits for, and answered without effect.
        Receiver::Request(request) if !accepts(request, passing) => path.expect(number, Awaited::Request),
        // The kernel goes on to wait for data, whatever the accept queue.
        Receiver::Request(request) if request.deferral != 0 && is_bare(request, passing) => {
            if let Some(half_open) = HALF_OPEN.get_ptr_mut(request.cookie) {
                // SAFETY: the map's own value.
                unsafe { (*half_open).deferral = request.deferral };
            }
            path.expect(number, Awaited::Request);
        }
        Receiver::Request(request) if request.full => {
            let slot = match HALF_OPEN.get_ptr_mut(request.cookie) {
                Some(half_open) => {
                    if !request.aborts {
                        // If there is room for it after all, nobody will ask.
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
                note(arrivals, passing, SegmentOutcome::AckRefused, slot, request.cookie);
            } else {
                note(arrivals, passing, SegmentOutcome::AckOverflow, slot, request.cookie);
                // The next segment with this number tries again.
                path.expect(number, Awaited::Request);
            }
        }
        // SAFETY: the map's own value, and only this CPU's.
        Receiver::Request(_) => unsafe { (*pending).acks += 1 },
        Receiver::Listener(listener) if awaited == COOKIE => {
            if listener.full {
                note(arrivals, passing, SegmentOutcome::AckOverflow, watched.slot(Some(Role::Server)), 0);
                path.expect(number, Awaited::Cookie);
            } else {
                // SAFETY: as above.
                unsafe {
                    (*pending).acks += 1;
                    (*pending).cookies += 1;
                }
            }
        }
        // On its way to another namespace of this host.
        Receiver::Nobody if passing.payload_len == 0 => expect_again(path, number, awaited),
        Receiver::Nobody
        | Receiver::Listener(_)
        | Receiver::Deserted
        | Receiver::FinWait2Timewait(_)
        | Receiver::TimeWait(_)
        | Receiver::Other => {}
    }
}

/// What earlier segments to a port will still do to its queues.
///
/// # Safety
///
/// `pending` must point into a map value.
#[inline(always)]
unsafe fn awaiting(pending: *const Pending) -> Awaiting {
    // SAFETY: by the caller's word.
    unsafe {
        Awaiting {
            requests: (*pending).syns,
            fulfilled: (*pending).acks.saturating_sub((*pending).cookies),
            children: (*pending).acks,
        }
    }
}

/// Leaves an ACK to whoever receives it on this host.
#[inline(always)]
pub(crate) fn expect_again(path: Path, number: u32, awaited: u8) {
    if awaited == COOKIE {
        path.expect(number, Awaited::Cookie);
    } else {
        path.expect(number, Awaited::Request);
    }
}

/// A SYN-ACK goes out on its own path. Returns what its ACK is awaited by, if it is of this host.
#[inline(always)]
pub(crate) fn syn_ack_leaves(
    skb: *mut __sk_buff,
    path: Path,
    watched: Watched,
    netns: u32,
    port: u16,
) -> Option<Awaited> {
    let arrivals = arrivals::of_this_cpu()?;
    // SAFETY: the map's own value, and only this CPU's.
    let answered = unsafe { take_back(arrivals, path, port) };
    // SAFETY: the context of a classifier.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        // Of a SYN-ACK with a cookie the kernel keeps nothing, not even a request.
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
    let request = answering(sk);
    if request.is_null() {
        return None;
    }
    // Sent again, or on a second interface; else, if for the timer, of a request from before the agent, or that the table had no room
    // for.
    if syn_ack_sent_again(cookie, request) || answered.time == 0 && has_run_out(request) {
        return Some(Awaited::Request);
    }
    let now = now();
    let half_open = HalfOpen {
        opened: if answered.time == 0 { now } else { answered.time },
        answered: now,
        listener: request.load::<u64>(layout!(skc_listener)),
        slot: watched.slot(Some(Role::Server)),
        netns,
        port,
        ..HalfOpen::default()
    };
    if HALF_OPEN.insert(cookie, half_open, u64::from(BPF_NOEXIST)).is_err() {
        forgotten(Table::Requests);
    } else if let Some(counters) = counters_of(half_open.slot) {
        // SAFETY: the map's own value.
        unsafe {
            let row = &raw mut (*counters).transitions[TcpState::Listen as usize];
            add(&raw mut (*row)[TcpState::NewSynRecv as usize], 1);
        }
    }
    Some(Awaited::Request)
}

/// The SYN-ACK of a request is sent again, because its timer has run out, or the SYN came again. Returns whether the request is one of
/// those that are followed.
#[inline(always)]
pub(crate) fn syn_ack_sent_again(cookie: u64, request: KernelPtr) -> bool {
    let Some(half_open) = HALF_OPEN.get_ptr_mut(cookie) else { return false };
    // It may be another by now.
    let listener = request.load::<u64>(layout!(skc_listener));
    // SAFETY: the map's own value.
    unsafe {
        (*half_open).answered = now();
        (*half_open).timeouts = timeouts(request) + u8::from(has_run_out(request));
        (*half_open).listener = listener;
    }
    true
}

/// A listener closes. Its half-open requests stay with it until their timers run out; the agent then asks when that was.
#[inline(always)]
pub(crate) fn listener_closes(listener: KernelPtr) {
    // The oldest makes room.
    let _ = CLOSED_LISTENERS.insert(listener.address(), now(), 0);
}

/// A child of the listener on `port` is born. Returns [`SYN_COOKIE`] if a SYN cookie came back for it, else 0.
#[inline(always)]
pub(crate) fn child_is_born(port: u16) -> u64 {
    let Some(arrivals) = arrivals::of_this_cpu() else { return 0 };
    let now = now();
    // SAFETY: the map's own value, and only this CPU's.
    unsafe {
        let pending = taking_effect(arrivals, port, now);
        if !pending.is_null() && came(&raw mut (*pending).acks) {
            return if came(&raw mut (*pending).cookies) { SYN_COOKIE } else { 0 };
        }
        // There was room for it after all.
        let place = (&raw const (*arrivals).last_ack).read_volatile() as usize;
        let note = element::<_, 15, NOTES>(&raw mut (*arrivals).undecided, place);
        let fate = (*note).fate;
        if !(*note).is_younger(AT_ONCE, now)
            || (fate != SegmentOutcome::AckOverflow as u32 && fate != SegmentOutcome::AckRefused as u32)
        {
            return 0;
        }
        (*note).fate = 0;
        if (*note).cookie == 0 { SYN_COOKIE } else { 0 }
    }
}

/// The request with this cookie has become a socket. Returns when its SYN came in, 0 if that is not known.
#[inline(always)]
pub(crate) fn complete(cookie: u64) -> u64 {
    let Some(half_open) = HALF_OPEN.get_ptr(cookie) else { return 0 };
    // SAFETY: the map's own value.
    let opened = unsafe { (*half_open).opened };
    // Whoever else removed it has counted it as failed.
    let _ = HALF_OPEN.remove(cookie);
    opened
}

/// The request with this cookie has failed. It is counted once, by whoever removes it, who gets its slot.
#[inline(always)]
pub(crate) fn end(cookie: u64, reason: HandshakeFailure) -> Option<u32> {
    let half_open = HALF_OPEN.get_ptr(cookie)?;
    // SAFETY: the map's own value.
    let (slot, overflowed) = unsafe { ((*half_open).slot, (*half_open).overflowed != 0) };
    HALF_OPEN.remove(cookie).ok()?;
    let counters = counters_of(slot)?;
    let reason = if overflowed { HandshakeFailure::AcceptQueueFull } else { reason };
    // SAFETY: the map's own value.
    unsafe {
        count_failure(counters, reason);
        count_end(counters);
    }
    Some(slot)
}

/// Whether a SYN that is not the first again ends a request (kernel: `tcp_check_req`).
#[inline(always)]
fn ends(request: Request, passing: Passing<'_>) -> bool {
    let is_first = passing.segment.tcp.sequence() == request.rcv_nxt.wrapping_sub(1);
    !is_first && accepts(request, passing)
}

/// Whether an ACK brings nothing but that (kernel: `tcp_check_req`).
#[inline(always)]
fn is_bare(request: Request, passing: Passing<'_>) -> bool {
    let tcp = &passing.segment.tcp;
    tcp.sequence() == request.rcv_nxt && passing.payload_len == 0 && tcp.flags & FIN == 0
}

/// Whether a segment acknowledges nothing, or the SYN-ACK.
#[inline(always)]
pub(crate) fn answers(request: Request, passing: Passing<'_>) -> bool {
    let tcp = &passing.segment.tcp;
    tcp.flags & ACK == 0 || tcp.acknowledgement() == request.snt_isn.wrapping_add(1)
}

/// Whether a segment lies within the window of a request (kernel: `tcp_in_window`).
#[inline(always)]
pub(crate) fn accepts(request: Request, passing: Passing<'_>) -> bool {
    let tcp = &passing.segment.tcp;
    let start = tcp.sequence().wrapping_sub(request.rcv_nxt);
    let end = start.wrapping_add(sequence_space(passing.payload_len, tcp.flags));
    start == 0
        || (end as i32 > 0 && (start.wrapping_sub(request.rcv_wnd) as i32) < 0)
        || (start == request.rcv_wnd && start == end)
}
