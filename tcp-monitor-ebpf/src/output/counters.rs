//! The counters of a port: what several programs count.

use tcp_monitor_common::{
    TcpState,
    counters::{BUCKETS, FAILURES, HandshakeFailure, Histogram, PortCounters, Scale},
    record::{ResetPhase, Role},
};

use crate::kernel::asm::{add, element};

/// Counts a server's handshake that failed.
///
/// # Safety
///
/// `counters` must point into a map value.
#[inline(always)]
pub(crate) unsafe fn count_server_failure(counters: *mut PortCounters, reason: HandshakeFailure) {
    // SAFETY: by the caller's word.
    unsafe {
        let reasons = &raw mut (*counters).handshake_failures[Role::Server as usize];
        add(element::<_, 15, FAILURES>(reasons, reason as usize), 1);
    }
}

/// Counts a RST that was received.
///
/// # Safety
///
/// `counters` must point into a map value.
#[inline(always)]
pub(crate) unsafe fn count_reset_received(counters: *mut PortCounters, phase: ResetPhase) {
    // SAFETY: by the caller's word; the phase is within the array.
    unsafe { add(&raw mut (*counters).resets_received[phase as usize], 1) };
}

/// Counts that a half-open request ended without becoming a socket.
///
/// # Safety
///
/// `counters` must point into a map value.
#[inline(always)]
pub(crate) unsafe fn count_request_closed(counters: *mut PortCounters) {
    // SAFETY: by the caller's word.
    unsafe {
        let row = &raw mut (*counters).transitions[TcpState::NewSynRecv as usize];
        add(&raw mut (*row)[TcpState::Close as usize], 1);
    }
}

/// Adds a duration to a histogram.
///
/// # Safety
///
/// `histogram` must point into a map value.
#[inline(always)]
pub(crate) unsafe fn record_duration(histogram: *mut Histogram, scale: Scale, nanoseconds: u64) {
    // SAFETY: by the caller's word.
    unsafe {
        let buckets = &raw mut (*histogram).buckets;
        add(element::<_, 15, BUCKETS>(buckets, scale.bucket(nanoseconds)), 1);
        add(&raw mut (*histogram).sum, nanoseconds);
    }
}
