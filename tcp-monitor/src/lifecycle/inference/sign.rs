//! What a segment proves of the state of the end that sent it and of the end it went to: RFC 9293, section 3.10.7, as seen
//! from outside, in one table over all states.
//!
//! A state is entered when a segment proves it. What an end must answer, a SYN or a FIN, counts as received once it is
//! answered, for it may be lost behind the point where it was seen, and is then sent again. What nobody answers, an
//! acknowledgment or a RST, counts as received when it is seen.

use tcp_monitor_common::TcpState;

use crate::lifecycle::segment::Flags;

/// Which of its two ends a segment is looked at from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the end that sent it.
    Sent,
    /// From the end that it went to.
    Received,
}

/// One thing that a segment says. Its numbers were found acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// SYN without ACK.
    Syn,
    /// SYN with ACK.
    SynAck,
    /// It acknowledges the receiver's SYN.
    AckOfSyn,
    /// It acknowledges the receiver's FIN.
    AckOfFin,
    /// FIN.
    Fin,
    /// RST.
    Rst,
}

/// What a segment with these flags says, in the order in which it counts. Of contradictory flags RST counts before SYN before
/// FIN. But for SYN and RST, a segment without ACK says nothing (RFC 9293, section 3.10.7.4, fifth).
pub(super) fn signs(flags: Flags, acks_syn: bool, acks_fin: bool) -> impl Iterator<Item = Sign> {
    let [rst, syn, fin, ack] =
        [Flags::RST, Flags::SYN, Flags::FIN, Flags::ACK].map(|flag| flags.contains(flag));
    let opens = syn && !rst;
    let acknowledges = ack && !rst;
    [
        (rst, Sign::Rst),
        (opens && !ack, Sign::Syn),
        (opens && ack, Sign::SynAck),
        (acknowledges && acks_syn, Sign::AckOfSyn),
        (acknowledges && acks_fin, Sign::AckOfFin),
        (acknowledges && !syn && fin, Sign::Fin),
    ]
    .into_iter()
    .filter(|(is_said, _)| *is_said)
    .map(|(_, sign)| sign)
}

/// The state of an end in `state` after a segment that says `sign`.
pub(super) const fn next(state: TcpState, way: Way, sign: Sign) -> TcpState {
    match way {
        Way::Sent => after_sending(state, sign),
        Way::Received => after_receiving(state, sign),
    }
}

const fn after_sending(state: TcpState, sign: Sign) -> TcpState {
    use TcpState as S;
    match sign {
        Sign::Syn => match state {
            S::Close | S::Listen => S::SynSent,
            S::SynSent
            | S::SynRecv
            | S::NewSynRecv
            | S::Established
            | S::FinWait1
            | S::FinWait2
            | S::CloseWait
            | S::Closing
            | S::LastAck
            | S::TimeWait => state,
        },
        Sign::SynAck => match state {
            // From SYN_SENT: both ends opened at once.
            S::Close | S::Listen | S::SynSent => S::SynRecv,
            S::SynRecv
            | S::NewSynRecv
            | S::Established
            | S::FinWait1
            | S::FinWait2
            | S::CloseWait
            | S::Closing
            | S::LastAck
            | S::TimeWait => state,
        },
        // Proves that the peer's SYN-ACK was received. With fast open a server sends data in SYN_RECV.
        Sign::AckOfSyn => match state {
            S::SynSent => S::Established,
            S::Close
            | S::Listen
            | S::SynRecv
            | S::NewSynRecv
            | S::Established
            | S::FinWait1
            | S::FinWait2
            | S::CloseWait
            | S::Closing
            | S::LastAck
            | S::TimeWait => state,
        },
        // Proves that the peer's FIN was received.
        Sign::AckOfFin => match state {
            S::SynRecv | S::NewSynRecv | S::Established => S::CloseWait,
            S::FinWait1 => S::Closing,
            S::FinWait2 => S::TimeWait,
            S::Close | S::Listen | S::SynSent | S::CloseWait | S::Closing | S::LastAck | S::TimeWait => state,
        },
        Sign::Fin => match state {
            S::SynRecv | S::NewSynRecv | S::Established => S::FinWait1,
            S::CloseWait => S::LastAck,
            S::Close
            | S::Listen
            | S::SynSent
            | S::FinWait1
            | S::FinWait2
            | S::Closing
            | S::LastAck
            | S::TimeWait => state,
        },
        Sign::Rst => match state {
            S::SynSent
            | S::SynRecv
            | S::NewSynRecv
            | S::Established
            | S::FinWait1
            | S::FinWait2
            | S::CloseWait
            | S::Closing
            | S::LastAck => S::Close,
            // A listener and a TIME_WAIT socket answer strays with RST and stay.
            S::Close | S::Listen | S::TimeWait => state,
        },
    }
}

