//! Ingress segments to which the kernel has not reacted yet, and what they come to without a
//! reaction.
//!
//! The classifier records what a segment will have come to. A reaction cancels that. Without one it
//! is committed, that is counted, when the next segment needs its place, or by the agent when it
//! reads the counters before that.

use core::ptr;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use tcp_monitor_common::{
    abi::half_open::{PENDING_SEGMENTS as SEGMENTS, PendingSegment, PendingSegments, REACTION_TIME},
    counters::PortCounters,
    rules::segment_outcome::SegmentOutcome as Outcome,
};

use super::half_open::HALF_OPEN;
use crate::{
    kernel::{
        asm::{add, element},
        now,
        path::Path,
    },
    output::{
        counters::{count_request_closed, count_reset_received, count_server_failure},
        ports::counters_of,
    },
};

#[map]
static PENDING_SEGMENTS: PerCpuArray<PendingSegments> = PerCpuArray::with_max_entries(1, 0);

/// Within this time, nanoseconds, a packet gets from a member of a bond to the bond, or from a
/// vlan's parent to the vlan.
const PASSAGE: u64 = 1_000_000;
/// No place among the segments.
pub(super) const NOWHERE: u64 = u64::MAX;

#[inline(always)]
pub(crate) fn of_this_cpu() -> Option<*mut PendingSegments> {
    PENDING_SEGMENTS.get_ptr_mut(0)
}

/// Records a segment, and commits the one whose place it takes.
///
/// # Safety
///
/// `pending` must be the map's own value.
#[inline(always)]
pub(crate) unsafe fn record(pending: *mut PendingSegments, segment: PendingSegment) {
    // SAFETY: by the caller's word.
    let evicted = unsafe { replace(pending, segment) };
    if evicted.outcome != 0 {
        commit(evicted);
    }
}

/// Stores a segment and returns the one whose place it takes: no reaction followed that. The
/// outcome of that is 0 if there was none, or if it was the same packet on another interface.
///
/// # Safety
///
/// `pending` must be the map's own value.
#[inline(always)]
unsafe fn replace(pending: *mut PendingSegments, segment: PendingSegment) -> PendingSegment {
    let is_copy = |other: &PendingSegment| {
        other.path == segment.path
            && other.seq == segment.seq
            && other.ifindex != segment.ifindex
            && other.is_younger(PASSAGE, segment.time)
    };
    // SAFETY: by the caller's word.
    unsafe {
        if find(pending, is_copy).is_null() {
            let next = (*pending).recorded;
            (*pending).recorded = next.wrapping_add(1);
            (&raw mut (*pending).found).write_volatile(next);
        }
        let place = (&raw const (*pending).found).read_volatile();
        let held = element::<_, 15, SEGMENTS>(&raw mut (*pending).segments, place as usize);
        let mut before = held.read();
        held.write(segment);
        if segment.outcome == Outcome::AckOverflow as u32 || segment.outcome == Outcome::AckRefused as u32 {
            (*pending).handshake_ack = place;
        }
        if is_copy(&before) {
            before.outcome = 0;
        }
        before
    }
}

/// No reaction followed the segment: counts its outcome.
#[inline(always)]
fn commit(segment: PendingSegment) {
    let Some(counters) = counters_of(segment.slot) else { return };
    // An arm each, with the outcome as a constant: of a variable, the compiler makes a table of
    // what it counts as, and the verifier refuses that. SAFETY: the map's own value.
    unsafe {
        match Outcome::from_number(segment.outcome) {
            Some(Outcome::SynOverflow) => count(counters, Outcome::SynOverflow, segment.cookie),
            Some(Outcome::SynDropped) => count(counters, Outcome::SynDropped, segment.cookie),
            Some(Outcome::AckOverflow) => count(counters, Outcome::AckOverflow, segment.cookie),
            Some(Outcome::AckRefused) => count(counters, Outcome::AckRefused, segment.cookie),
            Some(Outcome::RstInFinWait2) => count(counters, Outcome::RstInFinWait2, segment.cookie),
            Some(Outcome::RstInTimeWait) => count(counters, Outcome::RstInTimeWait, segment.cookie),
            Some(Outcome::RstNoSocket) => count(counters, Outcome::RstNoSocket, segment.cookie),
            Some(Outcome::NoListener | Outcome::SynAccepted) | None => {}
        }
    }
}

