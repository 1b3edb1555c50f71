//! RSTs: where in a connection's life they fall, and what the kernel reports as one without one.

use crate::rules::state::TcpState;

/// Where in a connection's life a RST fell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ResetPhase {
    /// Before ESTABLISHED, or from a listener.
    Handshake = 0,
    /// In ESTABLISHED.
    Established = 1,
    /// After a FIN was sent or received.
    Closing = 2,
    /// In TIME_WAIT.
    TimeWait = 3,
    /// No socket had that address.
    NoSocket = 4,
}

impl ResetPhase {
    /// Every phase, in order of its number.
    pub const ALL: [Self; 5] =
        [Self::Handshake, Self::Established, Self::Closing, Self::TimeWait, Self::NoSocket];

    /// The phase of a connection whose socket is in `state`.
    ///
    /// A socket in CLOSE whose last state is unknown was closed with the RST, after the handshake.
    #[inline(always)]
    #[must_use]
    pub const fn of_socket_in(state: TcpState) -> Self {
        match state {
            TcpState::SynSent | TcpState::SynRecv | TcpState::NewSynRecv | TcpState::Listen => {
                Self::Handshake
            }
            TcpState::Established => Self::Established,
            TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Closing
            | TcpState::Close => Self::Closing,
            TcpState::TimeWait => Self::TimeWait,
        }
    }
}

/// Whether a socket that the kernel resets in `state` may have received late data instead of a RST.
///
/// Data that arrives after `close()` makes the kernel set ECONNRESET and send a RST, and report a
/// received one (`tcp_rcv_state_process`, TCPAbortOnData). If this returns true and no RST of the
/// peer was seen on an interface that is watched, this end reset the connection.
#[inline(always)]
#[must_use]
pub const fn may_be_late_data(state: TcpState) -> bool {
    match state {
        TcpState::FinWait1 | TcpState::FinWait2 => true,
        TcpState::Established
        | TcpState::SynSent
        | TcpState::SynRecv
        | TcpState::TimeWait
        | TcpState::Close
        | TcpState::CloseWait
        | TcpState::LastAck
        | TcpState::Listen
        | TcpState::Closing
        | TcpState::NewSynRecv => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{ResetPhase, may_be_late_data};
    use crate::rules::state::TcpState::{
        self, Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, NewSynRecv,
        SynRecv, SynSent, TimeWait,
    };

    #[test]
    fn each_state_has_its_phase() {
        let table = [
            (ResetPhase::Handshake, &[SynSent, SynRecv, NewSynRecv, Listen][..]),
            (ResetPhase::Established, &[Established]),
            (ResetPhase::Closing, &[FinWait1, FinWait2, CloseWait, LastAck, Closing, Close]),
            (ResetPhase::TimeWait, &[TimeWait]),
        ];
        for (phase, states) in table {
            for state in states {
                assert_eq!(ResetPhase::of_socket_in(*state), phase, "{state:?}");
            }
        }
        assert_eq!(table.iter().map(|(_, states)| states.len()).sum::<usize>(), TcpState::ALL.len());
    }

    #[test]
    fn data_is_late_only_after_close_and_before_the_peers_fin() {
        for state in TcpState::ALL {
            assert_eq!(may_be_late_data(state), [FinWait1, FinWait2].contains(&state), "{state:?}");
        }
    }
}
