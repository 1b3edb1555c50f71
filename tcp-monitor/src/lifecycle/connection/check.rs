//! The check that textbooks make on the numbers of each step: an acknowledgment number is the
//! sequence number of what it acknowledges, plus its length, plus one for a SYN or FIN; a sequence
//! number is the one that the peer expects.

use crate::lifecycle::event::{AckCheck, Acknowledged, Check, SeqCheck, Step};
use crate::lifecycle::input::SegmentInput;
use crate::lifecycle::segment::Flags;

/// What one end sent that can be acknowledged, as far as it was seen, and what was acknowledged of
/// it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::lifecycle) struct Sent {
    /// Its SYN or SYN-ACK; of its data, what ends last; its FIN.
    pieces: [Piece; 3],
    /// The last acknowledgment number that the peer sent.
    acked: u32,
    /// Which of the pieces there are, whether something was acknowledged, and whether the initial
    /// sequence number is known: it is the number of the SYN, even if that was not seen.
    known: [bool; 5],
}

/// What one segment carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Piece {
    seq: u32,
    /// Payload, bytes.
    len: u32,
}

impl Sent {
    /// Processes what a segment from this end carries.
    pub(super) fn send(&mut self, segment: &SegmentInput) {
        let flags = segment.header.flags;
        let piece = Piece { seq: segment.header.seq, len: segment.payload_len };
        if flags.contains(Flags::SYN) {
            match self.syn() {
                // Retransmitted, maybe without its data (RFC 7413, section 4.1.3).
                Some(syn) if syn.seq == piece.seq => {
                    self.set(SYN, Piece { len: syn.len.max(piece.len), ..piece });
                }
                Some(_) | None => {
                    *self = Self::default();
                    self.set(SYN, piece);
                    self.known[ISN] = true;
                }
            }
        } else if flags.contains(Flags::FIN) {
            self.set(FIN, piece);
        } else if piece.len > 0 && self.data().is_none_or(|data| is_ahead(piece.end(), data.end())) {
            self.set(DATA, piece);
        }
    }

    /// Its initial sequence number.
    pub(in crate::lifecycle) fn isn(&self) -> Option<u32> {
        self.known[ISN].then_some(self.pieces[SYN].seq)
    }

    /// Its initial sequence number is known from the acknowledgment of its SYN.
    pub(super) fn learn_isn(&mut self, isn: u32) {
        if !self.known[ISN] {
            (self.pieces[SYN].seq, self.known[ISN]) = (isn, true);
        }
    }

    /// What a segment from the peer acknowledges.
    pub(super) fn acknowledge(&mut self, segment: &SegmentInput) {
        if segment.header.flags.contains(Flags::ACK) {
            (self.acked, self.known[ACKED]) = (segment.header.ack, true);
        }
    }

    fn syn(&self) -> Option<Piece> {
        self.get(SYN)
    }

    fn data(&self) -> Option<Piece> {
        self.get(DATA)
    }

    fn fin(&self) -> Option<Piece> {
        self.get(FIN)
    }

    fn acked(&self) -> Option<u32> {
        self.known[ACKED].then_some(self.acked)
    }

    fn get(&self, which: usize) -> Option<Piece> {
        self.known[which].then_some(self.pieces[which])
    }

    fn set(&mut self, which: usize, piece: Piece) {
        (self.pieces[which], self.known[which]) = (piece, true);
    }

    /// Sequence number of its FIN itself, behind the data it carried.
    pub(in crate::lifecycle) fn fin_seq(&self) -> Option<u32> {
        self.fin().map(Piece::end)
    }

    /// The latest that was seen, as what it is acknowledged for.
    fn latest(&self) -> Option<(Acknowledged, Piece)> {
        let [fin, data, syn] = self.pieces();
        fin.or(data).or(syn)
    }

    /// What can be acknowledged, the latest first.
    fn pieces(&self) -> [Option<(Acknowledged, Piece)>; 3] {
        [(Acknowledged::Fin, self.fin()), (Acknowledged::Data, self.data()), (Acknowledged::Syn, self.syn())]
            .map(|(of, piece)| Some((of, piece?)))
    }

    /// What follows on the latest that was seen.
    fn next(&self) -> Option<u32> {
        self.latest().map(|(of, piece)| piece.end().wrapping_add(of.flag_len()))
    }

    /// None of it was seen, nor an acknowledgment of it.
    fn is_empty(&self) -> bool {
        let [syn, data, fin, acked, _] = self.known;
        !(syn || data || fin || acked)
    }
}

