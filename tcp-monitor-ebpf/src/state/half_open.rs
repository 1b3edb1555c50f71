//! Half-open requests, and the listeners that closed on them.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{HashMap, LruHashMap},
};
use tcp_monitor_common::{
    TcpState,
    abi::half_open::{CLOSED_LISTENERS_LIMIT, HALF_OPEN_LIMIT, HalfOpen, PENDING_SEGMENTS, REACTION_TIME},
    counters::{HandshakeFailure, Table},
    rules::segment_outcome::SegmentOutcome,
};

use super::{
    pending_ports::{self, consume},
    pending_segments,
};
use crate::{
    kernel::{
        asm::{add, element},
        layout::layout,
        lookup::{timeouts, timer_has_expired},
        memory::KernelPtr,
        now,
    },
    output::{
        counters::{count_request_closed, count_server_failure},
        evictions::count_eviction,
        ports::counters_of,
    },
};

/// By cookie.
#[map]
pub(super) static HALF_OPEN: HashMap<u64, HalfOpen> = HashMap::with_max_entries(HALF_OPEN_LIMIT, 0);

/// When listeners closed, by their address: see [`listener_closed`].
#[map]
static CLOSED_LISTENERS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(CLOSED_LISTENERS_LIMIT, 0);

/// The request with this cookie, to change it.
#[inline(always)]
pub(crate) fn get(cookie: u64) -> Option<*mut HalfOpen> {
    HALF_OPEN.get_ptr_mut(cookie)
}

/// Follows a request from now on, and counts its beginning.
#[inline(always)]
pub(crate) fn insert(cookie: u64, half_open: HalfOpen) {
    if HALF_OPEN.insert(cookie, half_open, u64::from(BPF_NOEXIST)).is_err() {
        if HALF_OPEN.get_ptr(cookie).is_none() {
            count_eviction(Table::Requests);
        }
    } else if let Some(counters) = counters_of(half_open.slot) {
        // SAFETY: the map's own value.
        unsafe {
            let row = &raw mut (*counters).transitions[TcpState::Listen as usize];
            add(&raw mut (*row)[TcpState::NewSynRecv as usize], 1);
        }
    }
}

/// The SYN-ACK of a request is retransmitted: its timer has expired, or the SYN was retransmitted.
/// Returns whether the request is followed.
#[inline(always)]
pub(crate) fn syn_ack_retransmitted(cookie: u64, request: KernelPtr) -> bool {
    let Some(half_open) = HALF_OPEN.get_ptr_mut(cookie) else { return false };
    // It may be another by now.
    let listener = request.load::<u64>(layout!(skc_listener));
    // SAFETY: the map's own value.
    unsafe {
        (*half_open).syn_ack_at = now();
        (*half_open).timeouts = timeouts(request) + u8::from(timer_has_expired(request));
        (*half_open).listener = listener;
    }
    true
}

/// A listener closes. Its half-open requests stay until their timers expire; the agent compares the
/// times then.
#[inline(always)]
pub(crate) fn listener_closed(listener: KernelPtr) {
    // The map evicts the oldest.
    let _ = CLOSED_LISTENERS.insert(listener.address(), now(), 0);
}

/// A child socket of the listener on `port` is created. Returns whether it comes of a SYN cookie.
#[inline(always)]
pub(crate) fn child_created(port: u16) -> bool {
    let Some(pending) = pending_segments::of_this_cpu() else { return false };
    let now = now();
    // SAFETY: the map's own value, and only this CPU's.
    unsafe {
        let at_port = pending_ports::find(pending, port, now);
        if !at_port.is_null() && consume(&raw mut (*at_port).acks) {
            return consume(&raw mut (*at_port).cookies);
        }
        // The accept queue had room after all.
        let place = (&raw const (*pending).handshake_ack).read_volatile() as usize;
        let segment = element::<_, 15, PENDING_SEGMENTS>(&raw mut (*pending).segments, place);
        let outcome = (*segment).outcome;
        if !(*segment).is_younger(REACTION_TIME, now)
            || (outcome != SegmentOutcome::AckOverflow as u32 && outcome != SegmentOutcome::AckRefused as u32)
        {
            return false;
        }
        (*segment).outcome = 0;
        (*segment).cookie == 0
    }
}

/// The request with this cookie became a socket. Returns when its SYN was received, 0 if that is
/// unknown.
#[inline(always)]
pub(crate) fn complete(cookie: u64) -> u64 {
    let Some(half_open) = HALF_OPEN.get_ptr(cookie) else { return 0 };
    // SAFETY: the map's own value.
    let syn_at = unsafe { (*half_open).syn_at };
    // Removed elsewhere, it is counted there as failed.
    let _ = HALF_OPEN.remove(cookie);
    syn_at
}

/// The request with this cookie failed. It is counted once, where it is removed. Returns the slot
/// of its counters then.
#[inline(always)]
pub(crate) fn fail(cookie: u64, reason: HandshakeFailure) -> Option<u32> {
    let half_open = HALF_OPEN.get_ptr(cookie)?;
    // SAFETY: the map's own value.
    let (slot, overflowed) = unsafe { ((*half_open).slot, (*half_open).overflowed != 0) };
    HALF_OPEN.remove(cookie).ok()?;
    let counters = counters_of(slot)?;
    let reason = if overflowed { HandshakeFailure::AcceptQueueFull } else { reason };
    // SAFETY: the map's own value.
    unsafe {
        count_server_failure(counters, reason);
        count_request_closed(counters);
    }
    Some(slot)
}