const fn after_receiving(state: TcpState, sign: Sign) -> TcpState {
    use TcpState as S;
    match sign {
        // It shows when they are answered.
        Sign::Syn | Sign::SynAck | Sign::Fin => state,
        Sign::AckOfSyn => match state {
            S::SynRecv | S::NewSynRecv => S::Established,
            S::Close
            | S::Listen
            | S::SynSent
            | S::Established
            | S::FinWait1
            | S::FinWait2
            | S::CloseWait
            | S::Closing
            | S::LastAck
            | S::TimeWait => state,
        },
        Sign::AckOfFin => match state {
            S::FinWait1 => S::FinWait2,
            S::Closing => S::TimeWait,
            S::LastAck => S::Close,
            S::Close
            | S::Listen
            | S::SynSent
            | S::SynRecv
            | S::NewSynRecv
            | S::Established
            | S::FinWait2
            | S::CloseWait
            | S::TimeWait => state,
        },
        Sign::Rst => match state {
            S::SynSent
            | S::SynRecv
            | S::NewSynRecv
            | S::Established
            | S::FinWait1
            | S::FinWait2
            | S::CloseWait
            | S::Closing
            | S::LastAck
            | S::TimeWait => S::Close,
            S::Close | S::Listen => state,
        },
    }
}

#[cfg(test)]
mod tests {
    use tcp_monitor_common::TcpState::{
        self, Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, NewSynRecv,
        SynRecv, SynSent, TimeWait,
    };

    use super::{Sign, Way, next, signs};
    use crate::lifecycle::segment::Flags;

    const SIGNS: [Sign; 6] = [Sign::Syn, Sign::SynAck, Sign::AckOfSyn, Sign::AckOfFin, Sign::Fin, Sign::Rst];

    type Transition = (TcpState, TcpState);

    /// Every transition there is. What is not here does not change the state.
    const TRANSITIONS: [(Way, Sign, &[Transition]); 10] = [
        (Way::Sent, Sign::Syn, &[(Close, SynSent), (Listen, SynSent)]),
        (Way::Sent, Sign::SynAck, &[(Close, SynRecv), (Listen, SynRecv), (SynSent, SynRecv)]),
        (Way::Sent, Sign::AckOfSyn, &[(SynSent, Established)]),
        (
            Way::Sent,
            Sign::AckOfFin,
            &[(SynRecv, CloseWait), (Established, CloseWait), (FinWait1, Closing), (FinWait2, TimeWait)],
        ),
        (Way::Sent, Sign::Fin, &[(SynRecv, FinWait1), (Established, FinWait1), (CloseWait, LastAck)]),
        (Way::Sent, Sign::Rst, &TO_CLOSE),
        (Way::Received, Sign::AckOfSyn, &[(SynRecv, Established)]),
        (Way::Received, Sign::AckOfFin, &[(FinWait1, FinWait2), (Closing, TimeWait), (LastAck, Close)]),
        (Way::Received, Sign::Rst, &TO_CLOSE),
        (Way::Received, Sign::Rst, &[(TimeWait, Close)]),
    ];

    const TO_CLOSE: [Transition; 8] = [
        (SynSent, Close),
        (SynRecv, Close),
        (Established, Close),
        (FinWait1, Close),
        (FinWait2, Close),
        (CloseWait, Close),
        (Closing, Close),
        (LastAck, Close),
    ];

    #[test]
    fn the_transitions_are_those_of_the_table() {
        for state in TcpState::ALL {
            for way in [Way::Sent, Way::Received] {
                for sign in SIGNS {
                    // The kernel's request sockets are SYN_RECEIVED of the RFC.
                    let named = if state == NewSynRecv { SynRecv } else { state };
                    let rows = TRANSITIONS.iter().filter(|(w, s, _)| (*w, *s) == (way, sign));
                    let listed = rows.flat_map(|(_, _, row)| *row).find(|(from, _)| *from == named);
                    let expected = listed.map_or(state, |(_, to)| *to);
                    assert_eq!(next(state, way, sign), expected, "{state}, {sign:?} {way:?}");
                }
            }
        }
    }

    #[test]
    fn every_set_of_flags_says_one_thing_at_most_of_rst_syn_and_fin() {
        for byte in 0..=255_u8 {
            let flags = Flags::from_low_byte(byte);
            let has = |flag| flags.contains(flag);
            let said: Vec<_> = signs(flags, true, true).collect();
            let control = if has(Flags::RST) {
                Some(Sign::Rst)
            } else if has(Flags::SYN) {
                Some(if has(Flags::ACK) { Sign::SynAck } else { Sign::Syn })
            } else if has(Flags::FIN) && has(Flags::ACK) {
                Some(Sign::Fin)
            } else {
                None
            };
            let is_ack = |sign: &&Sign| matches!(sign, Sign::AckOfSyn | Sign::AckOfFin);
            assert_eq!(said.iter().find(|sign| !is_ack(sign)).copied(), control, "{byte:#x}");
            let acks = if has(Flags::ACK) && !has(Flags::RST) { 2 } else { 0 };
            assert_eq!(said.iter().filter(is_ack).count(), acks, "{byte:#x}");
            assert_eq!(said.len(), acks + usize::from(control.is_some()), "{byte:#x}");
            assert_eq!(signs(flags, false, false).count(), usize::from(control.is_some()), "{byte:#x}");
        }
    }

    #[test]
    fn a_fin_that_acknowledges_the_peers_fin_says_so_first() {
        let said = signs(Flags::FIN.union(Flags::ACK), false, true).collect::<Vec<_>>();
        assert_eq!(said, [Sign::AckOfFin, Sign::Fin]);
        let end = said.into_iter().fold(Established, |state, sign| next(state, Way::Sent, sign));
        assert_eq!(end, LastAck);
    }
}
