//! A segment that was received, as the kernel will judge it.

use aya_ebpf::bindings::__sk_buff;
use tcp_monitor_common::{
    abi::half_open::{PendingSegment, PendingSegments},
    rules::{control::flag::ACK, payload::sequence_space, segment_outcome::SegmentOutcome},
};

use crate::{
    kernel::{
        lookup::Request,
        now,
        packet::{Segment, TcpStart},
        path::Path,
    },
    state::pending_segments,
};

/// A packet for this host (`PACKET_HOST`).
const FOR_THIS_HOST: u32 = 0;

/// A segment that was received.
#[derive(Clone, Copy)]
pub(super) struct Ingress<'a> {
    pub(super) skb: *mut __sk_buff,
    pub(super) segment: &'a Segment<'a>,
    /// Bytes.
    pub(super) payload_len: u32,
    /// From its receiver to its sender.
    pub(super) back: Path,
    pub(super) ifindex: u32,
}

impl<'a> Ingress<'a> {
    #[inline(always)]
    pub(super) fn tcp(&self) -> &'a TcpStart {
        &self.segment.tcp
    }

    /// Else the kernel drops it.
    #[inline(always)]
    pub(super) fn is_for_this_host(&self) -> bool {
        // SAFETY: the context of a classifier.
        unsafe { (*self.skb).pkt_type == FOR_THIS_HOST }
    }
}

/// Records what a segment will have come to if no reaction follows.
#[inline(always)]
pub(super) fn record(
    pending: *mut PendingSegments,
    segment: Ingress<'_>,
    outcome: SegmentOutcome,
    slot: u32,
    cookie: u64,
) {
    let segment = PendingSegment {
        time: now(),
        path: segment.back.hash(),
        cookie,
        slot,
        outcome: outcome as u32,
        seq: segment.tcp().sequence(),
        ifindex: segment.ifindex,
    };
    // SAFETY: the map's own value, and only this CPU's.
    unsafe { pending_segments::record(pending, segment) };
}

/// Whether a segment acknowledges nothing, or the SYN-ACK.
#[inline(always)]
pub(super) fn answers(request: Request, segment: Ingress<'_>) -> bool {
    let tcp = segment.tcp();
    tcp.flags & ACK == 0 || tcp.acknowledgement() == request.snt_isn.wrapping_add(1)
}

/// Whether a segment lies within the window of a request (kernel: `tcp_in_window`).
#[inline(always)]
pub(super) fn accepts(request: Request, segment: Ingress<'_>) -> bool {
    let tcp = segment.tcp();
    let start = tcp.sequence().wrapping_sub(request.rcv_nxt);
    let end = start.wrapping_add(sequence_space(segment.payload_len, tcp.flags));
    start == 0
        || (end as i32 > 0 && (start.wrapping_sub(request.rcv_wnd) as i32) < 0)
        || (start == request.rcv_wnd && start == end)
}
