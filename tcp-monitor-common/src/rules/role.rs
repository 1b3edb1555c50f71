//! Which end of a connection a socket is, and what proves it.

use crate::rules::state::TcpState;

/// Which end of the connection the socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Passive open: accepted by a listener.
    Server = 0,
    /// Active open: connected.
    Client = 1,
}

impl Role {
    /// Both roles, in order of their number.
    pub const ALL: [Self; 2] = [Self::Server, Self::Client];
}

/// The role that being in `state` proves.
#[inline(always)]
#[must_use]
pub const fn role_in_state(state: TcpState) -> Option<Role> {
    match state {
        TcpState::SynSent => Some(Role::Client),
        TcpState::Listen => Some(Role::Server),
        TcpState::Close
        | TcpState::Established
        | TcpState::SynRecv
        | TcpState::FinWait1
        | TcpState::FinWait2
        | TcpState::TimeWait
        | TcpState::CloseWait
        | TcpState::LastAck
        | TcpState::Closing
        | TcpState::NewSynRecv => None,
    }
}

/// The role that a transition proves: that of the state it enters, else of the state it leaves.
#[inline(always)]
#[must_use]
pub const fn role_in_transition(from: TcpState, to: TcpState) -> Option<Role> {
    match role_in_state(to) {
        Some(role) => Some(role),
        None => role_in_state(from),
    }
}

#[cfg(test)]
mod tests {
    use super::{Role, role_in_state, role_in_transition};
    use crate::rules::state::TcpState::{self, Close, Established, Listen, SynRecv, SynSent};

    #[test]
    fn only_opening_states_prove_a_role() {
        for state in TcpState::ALL {
            let expected = [(SynSent, Role::Client), (Listen, Role::Server)];
            let expected = expected.into_iter().find_map(|(proof, role)| (proof == state).then_some(role));
            assert_eq!(role_in_state(state), expected, "{state:?}");
        }
    }

    #[test]
    fn both_states_of_a_transition_prove_a_role() {
        let table = [
            (Close, SynSent, Some(Role::Client)),
            (SynSent, Established, Some(Role::Client)),
            // Both ends sent a SYN.
            (SynSent, SynRecv, Some(Role::Client)),
            (Listen, SynRecv, Some(Role::Server)),
            (Listen, Close, Some(Role::Server)),
            // A simultaneous open ends the same way as a passive one.
            (SynRecv, Established, None),
            (Established, Close, None),
        ];
        for (from, to, expected) in table {
            assert_eq!(role_in_transition(from, to), expected, "{from:?} to {to:?}");
        }
    }
}
