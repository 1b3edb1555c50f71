//! The details of the end of a handshake: its result, its duration, and what took long.

use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::Role;

use crate::lifecycle::event::{Handshake, StateChange};
use crate::output::details::Details;
use crate::output::human::{Human, Spaced, Times};

/// Adds the details of a handshake that `end` ended, if a transition did.
pub(super) fn add(handshake: &Handshake, end: Option<StateChange>, details: &mut Details) {
    // Without a listener there is no state.
    if handshake.result != Err(HandshakeFailure::NoListener) {
        let opening = match handshake.role {
            Role::Server => TcpState::SynRecv,
            Role::Client => TcpState::SynSent,
        };
        let from = end.map_or(opening, |end| end.from);
        let to = if handshake.result.is_ok() { TcpState::Established } else { TcpState::Close };
        details.phrase((from, " → ", to));
        details.gap();
    }
    match (handshake.result, handshake.duration.map(Human)) {
        (Ok(()), Some(duration)) => details.phrase(("handshake ", duration)),
        (Ok(()), None) => {}
        (Err(failure), Some(duration)) => {
            details.phrase((Spaced(failure.label()), " after ", duration));
        }
        (Err(failure), None) => details.phrase(Spaced(failure.label())),
    }
    if let Some(delay) = syn_delay(handshake, end) {
        details.phrase(("SYN left ", Human(delay), " after connect()"));
    }
    if let Some(times) = handshake.syn_retransmits.filter(|times| *times > 0) {
        let flags = match handshake.role {
            Role::Server => "SYN-ACK",
            Role::Client => "SYN",
        };
        details.phrase((flags, " retransmitted ", Times(times)));
    }
}

/// The time from connect() to a client's only SYN, if it is long: the SYN waited for the link-layer
/// address of its next hop.
fn syn_delay(handshake: &Handshake, end: Option<StateChange>) -> Option<Duration> {
    if handshake.role != Role::Client || handshake.syn_retransmits != Some(0) {
        return None;
    }
    let delay = end?.state_duration?.checked_sub(handshake.duration?)?;
    (delay >= LONG_DELAY).then_some(delay)
}

/// Longer than a busy host takes to send a segment.
const LONG_DELAY: Duration = Duration::from_millis(10);
