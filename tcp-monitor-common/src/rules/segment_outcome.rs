//! Outcomes of ingress segments that no socket event reports: dropped SYN, accept-queue overflow,
//! RST without a socket.
//!
//! The classifier predicts what the kernel does with a segment and records that as its outcome. A
//! reaction of the kernel (a SYN-ACK, a child socket, a RST) cancels it. Without a reaction it is
//! committed: counted as this file says, by the programs when the next segment needs the place, or
//! by the agent when it reads the counters before that.

use crate::rules::cause::HandshakeFailure;
use crate::rules::reset::ResetPhase;

/// What a segment comes to if no reaction follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SegmentOutcome {
    /// A SYN is dropped: the accept queue is full.
    SynOverflow = 1,
    /// A SYN is dropped: the listener has too many requests and sends no SYN cookies.
    SynDropped = 2,
    /// A handshake ACK is dropped: the accept queue is full. The request stays.
    AckOverflow = 3,
    /// As before, but the request is answered with a RST and ends
    /// (`net.ipv4.tcp_abort_on_overflow`).
    AckRefused = 4,
    /// A SYN to a port without a listener. A RST answers it, or a firewall drops it.
    NoListener = 5,
    /// A SYN that its listener accepts. A firewall drops it, or its SYN-ACK waits for the address
    /// of the next hop.
    SynAccepted = 6,
    /// A RST to a timewait socket in FIN_WAIT2.
    RstInFinWait2 = 7,
    /// A RST to a socket in TIME_WAIT.
    RstInTimeWait = 8,
    /// A RST of no connection: no socket has its addresses, or only a listener.
    RstNoSocket = 9,
}

impl SegmentOutcome {
    /// Every outcome, in order of its number.
    pub const ALL: [Self; 9] = [
        Self::SynOverflow,
        Self::SynDropped,
        Self::AckOverflow,
        Self::AckRefused,
        Self::NoListener,
        Self::SynAccepted,
        Self::RstInFinWait2,
        Self::RstInTimeWait,
        Self::RstNoSocket,
    ];

    /// The outcome with this number.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::SynOverflow,
            2 => Self::SynDropped,
            3 => Self::AckOverflow,
            4 => Self::AckRefused,
            5 => Self::NoListener,
            6 => Self::SynAccepted,
            7 => Self::RstInFinWait2,
            8 => Self::RstInTimeWait,
            9 => Self::RstNoSocket,
            _ => return None,
        })
    }

    /// Whether it counts as an overflow of the accept queue.
    #[inline(always)]
    #[must_use]
    pub const fn overflows_accept_queue(self) -> bool {
        match self {
            Self::SynOverflow | Self::AckOverflow | Self::AckRefused => true,
            Self::SynDropped
            | Self::NoListener
            | Self::SynAccepted
            | Self::RstInFinWait2
            | Self::RstInTimeWait
            | Self::RstNoSocket => false,
        }
    }

    /// Whether it ends the half-open request that the segment is for: from NEW_SYN_RECV to CLOSE.
    #[inline(always)]
    #[must_use]
    pub const fn ends_request(self) -> bool {
        match self {
            Self::AckRefused => true,
            Self::SynOverflow
            | Self::SynDropped
            | Self::AckOverflow
            | Self::NoListener
            | Self::SynAccepted
            | Self::RstInFinWait2
            | Self::RstInTimeWait
            | Self::RstNoSocket => false,
        }
    }

    /// The failure that it counts as, of a server's handshake.
    ///
    /// A SYN to a port without a listener counts only when the RST that answers it leaves.
    #[inline(always)]
    #[must_use]
    pub const fn handshake_failure(self) -> Option<HandshakeFailure> {
        match self {
            Self::SynOverflow | Self::AckRefused => Some(HandshakeFailure::AcceptQueueFull),
            Self::SynDropped => Some(HandshakeFailure::SynDropped),
            Self::AckOverflow
            | Self::NoListener
            | Self::SynAccepted
            | Self::RstInFinWait2
            | Self::RstInTimeWait
            | Self::RstNoSocket => None,
        }
    }

    /// The phase in which it counts as a received RST.
    #[inline(always)]
    #[must_use]
    pub const fn reset_received(self) -> Option<ResetPhase> {
        match self {
            Self::RstInFinWait2 => Some(ResetPhase::Closing),
            Self::RstInTimeWait => Some(ResetPhase::TimeWait),
            Self::RstNoSocket => Some(ResetPhase::NoSocket),
            Self::SynOverflow
            | Self::SynDropped
            | Self::AckOverflow
            | Self::AckRefused
            | Self::NoListener
            | Self::SynAccepted => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SegmentOutcome::{self, *};
    use crate::rules::cause::HandshakeFailure as Failure;
    use crate::rules::reset::ResetPhase as Phase;

    #[test]
    fn each_outcome_counts_as_this_table_says() {
        let table = [
            (SynOverflow, true, false, Some(Failure::AcceptQueueFull), None),
            (SynDropped, false, false, Some(Failure::SynDropped), None),
            (AckOverflow, true, false, None, None),
            (AckRefused, true, true, Some(Failure::AcceptQueueFull), None),
            (NoListener, false, false, None, None),
            (SynAccepted, false, false, None, None),
            (RstInFinWait2, false, false, None, Some(Phase::Closing)),
            (RstInTimeWait, false, false, None, Some(Phase::TimeWait)),
            (RstNoSocket, false, false, None, Some(Phase::NoSocket)),
        ];
        assert_eq!(table.map(|row| row.0), SegmentOutcome::ALL);
        for (outcome, overflows, ends_request, failure, reset) in table {
            assert_eq!(outcome.overflows_accept_queue(), overflows, "{outcome:?}");
            assert_eq!(outcome.ends_request(), ends_request, "{outcome:?}");
            assert_eq!(outcome.handshake_failure(), failure, "{outcome:?}");
            assert_eq!(outcome.reset_received(), reset, "{outcome:?}");
        }
    }

    #[test]
    fn numbers_and_outcomes_map_both_ways() {
        for outcome in SegmentOutcome::ALL {
            assert_eq!(SegmentOutcome::from_number(outcome as u32), Some(outcome));
        }
        // 0 stands for "none".
        assert_eq!([0, 10].map(SegmentOutcome::from_number), [None; 2]);
    }
}