/// Counts an outcome.
///
/// # Safety
///
/// `counters` must point into a map value.
#[inline(always)]
unsafe fn count(counters: *mut PortCounters, outcome: Outcome, cookie: u64) {
    // SAFETY: by the caller's word.
    unsafe {
        if outcome.overflows_accept_queue() {
            add(&raw mut (*counters).accept_queue_overflows, 1);
        }
        if outcome.ends_request() {
            // Removed elsewhere, it is counted there.
            if HALF_OPEN.remove(cookie).is_err() {
                return;
            }
            count_request_closed(counters);
        }
        if let Some(reason) = outcome.handshake_failure() {
            count_server_failure(counters, reason);
        }
        if let Some(phase) = outcome.reset_received() {
            count_reset_received(counters, phase);
        }
    }
}

/// A SYN or a RST that was received on `ingress_ifindex` is forwarded: it was not for this
/// namespace. Its sequence number stays the same, its addresses may have been translated.
#[inline(always)]
pub(crate) fn was_forwarded(seq: u32, ingress_ifindex: u32) {
    let Some(pending) = of_this_cpu() else { return };
    let now = now();
    // SAFETY: the map's own value, and only this CPU's.
    unsafe {
        let segment = find(pending, |segment| {
            segment.seq == seq && segment.ifindex == ingress_ifindex && segment.is_younger(REACTION_TIME, now)
        });
        if !segment.is_null() {
            (*segment).outcome = 0;
        }
    }
}

/// A RST that was received has ended a socket. If there was none when it was received, a SYN cookie
/// has created it since.
#[inline(always)]
pub(crate) fn cancel_rst(path: Path) {
    let Some(pending) = of_this_cpu() else { return };
    let (path, now) = (path.hash(), now());
    // SAFETY: the map's own value, and only this CPU's.
    unsafe {
        let segment = find(pending, |segment| {
            segment.path == path
                && segment.outcome == Outcome::RstNoSocket as u32
                && segment.is_younger(REACTION_TIME, now)
        });
        if !segment.is_null() {
            (*segment).outcome = 0;
        }
    }
}

/// A SYN that was answered.
#[derive(Clone, Copy)]
pub(crate) struct AnsweredSyn {
    /// When it was received; 0 if that is unknown.
    pub(crate) time: u64,
    pub(crate) slot: u32,
}

/// Cancels the SYN that a SYN-ACK on `path` answers.
///
/// # Safety
///
/// `pending` must be the map's own value.
#[inline(always)]
pub(crate) unsafe fn cancel_syn(pending: *mut PendingSegments, path: Path, now: u64) -> AnsweredSyn {
    let path = path.hash();
    // SAFETY: by the caller's word.
    unsafe {
        let segment = find(pending, |segment| {
            // The SYN-ACK may wait for the address of the next hop.
            let may_wait = segment.outcome == Outcome::SynAccepted as u32;
            let was_to_fail = segment.outcome == Outcome::SynOverflow as u32
                || segment.outcome == Outcome::SynDropped as u32;
            segment.path == path && (may_wait || was_to_fail && segment.is_younger(REACTION_TIME, now))
        });
        if segment.is_null() {
            return AnsweredSyn { time: 0, slot: 0 };
        }
        (*segment).outcome = 0;
        AnsweredSyn { time: (*segment).time, slot: (*segment).slot }
    }
}

/// The latest segment that is wanted, or NULL.
///
/// # Safety
///
/// `pending` must be the map's own value.
#[inline(always)]
pub(crate) unsafe fn find(
    pending: *mut PendingSegments,
    is_wanted: impl Fn(&PendingSegment) -> bool,
) -> *mut PendingSegment {
    // SAFETY: by the caller's word; each index is within the array.
    unsafe {
        // In memory, where the verifier does not follow each place to the end of the program.
        let found = &raw mut (*pending).found;
        found.write_volatile(NOWHERE);
        let oldest = (&raw const (*pending).recorded).read_volatile();
        let mut i = 0;
        while i < SEGMENTS as u64 {
            let place = oldest.wrapping_add(i);
            if is_wanted(&*element::<_, 15, SEGMENTS>(&raw mut (*pending).segments, place as usize)) {
                found.write_volatile(place);
            }
            i += 1;
        }
        let place = found.read_volatile();
        if place == NOWHERE {
            return ptr::null_mut();
        }
        element::<_, 15, SEGMENTS>(&raw mut (*pending).segments, place as usize)
    }
}
