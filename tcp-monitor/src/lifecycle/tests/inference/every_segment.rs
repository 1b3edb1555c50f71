//! Every state, with every set of flags, sent and received, by a client and by a server, with
//! numbers that fit and numbers that do not: the tracker must report what RFC 9293 says.

use std::collections::BTreeSet;

use tcp_monitor_common::TcpState::{
    self, Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, NewSynRecv, SynRecv,
    SynSent, TimeWait,
};
use tcp_monitor_common::record::Role::{Client, Server};
use tcp_monitor_common::transition::is_synchronized;

use super::ends::{Ends, Numbers, Way};
use super::rfc9293::{Answer, Effect, after_sending, name, on_receiving};
use crate::lifecycle::event::Unexpected;
use crate::lifecycle::segment::Flags;

/// How each end enters each state that it can be in. Segments do not distinguish the kernel's
/// NEW_SYN_RECV from SYN_RECV.
const WAYS: [Way; 38] = [
    (Close, Client, Close, ""),
    (Close, Client, Close, ">S <RA"),
    (Close, Client, Close, ">S <SA >A >R"),
    (Close, Client, TimeWait, ">S <SA >A <FA >FA <A"),
    (Close, Server, Close, "<S >SA <A <RA"),
    (Close, Server, TimeWait, "<S >SA <A <FA >FA <A"),
    (Listen, Server, Close, ""),
    (Listen, Server, SynSent, "<S"),
    (SynSent, Client, Listen, ">S"),
    (SynSent, Client, SynRecv, ">S <SA"),
    (SynSent, Client, FinWait1, ">S <SA <FA"),
    (SynSent, Client, SynSent, ">S <S"),
    (SynRecv, Client, SynSent, ">S <S >SA"),
    (SynRecv, Server, SynSent, "<S >SA"),
    (Established, Client, SynRecv, ">S <S >SA <SA"),
    (Established, Client, Established, ">S <SA >A"),
    (Established, Server, Established, "<S >SA <A"),
    (Established, Client, FinWait1, ">S <SA >A <FA"),
    (Established, Server, FinWait1, "<S >SA <A <FA"),
    (FinWait1, Client, Established, ">S <SA >A >FA"),
    (FinWait1, Server, Established, "<S >SA <A >FA"),
    (FinWait1, Server, SynSent, "<S >SA >FA"),
    (FinWait1, Client, FinWait1, ">S <SA >A >FA <FA~"),
    (FinWait1, Server, FinWait1, "<S >SA <A >FA <FA~"),
    (FinWait2, Client, CloseWait, ">S <SA >A >FA <A"),
    (FinWait2, Server, CloseWait, "<S >SA <A >FA <A"),
    (FinWait2, Client, LastAck, ">S <SA >A >FA <FA"),
    (FinWait2, Server, LastAck, "<S >SA <A >FA <FA"),
    (CloseWait, Client, FinWait2, ">S <SA >A <FA >A"),
    (CloseWait, Server, FinWait2, "<S >SA <A <FA >A"),
    (LastAck, Client, FinWait2, ">S <SA >A <FA >FA"),
    (LastAck, Server, FinWait2, "<S >SA <A <FA >FA"),
    (Closing, Client, FinWait2, ">S <SA >A >FA <FA~ >A"),
    (Closing, Server, FinWait2, "<S >SA <A >FA <FA~ >A"),
    (TimeWait, Client, Close, ">S <SA >A >FA <FA >A"),
    (TimeWait, Server, Close, "<S >SA <A >FA <FA >A"),
    (TimeWait, Client, TimeWait, ">S <SA >A >FA <FA~ >A <A"),
    (TimeWait, Server, TimeWait, "<S >SA <A >FA <FA~ >A <A"),
];

const NUMBERS: [Numbers; 5] =
    [Numbers::Fit, Numbers::FitButFin, Numbers::Old, Numbers::Ahead, Numbers::AckOfUnsent];

