//! What a transition that the kernel reported means: one table over all pairs of states.

use crate::rules::cause::{ClosedBy, HandshakeFailure};
use crate::rules::role::Role;
use crate::rules::state::TcpState;

/// What a transition means for the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It stays open in its new state.
    Continues,
    /// The handshake is complete.
    Established,
    /// The handshake failed; the socket is closed.
    HandshakeFailed(HandshakeFailure),
    /// The kernel reports CLOSE because it freed the full socket; a timewait socket in TIME_WAIT
    /// takes its place.
    EntersTimeWait(ClosedBy),
    /// As before, with the timewait socket in its FIN_WAIT2 substate: the peer's FIN is still
    /// awaited.
    EntersFinWait2Timewait,
    /// The connection is over.
    Closed(ClosedBy),
    /// A listener is closed.
    ListenerClosed,
}

/// What is known of the socket at a transition.
#[derive(Clone, Copy, Debug)]
pub struct TransitionContext {
    /// Which end the socket is.
    pub role: Role,
    /// The errno the application will see, or 0.
    pub sk_err: u32,
    /// The peer's FIN was received.
    pub peer_closed: bool,
}

/// What the transition from `from` to `to` means. They differ: the caller ignores a transition to
/// the same state.
#[inline(always)]
#[must_use]
pub const fn outcome(from: TcpState, to: TcpState, at: TransitionContext) -> Outcome {
    use TcpState as S;
    match to {
        S::Established => match from {
            S::SynSent | S::SynRecv | S::NewSynRecv => Outcome::Established,
            S::Established
            | S::FinWait1
            | S::FinWait2
            | S::TimeWait
            | S::Close
            | S::CloseWait
            | S::LastAck
            | S::Listen
            | S::Closing => Outcome::Continues,
        },
        S::SynSent
        | S::SynRecv
        | S::NewSynRecv
        | S::FinWait1
        | S::FinWait2
        | S::TimeWait
        | S::CloseWait
        | S::LastAck
        | S::Listen
        | S::Closing => Outcome::Continues,
        S::Close => match from {
            S::SynSent => Outcome::HandshakeFailed(HandshakeFailure::of_client(at.sk_err)),
            S::SynRecv | S::NewSynRecv => Outcome::HandshakeFailed(failure_in_syn_recv(at)),
            S::Established | S::CloseWait | S::FinWait1 => Outcome::Closed(cause(at.sk_err)),
            S::FinWait2 if at.sk_err != 0 => Outcome::Closed(cause(at.sk_err)),
            S::FinWait2 if at.peer_closed => Outcome::EntersTimeWait(ClosedBy::Local),
            S::FinWait2 => Outcome::EntersFinWait2Timewait,
            S::Closing if at.sk_err != 0 => Outcome::Closed(cause(at.sk_err)),
            S::Closing => Outcome::EntersTimeWait(ClosedBy::Both),
            S::LastAck if at.sk_err != 0 => Outcome::Closed(cause(at.sk_err)),
            S::LastAck => Outcome::Closed(ClosedBy::Remote),
            // The kernel reports no transition of a TIME_WAIT socket.
            S::TimeWait => Outcome::Closed(ClosedBy::Local),
            S::Listen => Outcome::ListenerClosed,
            S::Close => Outcome::Continues,
        },
    }
}

/// Whether both ends agreed on sequence numbers: in ESTABLISHED and all states after it.
#[must_use]
pub const fn is_synchronized(state: TcpState) -> bool {
    use TcpState as S;
    match state {
        S::Established | S::FinWait1 | S::FinWait2 | S::CloseWait | S::LastAck | S::Closing | S::TimeWait => {
            true
        }
        S::SynSent | S::SynRecv | S::NewSynRecv | S::Close | S::Listen => false,
    }
}

/// What ended a connection, if not two FINs. `sk_err` is 0 when the application or the kernel here
/// gave up: it closed with unread data, with LINGER 0, or ran out of memory for sockets without a
/// file.
const fn cause(sk_err: u32) -> ClosedBy {
    match sk_err {
        0 => ClosedBy::LocalReset,
        EPIPE | ECONNRESET => ClosedBy::RemoteReset,
        ECONNABORTED => ClosedBy::Killed,
        // ETIMEDOUT, or the ICMP error that came meanwhile (kernel: tcp_write_err).
        _ => ClosedBy::TimedOut,
    }
}

const fn failure_in_syn_recv(at: TransitionContext) -> HandshakeFailure {
    match at.role {
        Role::Client => HandshakeFailure::of_client(at.sk_err),
        Role::Server => HandshakeFailure::of_server(at.sk_err),
    }
}

/// A RST in CLOSE_WAIT (kernel: `tcp_reset`).
const EPIPE: u32 = 32;
const ECONNABORTED: u32 = 103;
const ECONNRESET: u32 = 104;

#[cfg(test)]
mod tests {
    use crate::rules::cause::{ClosedBy, HandshakeFailure};
    use crate::rules::role::Role;
    use crate::rules::state::TcpState::{
        self, Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
    };

    use super::{Outcome, TransitionContext, outcome};

    #[test]
    fn each_way_to_close_has_its_cause() {
        use ClosedBy as By;
        use Outcome::{Closed, EntersFinWait2Timewait, EntersTimeWait, HandshakeFailed, ListenerClosed};
        let table: [(TcpState, u32, bool, Outcome); 22] = [
            (Listen, 0, false, ListenerClosed),
            (SynSent, 111, false, HandshakeFailed(HandshakeFailure::Refused)),
            (SynSent, 110, false, HandshakeFailed(HandshakeFailure::TimedOut)),
            (SynSent, 113, false, HandshakeFailed(HandshakeFailure::HostUnreachable)),
            (SynSent, 0, false, HandshakeFailed(HandshakeFailure::Aborted)),
            (SynRecv, 104, false, HandshakeFailed(HandshakeFailure::Reset)),
            (SynRecv, 0, false, HandshakeFailed(HandshakeFailure::Aborted)),
            (Established, 0, false, Closed(By::LocalReset)),
            (Established, 104, false, Closed(By::RemoteReset)),
            (Established, 110, false, Closed(By::TimedOut)),
            (Established, 113, false, Closed(By::TimedOut)),
            (Established, 103, false, Closed(By::Killed)),
            (CloseWait, 32, true, Closed(By::RemoteReset)),
            (CloseWait, 0, true, Closed(By::LocalReset)),
            (FinWait1, 110, false, Closed(By::TimedOut)),
            (FinWait2, 0, true, EntersTimeWait(By::Local)),
            (FinWait2, 0, false, EntersFinWait2Timewait),
            (FinWait2, 104, false, Closed(By::RemoteReset)),
            (Closing, 0, true, EntersTimeWait(By::Both)),
            (Closing, 104, true, Closed(By::RemoteReset)),
            (LastAck, 0, true, Closed(By::Remote)),
            (LastAck, 104, true, Closed(By::RemoteReset)),
        ];
        for (from, sk_err, peer_closed, expected) in table {
            let role = if from == SynRecv { Role::Server } else { Role::Client };
            let at = TransitionContext { role, sk_err, peer_closed };
            assert_eq!(outcome(from, Close, at), expected, "{from:?} with errno {sk_err}");
        }
    }

    #[test]
    fn only_a_handshake_establishes() {
        let at = TransitionContext { role: Role::Server, sk_err: 0, peer_closed: false };
        for from in TcpState::ALL {
            let handshake = matches!(from, SynSent | SynRecv | TcpState::NewSynRecv);
            assert_eq!(outcome(from, Established, at) == Outcome::Established, handshake, "{from:?}");
        }
    }
}
