//! RSTs that come for no full socket, and those that answer a SYN.

use tcp_monitor_common::{
    TcpState, abi::half_open::AT_ONCE, counters::HandshakeFailure, record::ResetPhase,
    rules::segment_outcome::SegmentOutcome,
};

use crate::{
    acks::Path,
    arrivals::{self, find},
    fate::{Passing, count_failure, count_rst, note},
    half_open::{HALF_OPEN, accepts, answers, end},
    lookup::{Awaiting, Receiver, Request, receiver},
    orphans,
    ports::{Watched, counters_of},
    socket::now,
};

/// A RST comes in. One for a full socket is left to `tcp_receive_reset`.
#[inline(always)]
pub(crate) fn arrives(passing: Passing<'_>, watched: Watched) {
    if !passing.is_for_this_host() {
        return;
    }
    let none = Awaiting { requests: 0, fulfilled: 0, children: 0 };
    let fate = match receiver(passing.skb, passing.segment, none) {
        Receiver::Request(request) => {
            meets_request(request, passing);
            return;
        }
        Receiver::FinWait2Timewait(_) => {
            // It takes one with the number of the FIN that it awaits.
            orphans::end(passing.back, passing.segment.tcp.sequence().wrapping_add(1), TcpState::Close);
            SegmentOutcome::RstInFinWait2
        }
        Receiver::TimeWait(_) => SegmentOutcome::RstInTimeWait,
        Receiver::Nobody | Receiver::Listener(_) | Receiver::Deserted => SegmentOutcome::RstNoSocket,
        Receiver::Other => return,
    };
    let Some(arrivals) = arrivals::of_this_cpu() else { return };
    note(arrivals, passing, fate, watched.slot(None), 0);
}

/// A RST comes in for a half-open request.
///
/// All kernels take one that has the very sequence number that is expected, and no acknowledgement or the right one. Some take
/// what lies within the window instead, some do not look at the acknowledgement: whether the request is gone then shows when its
/// SYN-ACK should be sent again. So it does if the last ACK comes right before, and the request is none when the RST meets it.
#[inline(always)]
fn meets_request(request: Request, passing: Passing<'_>) {
    let tcp = &passing.segment.tcp;
    match (tcp.sequence() == request.rcv_nxt, answers(request, passing)) {
        (true, true) if !are_acks_pending(tcp.destination_port()) => {
            let Some(slot) = end(request.cookie, HandshakeFailure::Reset) else { return };
            let Some(counters) = counters_of(slot) else { return };
            // SAFETY: the map's own value.
            unsafe { count_rst(counters, ResetPhase::Handshake) };
        }
        (true, _) | (false, true) if accepts(request, passing) => {
            if let Some(half_open) = HALF_OPEN.get_ptr_mut(request.cookie) {
                // SAFETY: the map's own value.
                unsafe { (*half_open).doubted = now() };
            }
        }
        (_, _) => {}
    }
}

/// Whether some last ACK to this port will take effect before the next segment does.
#[inline(always)]
fn are_acks_pending(port: u16) -> bool {
    let Some(arrivals) = arrivals::of_this_cpu() else { return false };
    // SAFETY: the map's own value, and only this CPU's.
    unsafe { (*arrivals::pending(arrivals, port)).acks != 0 }
}

/// A RST that came in has ended a socket. If there was none when it came in, one was born since, of a SYN cookie.
#[inline(always)]
pub(crate) fn is_claimed(path: Path) {
    let Some(arrivals) = arrivals::of_this_cpu() else { return };
    let (path, now) = (path.hash(), now());
    // SAFETY: the map's own value, and only this CPU's.
    unsafe {
        let note = find(arrivals, |note| {
            note.path == path
                && note.fate == SegmentOutcome::RstNoSocket as u32
                && note.is_younger(AT_ONCE, now)
        });
        if !note.is_null() {
            (*note).fate = 0;
        }
    }
}

/// A RST that answers a SYN goes out on its own path.
#[inline(always)]
pub(crate) fn leaves(path: Path) {
    let Some(arrivals) = arrivals::of_this_cpu() else { return };
    let (path, now) = (path.hash(), now());
    // SAFETY: the map's own value, and only this CPU's.
    unsafe {
        let note = find(arrivals, |note| {
            // Of what comes to nothing, nobody has made anything else meanwhile.
            let may_wait = note.fate == SegmentOutcome::NoListener as u32;
            note.path == path && (may_wait || note.is_younger(AT_ONCE, now))
        });
        if note.is_null() {
            return;
        }
        match SegmentOutcome::from_number((*note).fate) {
            Some(SegmentOutcome::NoListener) => {
                (*note).fate = 0;
                if let Some(counters) = counters_of((*note).slot) {
                    count_failure(counters, HandshakeFailure::NoListener);
                }
            }
            // It was answered, and not dropped: by a TIME_WAIT socket that still awaits a FIN.
            Some(SegmentOutcome::SynOverflow | SegmentOutcome::SynDropped | SegmentOutcome::SynAccepted) => {
                (*note).fate = 0;
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