/// A segment that one of the ends sends.
#[derive(Clone, Copy)]
struct Trial<'a> {
    way: &'a Way,
    /// 0: the end; 1: its peer.
    from: usize,
    flags: Flags,
    numbers: Numbers,
}

impl Trial<'_> {
    fn has(&self, flag: Flags) -> bool {
        self.flags.contains(flag)
    }

    /// It carries a SYN that counts.
    fn opens(&self) -> bool {
        self.has(Flags::SYN) && !self.has(Flags::RST)
    }

    fn sender(&self) -> TcpState {
        if self.from == 0 { self.way.0 } else { self.way.2 }
    }

    fn receiver(&self) -> TcpState {
        if self.from == 0 { self.way.2 } else { self.way.0 }
    }

    /// Whether there is such a segment. A SYN that opens a connection chooses its sequence number,
    /// so that none is old or ahead.
    fn is_possible(&self, fin_unacked: bool) -> bool {
        let chooses = matches!(self.sender(), Close | Listen | SynSent | SynRecv | TimeWait)
            || self.receiver() == SynSent;
        match self.numbers {
            Numbers::Fit | Numbers::AckOfUnsent => true,
            Numbers::FitButFin => fin_unacked,
            Numbers::Old | Numbers::Ahead => !(self.opens() && chooses),
        }
    }

    /// Whether the receiver accepts it: RFC 9293, section 3.10.7, and for a RST RFC 5961, section
    /// 3.2.
    fn is_acceptable(&self) -> bool {
        let [rst, ack] = [Flags::RST, Flags::ACK].map(|flag| self.has(flag));
        match self.receiver() {
            // Nothing was sent, and nothing is expected.
            Close | Listen => true,
            SynSent => (ack || !rst) && !(ack && self.numbers == Numbers::AckOfUnsent),
            SynRecv | NewSynRecv | Established | FinWait1 | FinWait2 | CloseWait | Closing | LastAck
            | TimeWait => match self.numbers {
                Numbers::Fit | Numbers::FitButFin => true,
                Numbers::Old | Numbers::Ahead => false,
                Numbers::AckOfUnsent => rst || !ack,
            },
        }
    }

    /// Whether an observer accepts it though the receiver does not: it may have missed earlier
    /// segments.
    fn is_lenient(&self) -> bool {
        let [fin, ack] = [Flags::FIN, Flags::ACK].map(|flag| self.has(flag));
        let is_plain = ack && !self.has(Flags::RST) && !self.opens();
        match self.numbers {
            Numbers::Ahead => is_plain,
            // A retransmission acknowledges too.
            Numbers::Old => is_plain && !fin,
            // A SYN-ACK of a new connection from addresses in TIME_WAIT: its SYN was missed.
            Numbers::AckOfUnsent => self.opens() && ack && self.receiver() == TimeWait,
            Numbers::Fit | Numbers::FitButFin => false,
        }
    }

    /// The state of the end after it has sent the segment.
    fn after_sending(&self, acks_fin: bool) -> TcpState {
        let state = self.way.0;
        let out_of_window = matches!(self.numbers, Numbers::Old | Numbers::Ahead);
        // The RST is not of the connection that is being opened, but of an earlier one.
        let disowns = self.has(Flags::RST) && out_of_window && state == SynSent;
        // The connection of the SYN that it answers is closed, too.
        let is_stray =
            self.opens() && self.has(Flags::ACK) && self.receiver() == TimeWait && state == TimeWait;
        let is_known = !self.way.3.is_empty() && state != Listen;
        if disowns || !self.is_acceptable() && !self.is_lenient() || is_stray && !self.is_lenient() {
            state
        } else if !is_known && name(self.flags) == "FA" {
            // Neither CLOSE nor LISTEN sends a FIN: the connection is first seen here.
            FinWait1
        } else {
            after_sending(state, self.flags, acks_fin)
        }
    }

    fn on_receiving(&self, acks_fin: bool) -> Effect {
        let state = self.receiver();
        if self.is_lenient() && state == TimeWait && self.opens() {
            Effect { state: Close, answer: None, misplaced: false }
        } else if self.is_acceptable() || self.is_lenient() {
            on_receiving(state, self.flags, acks_fin)
        } else {
            let is_opening = matches!(state, SynSent | SynRecv);
            let rejects = is_opening && self.numbers == Numbers::AckOfUnsent;
            let answer = if rejects { Answer::Rst } else { Answer::Ack };
            let answer = (!self.has(Flags::RST)).then_some(answer);
            Effect { state, answer, misplaced: true }
        }
    }

    /// What is unexpected about the segment.
    fn verdict(&self) -> Option<Unexpected> {
        let is_misplaced = on_receiving(self.receiver(), self.flags, false).misplaced;
        if self.has(Flags::RST) {
            (!self.is_acceptable()).then_some(Unexpected::OutOfWindow)
        } else if is_misplaced && !(self.is_lenient() && self.opens()) {
            Some(Unexpected::State)
        } else if self.is_acceptable() || self.is_lenient() && self.numbers != Numbers::Ahead {
            None
        } else if self.numbers == Numbers::AckOfUnsent {
            Some(Unexpected::Ack)
        } else {
            Some(Unexpected::OutOfWindow)
        }
    }

    fn run(&self) -> Result<bool, String> {
        let mut ends = Ends::after(self.way);
        let fin_unacked = ends.sent[1 - self.from].fin_unacked;
        if !self.is_possible(fin_unacked) {
            return Ok(false);
        }
        let acks_fin = self.has(Flags::ACK) && fin_unacked && self.numbers != Numbers::FitButFin;
        let segment = ends.segment(self.from, self.flags, self.numbers);
        let verdict = ends.pass(self.from, segment);
        let expected = if self.from == 0 {
            self.after_sending(acks_fin)
        } else {
            let effect = self.on_receiving(acks_fin);
            if let Some(answer) = effect.answer {
                let answer = ends.answer(answer, &segment, effect.misplaced);
                ends.pass(0, answer);
            }
            effect.state
        };
        // Before a connection is established, a segment can be ambiguous.
        let is_judged = [self.sender(), self.receiver()].into_iter().all(is_synchronized);
        let is_right = verdict.is_none_or(|verdict| !is_judged || verdict == self.verdict());
        if ends.is_in(0, expected) && is_right {
            return Ok(true);
        }
        let (way, numbers, reported) = (self.way, self.numbers, ends.reported[0]);
        let direction = if self.from == 0 { "sent" } else { "received" };
        Err(format!(
            "{way:?}: {} {direction}, {numbers:?}: {reported:?}, {verdict:?} and not {expected:?}, {:?}",
            name(self.flags),
            self.verdict()
        ))
    }
}

