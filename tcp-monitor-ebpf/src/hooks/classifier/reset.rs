//! RSTs that are for no full socket, and those that answer a SYN.

use tcp_monitor_common::{
    TcpState, abi::half_open::REACTION_TIME, counters::HandshakeFailure, record::ResetPhase,
    rules::segment_outcome::SegmentOutcome,
};

use super::ingress::{Ingress, accepts, answers, record};
use crate::{
    kernel::{
        lookup::{Pending, Receiver, Request, receiver},
        now,
        path::Path,
    },
    output::{
        counters::{count_reset_received, count_server_failure},
        ports::{Watched, counters_of},
    },
    state::{
        fin_wait2_timewait,
        half_open::{self, fail},
        pending_ports,
        pending_segments::{self, find},
    },
};

/// A RST was received. `tcp_receive_reset` handles one for a full socket.
#[inline(always)]
pub(super) fn receive_rst(segment: Ingress<'_>, watched: Watched) {
    if !segment.is_for_this_host() {
        return;
    }
    let outcome = match receiver(segment.skb, segment.segment, Pending::default()) {
        Receiver::Request(request) => {
            receive_rst_of_request(request, segment);
            return;
        }
        Receiver::FinWait2Timewait(_) => {
            // It accepts a RST with the number of the FIN that it awaits.
            fin_wait2_timewait::end(segment.back, segment.tcp().sequence().wrapping_add(1), TcpState::Close);
            SegmentOutcome::RstInFinWait2
        }
        Receiver::TimeWait(_) => SegmentOutcome::RstInTimeWait,
        Receiver::NoSocket | Receiver::Listener(_) | Receiver::RequestWithoutListener => {
            SegmentOutcome::RstNoSocket
        }
        Receiver::Other => return,
    };
    let Some(pending) = pending_segments::of_this_cpu() else { return };
    record(pending, segment, outcome, watched.slot(None), 0);
}

/// A RST was received for a half-open request.
///
/// All kernels accept one that has exactly the expected sequence number, and no acknowledgment or
/// the right one. Some accept what lies within the window, some ignore the acknowledgment: whether
/// the request is gone then shows when its SYN-ACK should be retransmitted. The same holds if the
/// handshake ACK comes right before, and the request is none when the RST takes effect.
#[inline(always)]
fn receive_rst_of_request(request: Request, segment: Ingress<'_>) {
    let tcp = segment.tcp();
    match (tcp.sequence() == request.rcv_nxt, answers(request, segment)) {
        (true, true) if !are_acks_pending(tcp.destination_port()) => {
            let Some(slot) = fail(request.cookie, HandshakeFailure::Reset) else { return };
            let Some(counters) = counters_of(slot) else { return };
            // SAFETY: the map's own value.
            unsafe { count_reset_received(counters, ResetPhase::Handshake) };
        }
        (true, _) | (false, true) if accepts(request, segment) => {
            if let Some(half_open) = half_open::get(request.cookie) {
                // SAFETY: the map's own value.
                unsafe { (*half_open).rst_at = now() };
            }
        }
        (_, _) => {}
    }
}

/// Whether a handshake ACK to this port will take effect before the next segment does.
#[inline(always)]
fn are_acks_pending(port: u16) -> bool {
    let Some(pending) = pending_segments::of_this_cpu() else { return false };
    // SAFETY: the map's own value, and only this CPU's.
    unsafe { (*pending_ports::entry(pending, port)).acks != 0 }
}

/// A RST that answers a SYN leaves on `path`.
#[inline(always)]
pub(super) fn send_rst(path: Path) {
    let Some(pending) = pending_segments::of_this_cpu() else { return };
    let (path, now) = (path.hash(), now());
    // SAFETY: the map's own value, and only this CPU's.
    unsafe {
        let segment = find(pending, |segment| {
            // Without a listener, nothing else has reacted meanwhile.
            let may_wait = segment.outcome == SegmentOutcome::NoListener as u32;
            segment.path == path && (may_wait || segment.is_younger(REACTION_TIME, now))
        });
        if segment.is_null() {
            return;
        }
        match SegmentOutcome::from_number((*segment).outcome) {
            Some(SegmentOutcome::NoListener) => {
                (*segment).outcome = 0;
                if let Some(counters) = counters_of((*segment).slot) {
                    count_server_failure(counters, HandshakeFailure::NoListener);
                }
            }
            // Answered, not dropped: by a timewait socket in FIN_WAIT2.
            Some(SegmentOutcome::SynOverflow | SegmentOutcome::SynDropped | SegmentOutcome::SynAccepted) => {
                (*segment).outcome = 0;
            }
            Some(
                SegmentOutcome::AckOverflow
                | SegmentOutcome::AckRefused
                | SegmentOutcome::RstInFinWait2
                | SegmentOutcome::RstInTimeWait
                | SegmentOutcome::RstNoSocket,
            )
            | None => {}
        }
    }
}
