//! What segments that came in have come to: counted when nothing has followed from them.

use aya_ebpf::bindings::__sk_buff;
use tcp_monitor_common::{
    TcpState,
    abi::half_open::{AT_ONCE, Arrivals, Undecided},
    counters::{FAILURES, HandshakeFailure, PortCounters},
    record::{ResetPhase, Role},
    rules::segment_outcome::SegmentOutcome,
};

use crate::{
    acks::Path,
    arrivals::{self, find},
    half_open::HALF_OPEN,
    instruction::{add, element},
    packet::Segment,
    ports::counters_of,
    socket::now,
};

/// A packet for this host (`PACKET_HOST`).
const FOR_THIS_HOST: u32 = 0;

/// A segment on its way through the classifier.
#[derive(Clone, Copy)]
pub(crate) struct Passing<'a> {
    pub(crate) skb: *mut __sk_buff,
    pub(crate) segment: &'a Segment<'a>,
    /// Bytes.
    pub(crate) payload_len: u32,
    /// From its receiver to its sender.
    pub(crate) back: Path,
    pub(crate) ifindex: u32,
}

impl Passing<'_> {
    /// Else the kernel drops it, whoever would receive it.
    #[inline(always)]
    pub(crate) fn is_for_this_host(&self) -> bool {
        // SAFETY: the context of a classifier.
        unsafe { (*self.skb).pkt_type == FOR_THIS_HOST }
    }
}

/// Notes what a segment that has come in will have come to if nothing follows from it.
#[inline(always)]
pub(crate) fn note(
    arrivals: *mut Arrivals,
    passing: Passing<'_>,
    fate: SegmentOutcome,
    slot: u32,
    cookie: u64,
) {
    let noted = Undecided {
        time: now(),
        path: passing.back.hash(),
        cookie,
        slot,
        fate: fate as u32,
        seq: passing.segment.tcp.sequence(),
        ifindex: passing.ifindex,
    };
    // SAFETY: the map's own value, and only this CPU's.
    let before = unsafe { arrivals::note(arrivals, noted) };
    if before.fate != 0 {
        settle(before);
    }
}

/// No reaction followed the segment: counts its outcome.
#[inline(always)]
fn settle(undecided: Undecided) {
    let Some(counters) = counters_of(undecided.slot) else { return };
    // An arm for each, with its outcome as a constant: of a variable, the compiler looks up what it counts as in a table, and
    // the verifier refuses that.
    // SAFETY: the map's own value.
    unsafe {
        match SegmentOutcome::from_number(undecided.fate) {
            Some(SegmentOutcome::SynOverflow) => {
                count(counters, SegmentOutcome::SynOverflow, undecided.cookie);
            }
            Some(SegmentOutcome::SynDropped) => count(counters, SegmentOutcome::SynDropped, undecided.cookie),
            Some(SegmentOutcome::AckOverflow) => {
                count(counters, SegmentOutcome::AckOverflow, undecided.cookie);
            }
            Some(SegmentOutcome::AckRefused) => count(counters, SegmentOutcome::AckRefused, undecided.cookie),
            Some(SegmentOutcome::RstInFinWait2) => {
                count(counters, SegmentOutcome::RstInFinWait2, undecided.cookie);
            }
            Some(SegmentOutcome::RstInTimeWait) => {
                count(counters, SegmentOutcome::RstInTimeWait, undecided.cookie);
            }
            Some(SegmentOutcome::RstNoSocket) => {
                count(counters, SegmentOutcome::RstNoSocket, undecided.cookie);
            }
            Some(SegmentOutcome::NoListener | SegmentOutcome::SynAccepted) | None => {}
        }
    }
}

/// Counts an outcome.
///
/// # Safety
///
/// `counters` must point into a map value.
#[inline(always)]
unsafe fn count(counters: *mut PortCounters, outcome: SegmentOutcome, cookie: u64) {
    // SAFETY: by the caller's word.
    unsafe {
        if outcome.overflows_accept_queue() {
            add(&raw mut (*counters).accept_queue_overflows, 1);
        }
        if outcome.ends_request() {
            // Whoever else removed it has counted its end.
            if HALF_OPEN.remove(cookie).is_err() {
                return;
            }
            count_end(counters);
        }
        if let Some(reason) = outcome.handshake_failure() {
            count_failure(counters, reason);
        }
        if let Some(phase) = outcome.reset_received() {
            count_rst(counters, phase);
        }
    }
}

/// # Safety
///
/// `counters` must point into a map value.
#[inline(always)]
pub(crate) unsafe fn count_failure(counters: *mut PortCounters, reason: HandshakeFailure) {
    // SAFETY: by the caller's word.
    unsafe {
        let reasons = &raw mut (*counters).handshake_failures[Role::Server as usize];
        add(element::<_, 15, FAILURES>(reasons, reason as usize), 1);
    }
}

/// # Safety
///
/// `counters` must point into a map value.
#[inline(always)]
pub(crate) unsafe fn count_rst(counters: *mut PortCounters, phase: ResetPhase) {
    // SAFETY: by the caller's word; the phase is within the array.
    unsafe { add(&raw mut (*counters).resets_received[phase as usize], 1) };
}

/// # Safety
///
/// `counters` must point into a map value.
#[inline(always)]
pub(crate) unsafe fn count_end(counters: *mut PortCounters) {
    // SAFETY: by the caller's word.
    unsafe {
        let row = &raw mut (*counters).transitions[TcpState::NewSynRecv as usize];
        add(&raw mut (*row)[TcpState::Close as usize], 1);
    }
}

/// A SYN or a RST goes on that came in on this interface: it was not for this namespace. Its sequence number is the same, its addresses
/// may have been translated.
#[inline(always)]
pub(crate) fn goes_on(segment: &Segment<'_>, arrived_on: u32) {
    let Some(arrivals) = arrivals::of_this_cpu() else { return };
    let (seq, now) = (segment.tcp.sequence(), now());
    // SAFETY: the map's own value, and only this CPU's.
    unsafe {
        let note = find(arrivals, |note| {
            note.seq == seq && note.ifindex == arrived_on && note.is_younger(AT_ONCE, now)
        });
        if !note.is_null() {
            (*note).fate = 0;
        }
    }
}