impl Piece {
    /// Behind its payload.
    const fn end(self) -> u32 {
        self.seq.wrapping_add(self.len)
    }
}

/// Checks the numbers of a step from `sender` to `receiver`, which is not processed yet.
pub(in crate::lifecycle) fn check(
    segment: &SegmentInput,
    step: Step,
    sender: &Sent,
    receiver: &Sent,
) -> Check {
    let has_ack = segment.header.flags.contains(Flags::ACK);
    Check {
        ack: if has_ack { check_ack(segment.header.ack, step, sender, receiver) } else { None },
        seq: check_seq(segment, step, sender, receiver),
    }
}

impl Check {
    /// The check of an acknowledgment number that is known to acknowledge what was not sent.
    pub(in crate::lifecycle) fn of_nothing_sent(self, receiver: &Sent) -> Self {
        let wrong = receiver.latest().map(|(of, piece)| against(of, piece, false));
        Self { ack: self.ack.or(wrong), ..self }
    }
}

/// Plain data and its acknowledgments are not seen by every source: what fits in with nothing that
/// was seen may be of those, and is wrong only where they have no place.
fn check_ack(ack: u32, step: Step, sender: &Sent, receiver: &Sent) -> Option<AckCheck> {
    for (of, piece) in receiver.pieces().into_iter().flatten() {
        if against(of, piece, true).expected() == ack {
            return Some(against(of, piece, true));
        }
        // The data of a SYN need not be taken (RFC 7413, section 4.2.2).
        let alone = Piece { len: 0, ..piece };
        if of == Acknowledged::Syn && against(of, alone, true).expected() == ack {
            return Some(against(of, alone, true));
        }
    }
    let only_syn = receiver.data().is_none() && receiver.fin().is_none();
    let wanted = match step {
        Step::SynAck => receiver.syn().map(|syn| (Acknowledged::Syn, syn)),
        Step::HandshakeAck if only_syn => receiver.syn().map(|syn| (Acknowledged::Syn, syn)),
        // It answers a SYN.
        Step::Rst if only_syn && sender.is_empty() => receiver.syn().map(|syn| (Acknowledged::Syn, syn)),
        Step::FinAck => receiver.fin().map(|fin| (Acknowledged::Fin, fin)),
        // Nothing comes behind a FIN.
        Step::Fin | Step::Rst => {
            receiver.fin().filter(|fin| is_ahead(ack, fin.end())).map(|fin| (Acknowledged::Fin, fin))
        }
        Step::Syn | Step::HandshakeAck => None,
    };
    wanted.map(|(of, piece)| against(of, piece, false))
}

const fn against(of: Acknowledged, piece: Piece, holds: bool) -> AckCheck {
    AckCheck { of, seq: piece.seq, len: piece.len, holds }
}

fn check_seq(segment: &SegmentInput, step: Step, sender: &Sent, receiver: &Sent) -> Option<SeqCheck> {
    let seq = segment.header.seq;
    let to_be = |expected| Some(SeqCheck { expected, holds: seq == expected });
    let is_next = [sender.next(), sender.acked()].contains(&Some(seq));
    // What it is ahead of may have passed unseen.
    let is_late = || sender.acked().is_some_and(|acked| is_ahead(acked, seq));
    match step {
        Step::Syn | Step::SynAck => None,
        Step::Rst if sender.is_empty() => {
            let refuses = receiver.syn().is_some() && segment.header.flags.contains(Flags::ACK);
            if refuses { to_be(0) } else { None }
        }
        // Retransmitted, maybe with other data before it.
        Step::Fin if sender.fin().is_some() => {
            sender.fin().and_then(|fin| to_be(fin.end().wrapping_sub(segment.payload_len)))
        }
        Step::HandshakeAck | Step::Fin | Step::FinAck | Step::Rst if is_next => to_be(seq),
        Step::HandshakeAck if is_late() => sender.acked().and_then(to_be),
        // What was seen of a large transfer can be anywhere.
        Step::Fin | Step::FinAck if (sender.data().is_some() || sender.fin().is_some()) && is_late() => {
            sender.acked().and_then(to_be)
        }
        // A RST that answers an old segment has the number that one acknowledged.
        Step::HandshakeAck | Step::Fin | Step::FinAck | Step::Rst => None,
    }
}

/// Whether `a` comes after `b`, as sequence numbers do (RFC 9293, section 3.4).
const fn is_ahead(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

const SYN: usize = 0;
const DATA: usize = 1;
const FIN: usize = 2;
const ACKED: usize = 3;
const ISN: usize = 4;
