//! Zero series: the series of a service port that exist from the start, with value 0.
//!
//! `rate()` and `increase()` miss the first event of a series that appears with it. Events that
//! this agent cannot see have no series, since a 0 would be read as "did not happen". Any other
//! series appears when it is first counted.

use tcp_monitor_common::TcpState::{
    self, Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, NewSynRecv, SynRecv,
    SynSent, TimeWait,
};
use tcp_monitor_common::counters::{HandshakeFailure, STATES};
use tcp_monitor_common::record::{ResetPhase, Role};

/// Whether this transition has a zero series.
///
/// These are the arrows of RFC 9293, figure 5, as `inet_sock_set_state` reports them, those of
/// half-open connections, which the classifiers see, and the exit from TIME_WAIT, which is known
/// only where the kernel lists its sockets. To the figure's arrows the kernel adds an abort from
/// every state, and for fast open a FIN in the SYN.
pub(super) const fn transition(from: TcpState, to: TcpState) -> bool {
    ZERO_SERIES[from as usize][to as usize]
}

/// Whether handshakes of this role can fail for this reason.
///
/// Most of a server's fail while half open, which only classifiers see. On interfaces that
/// `--interface` leaves out they are not counted, and their series exist all the same.
pub(super) const fn handshake_failure(role: Role, reason: HandshakeFailure) -> bool {
    match (role, reason) {
        (
            Role::Client,
            HandshakeFailure::Refused
            | HandshakeFailure::TimedOut
            | HandshakeFailure::HostUnreachable
            | HandshakeFailure::NetUnreachable
            | HandshakeFailure::Aborted
            | HandshakeFailure::Other,
        ) => true,
        (
            Role::Server,
            HandshakeFailure::Reset
            | HandshakeFailure::TimedOut
            | HandshakeFailure::AcceptQueueFull
            | HandshakeFailure::SynDropped
            | HandshakeFailure::NoListener
            | HandshakeFailure::Aborted
            | HandshakeFailure::Other,
        ) => true,
        (
            Role::Client,
            HandshakeFailure::Reset
            | HandshakeFailure::AcceptQueueFull
            | HandshakeFailure::SynDropped
            | HandshakeFailure::NoListener,
        )
        | (
            Role::Server,
            HandshakeFailure::Refused | HandshakeFailure::HostUnreachable | HandshakeFailure::NetUnreachable,
        ) => false,
    }
}

/// Whether a kernel that gives no reasons (before 6.12) reports a RST that it sends in this phase:
/// only of full sockets.
pub(super) const fn reset_without_reason(phase: ResetPhase) -> bool {
    match phase {
        ResetPhase::Handshake | ResetPhase::Established | ResetPhase::Closing => true,
        ResetPhase::TimeWait | ResetPhase::NoSocket => false,
    }
}

/// Whether a kernel that gives reasons (6.12 and later) can send a RST for this `sk_rst_reason` in
/// this phase.
///
/// From the callers of `tcp_send_active_reset`, `tcp_v4_send_reset` and `tcp_v6_send_reset` in 6.12
/// to 7.2. 17 to 23 are the reasons of MPTCP, whose subflows are TCP sockets.
pub(super) const fn reset_reason(phase: ResetPhase, reason: u8) -> bool {
    match phase {
        // not_specified; an unacceptable answer to SYN or SYN-ACK; invalid_syn, tcp_abort_on_close;
        // tcp_state; error
        ResetPhase::Handshake => matches!(reason, 0 | 2..=7 | 10..=11 | 14 | 17..=24),
        // not_specified; tcp_abort_on_close; tcp_state, tcp_keepalive_timeout; error
        ResetPhase::Established => matches!(reason, 0 | 11 | 14..=15 | 17..=24),
        // not_specified; tcp_abort_on_data; tcp_abort_on_close to tcp_disconnect_with_data; error
        ResetPhase::Closing => matches!(reason, 0 | 8 | 11..=24),
        // tcp_timewait_socket
        ResetPhase::TimeWait => reason == 9,
        // no_socket
        ResetPhase::NoSocket => reason == 1,
    }
}

const ZERO_SERIES: [[bool; STATES]; STATES] = {
    let mut zero_series = [[false; STATES]; STATES];
    let mut index = 0;
    while index < TRANSITIONS.len() {
        let (from, to) = TRANSITIONS[index];
        zero_series[from as usize][to as usize] = true;
        index += 1;
    }
    zero_series
};

const TRANSITIONS: [(TcpState, TcpState); 27] = [
    // Opening.
    (Close, Listen),
    (Close, SynSent),
    (Listen, NewSynRecv),
    (NewSynRecv, Close),
    (Listen, SynRecv),
    (SynSent, SynRecv),
    (SynSent, Established),
    (SynRecv, Established),
    // Closing.
    (SynRecv, FinWait1),
    (SynRecv, CloseWait),
    (Established, FinWait1),
    (Established, CloseWait),
    (FinWait1, FinWait2),
    (FinWait1, Closing),
    (FinWait2, TimeWait),
    (Closing, TimeWait),
    (CloseWait, LastAck),
    // The end, orderly or not.
    (Listen, Close),
    (SynSent, Close),
    (SynRecv, Close),
    (Established, Close),
    (FinWait1, Close),
    (FinWait2, Close),
    (CloseWait, Close),
    (LastAck, Close),
    (Closing, Close),
    (TimeWait, Close),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tcp_monitor_common::TcpState;
    use tcp_monitor_common::counters::reset_reason_label;
    use tcp_monitor_common::record::ResetPhase;

    use super::{TRANSITIONS, ZERO_SERIES, reset_reason};

    #[test]
    fn every_state_is_reached_from_close_and_leads_back() {
        let closure = |arrow: fn((TcpState, TcpState)) -> (TcpState, TcpState)| {
            let mut reached = BTreeSet::from([TcpState::Close]);
            while let Some((_, next)) = TRANSITIONS
                .map(arrow)
                .into_iter()
                .find(|(from, to)| reached.contains(from) && !reached.contains(to))
            {
                reached.insert(next);
            }
            reached
        };
        let expected = BTreeSet::from(TcpState::ALL);
        assert_eq!(closure(|forward| forward), expected);
        assert_eq!(closure(|(from, to)| (to, from)), expected);
    }

    #[test]
    fn no_transition_is_listed_twice_or_stays_where_it_is() {
        let listed = ZERO_SERIES.as_flattened().iter().filter(|listed| **listed).count();
        assert_eq!(listed, TRANSITIONS.len());
        assert!(TRANSITIONS.iter().all(|(from, to)| from != to));
    }

    #[test]
    fn every_reason_with_a_name_can_occur_in_some_phase_and_no_other_can() {
        for reason in 0..=u8::MAX {
            let possible = ResetPhase::ALL.into_iter().any(|phase| reset_reason(phase, reason));
            assert_eq!(possible, reset_reason_label(reason) != "unknown", "{reason}");
        }
    }
}
