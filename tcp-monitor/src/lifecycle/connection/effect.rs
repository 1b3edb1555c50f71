//! What a segment proves of the state of the end that sent it and of the end it went to: RFC 9293,
//! section 3.10.7, as seen from outside, in one table over all states.
//!
//! A state is entered when a segment proves it. What an end must answer, a SYN or a FIN, counts as
//! received once it is answered, for it may be lost behind the point where it was seen, and is then
//! retransmitted. What is not answered, an acknowledgment or a RST, counts as received when it is
//! seen.

use tcp_monitor_common::TcpState;

use crate::lifecycle::segment::Flags;

/// From which of its two ends a segment is considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the end that sent it.
    Sent,
    /// From the end that it went to.
    Received,
}

/// One thing that a segment says. Its numbers were found acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
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

/// What a segment with these flags says, in the order in which it counts. Of contradictory flags
/// RST counts before SYN before FIN. But for SYN and RST, a segment without ACK says nothing (RFC
/// 9293, section 3.10.7.4, fifth).
pub(super) fn effects(flags: Flags, acks_syn: bool, acks_fin: bool) -> impl Iterator<Item = Effect> {
    let [rst, syn, fin, ack] =
        [Flags::RST, Flags::SYN, Flags::FIN, Flags::ACK].map(|flag| flags.contains(flag));
    let opens = syn && !rst;
    let acknowledges = ack && !rst;
    [
        (rst, Effect::Rst),
        (opens && !ack, Effect::Syn),
        (opens && ack, Effect::SynAck),
        (acknowledges && acks_syn, Effect::AckOfSyn),
        (acknowledges && acks_fin, Effect::AckOfFin),
        (acknowledges && !syn && fin, Effect::Fin),
    ]
    .into_iter()
    .filter(|(is_said, _)| *is_said)
    .map(|(_, effect)| effect)
}

/// The state of an end in `state` after a segment that says `effect`.
pub(super) const fn next(state: TcpState, way: Way, effect: Effect) -> TcpState {
    match way {
        Way::Sent => after_sending(state, effect),
        Way::Received => after_receiving(state, effect),
    }
}

const fn after_sending(state: TcpState, effect: Effect) -> TcpState {
    use TcpState as S;
    match effect {
        Effect::Syn => match state {
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
        Effect::SynAck => match state {
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
        // Proves that the peer's SYN-ACK was received. With fast open a server sends data in
        // SYN_RECV.
        Effect::AckOfSyn => match state {
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
        Effect::AckOfFin => match state {
            S::SynRecv | S::NewSynRecv | S::Established => S::CloseWait,
            S::FinWait1 => S::Closing,
            S::FinWait2 => S::TimeWait,
            S::Close | S::Listen | S::SynSent | S::CloseWait | S::Closing | S::LastAck | S::TimeWait => state,
        },
        Effect::Fin => match state {
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
        Effect::Rst => match state {
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

const fn after_receiving(state: TcpState, effect: Effect) -> TcpState {
    use TcpState as S;
    match effect {
        // It shows when they are answered.
        Effect::Syn | Effect::SynAck | Effect::Fin => state,
        Effect::AckOfSyn => match state {
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
        Effect::AckOfFin => match state {
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
        Effect::Rst => match state {
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

    use super::{Effect, Way, effects, next};
    use crate::lifecycle::segment::Flags;

    const EFFECTS: [Effect; 6] =
        [Effect::Syn, Effect::SynAck, Effect::AckOfSyn, Effect::AckOfFin, Effect::Fin, Effect::Rst];

    type Transition = (TcpState, TcpState);

    /// Every transition there is. What is not here does not change the state.
    const TRANSITIONS: [(Way, Effect, &[Transition]); 10] = [
        (Way::Sent, Effect::Syn, &[(Close, SynSent), (Listen, SynSent)]),
        (Way::Sent, Effect::SynAck, &[(Close, SynRecv), (Listen, SynRecv), (SynSent, SynRecv)]),
        (Way::Sent, Effect::AckOfSyn, &[(SynSent, Established)]),
        (
            Way::Sent,
            Effect::AckOfFin,
            &[(SynRecv, CloseWait), (Established, CloseWait), (FinWait1, Closing), (FinWait2, TimeWait)],
        ),
        (Way::Sent, Effect::Fin, &[(SynRecv, FinWait1), (Established, FinWait1), (CloseWait, LastAck)]),
        (Way::Sent, Effect::Rst, &TO_CLOSE),
        (Way::Received, Effect::AckOfSyn, &[(SynRecv, Established)]),
        (Way::Received, Effect::AckOfFin, &[(FinWait1, FinWait2), (Closing, TimeWait), (LastAck, Close)]),
        (Way::Received, Effect::Rst, &TO_CLOSE),
        (Way::Received, Effect::Rst, &[(TimeWait, Close)]),
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
                for effect in EFFECTS {
                    // The kernel's request sockets are SYN_RECEIVED of the RFC.
                    let named = if state == NewSynRecv { SynRecv } else { state };
                    let rows = TRANSITIONS.iter().filter(|(w, s, _)| (*w, *s) == (way, effect));
                    let listed = rows.flat_map(|(_, _, row)| *row).find(|(from, _)| *from == named);
                    let expected = listed.map_or(state, |(_, to)| *to);
                    assert_eq!(next(state, way, effect), expected, "{state}, {effect:?} {way:?}");
                }
            }
        }
    }

    #[test]
    fn every_set_of_flags_says_one_thing_at_most_of_rst_syn_and_fin() {
        for byte in 0..=255_u8 {
            let flags = Flags::from_low_byte(byte);
            let has = |flag| flags.contains(flag);
            let said: Vec<_> = effects(flags, true, true).collect();
            let control = if has(Flags::RST) {
                Some(Effect::Rst)
            } else if has(Flags::SYN) {
                Some(if has(Flags::ACK) { Effect::SynAck } else { Effect::Syn })
            } else if has(Flags::FIN) && has(Flags::ACK) {
                Some(Effect::Fin)
            } else {
                None
            };
            let is_ack = |effect: &&Effect| matches!(effect, Effect::AckOfSyn | Effect::AckOfFin);
            assert_eq!(said.iter().find(|effect| !is_ack(effect)).copied(), control, "{byte:#x}");
            let acks = if has(Flags::ACK) && !has(Flags::RST) { 2 } else { 0 };
            assert_eq!(said.iter().filter(is_ack).count(), acks, "{byte:#x}");
            assert_eq!(said.len(), acks + usize::from(control.is_some()), "{byte:#x}");
            assert_eq!(effects(flags, false, false).count(), usize::from(control.is_some()), "{byte:#x}");
        }
    }

    #[test]
    fn a_fin_that_acknowledges_the_peers_fin_says_so_first() {
        let said = effects(Flags::FIN.union(Flags::ACK), false, true).collect::<Vec<_>>();
        assert_eq!(said, [Effect::AckOfFin, Effect::Fin]);
        let end = said.into_iter().fold(Established, |state, effect| next(state, Way::Sent, effect));
        assert_eq!(end, LastAck);
    }
}
