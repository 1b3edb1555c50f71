//! What a line tells of the end of a handshake: how it went, how long it took, and what took so long.

use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::Role;

use crate::lifecycle::event::{Handshake, StateChange};
use crate::output::human::{Human, Times, spaced};
use crate::output::style::Phrases;

/// The details of a handshake that `end` ended, if a state did.
pub(super) fn detail(handshake: &Handshake, end: Option<StateChange>) -> String {
    let mut detail = Phrases(String::new());
    // Where nobody listens there is no state.
    if handshake.result != Err(HandshakeFailure::NoListener) {
        let opening = match handshake.role {
            Role::Server => TcpState::SynRecv,
            Role::Client => TcpState::SynSent,
        };
        let from = end.map_or(opening, |end| end.from);
        let to = if handshake.result.is_ok() { TcpState::Established } else { TcpState::Close };
        detail.add(format_args!("{from} → {to}"));
        detail.gap();
    }
    match (handshake.result, handshake.duration.map(Human)) {
        (Ok(()), Some(duration)) => detail.add(format_args!("handshake {duration}")),
        (Ok(()), None) => {}
        (Err(failure), Some(duration)) => {
            detail.add(format_args!("{} after {duration}", spaced(failure.label())));
        }
        (Err(failure), None) => detail.add(spaced(failure.label())),
    }
    if let Some(held) = held_back(handshake, end) {
        detail.add(format_args!("SYN left {} after connect()", Human(held)));
    }
    if let Some(times) = handshake.syn_retransmits.filter(|times| *times > 0) {
        let flags = match handshake.role {
            Role::Server => "SYN-ACK",
            Role::Client => "SYN",
        };
        detail.add(format_args!("{flags} sent again {}", Times(times)));
    }
    detail.0
}

/// How long a client's only SYN took to the interface, if that is long: it waited for the address of its next hop.
fn held_back(handshake: &Handshake, end: Option<StateChange>) -> Option<Duration> {
    if handshake.role != Role::Client || handshake.syn_retransmits != Some(0) {
        return None;
    }
    let held = end?.spent?.checked_sub(handshake.duration?)?;
    (held >= HELD_BACK).then_some(held)
}

/// Longer than a busy host takes to send a segment.
const HELD_BACK: Duration = Duration::from_millis(10);