#[test]
fn a_segment_has_the_effect_that_rfc_9293_says() {
    let (mut done, mut wrong) = (0, BTreeSet::new());
    for way in &WAYS {
        for from in [0, 1] {
            for numbers in NUMBERS {
                // All combinations of FIN, SYN, RST, PSH, ACK and URG; PSH and URG make no
                // difference.
                for flags in (0..64).map(Flags::from_low_byte) {
                    match (Trial { way, from, flags, numbers }).run() {
                        Ok(is_possible) => done += u32::from(is_possible),
                        Err(text) => {
                            wrong.insert(text);
                        }
                    }
                }
            }
        }
    }
    let wrong = Vec::from_iter(wrong).join("\n");
    assert!(wrong.is_empty(), "of {done}:\n{wrong}");
}

#[test]
fn both_roles_are_tested_in_every_state_they_can_be_in() {
    for state in TcpState::ALL {
        let roles = [Client, Server].map(|role| WAYS.iter().any(|way| (way.0, way.1) == (state, role)));
        let expected = match state {
            SynSent => [true, false],
            Listen => [false, true],
            NewSynRecv => [false, false],
            Close | SynRecv | Established | FinWait1 | FinWait2 | CloseWait | Closing | LastAck
            | TimeWait => [true, true],
        };
        assert_eq!(roles, expected, "{state}");
    }
}
