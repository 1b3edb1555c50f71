//! The details of a segment: its numbers, whether they are right, and its options.

use crate::lifecycle::event::{AckCheck, Segment, SeqCheck, Step, Unexpected};
use crate::lifecycle::segment::Flags;
use crate::output::append::Append;
use crate::output::details::Details;

/// Adds the details of `segment`.
pub(super) fn add(segment: &Segment, details: &mut Details) {
    let header = &segment.header;
    let has_ack = header.flags.contains(Flags::ACK);
    match segment.step {
        Step::Syn | Step::SynAck => {
            details.value(("seq ", header.seq));
            if has_ack {
                details.value(("ack ", header.ack, CheckedAck { segment, shown: header.ack }));
            }
            details.value(("win ", header.window));
            if let Some(mss) = header.options.mss {
                details.value(("mss ", mss));
            }
            if let Some(shift) = header.options.window_scale {
                details.value(("wscale ", shift));
            }
            if header.options.sack_permitted {
                details.value("sack");
            }
            if header.options.timestamps.is_some() {
                details.value("ts");
            }
        }
        Step::HandshakeAck | Step::Fin | Step::FinAck | Step::Rst => {
            match segment.seq_rel {
                Some(seq) => details.value(("seq +", seq, CheckedSeq(segment))),
                None => details.value(("seq ", header.seq, CheckedSeq(segment))),
            }
            let check = CheckedAck { segment, shown: segment.ack_rel.unwrap_or(header.ack) };
            match segment.ack_rel {
                Some(ack) => details.value(("ack +", ack, check)),
                None if has_ack => details.value(("ack ", header.ack, check)),
                None => {}
            }
        }
    }
    if segment.payload_len > 0 {
        details.value(("len ", segment.payload_len));
    }
    if segment.syn_cookie {
        details.phrase("SYN cookie");
    }
    if segment.retransmission {
        details.phrase("retransmitted");
    }
    match segment.unexpected {
        None => {}
        Some(Unexpected::OutOfWindow) => details.phrase("out of window"),
        Some(Unexpected::Ack) => details.phrase("ACKed unseen segment"),
        Some(Unexpected::State) => details.phrase("unexpected"),
    }
}

/// The sum that an acknowledgment number, shown as `shown`, matches, or the right number.
struct CheckedAck<'a> {
    segment: &'a Segment,
    shown: u32,
}

impl Append for CheckedAck<'_> {
    fn append_to(&self, to: &mut String) {
        let Some(check) = self.segment.check.ack else { return };
        let sum = Sum(&check);
        if check.holds {
            return (" (=", sum, ')').append_to(to);
        }
        let off = check.expected().wrapping_sub(self.segment.header.ack);
        ((" (≠", sum), '=', self.shown.wrapping_add(off), ')').append_to(to);
    }
}

/// The right sequence number, if that of the segment is wrong.
struct CheckedSeq<'a>(&'a Segment);

impl Append for CheckedSeq<'_> {
    fn append_to(&self, to: &mut String) {
        match (self.0.check.seq, self.0.seq_rel) {
            (Some(SeqCheck { holds: true, .. }) | None, _) => {}
            (Some(SeqCheck { expected, .. }), None) => (" (≠", expected, ')').append_to(to),
            (Some(SeqCheck { expected, .. }), Some(seq)) => {
                let off = expected.wrapping_sub(self.0.header.seq);
                (" (≠+", seq.wrapping_add(off), ')').append_to(to);
            }
        }
    }
}

/// The sum of an acknowledgment number: `seq+5+1` for a FIN with five bytes.
struct Sum<'a>(&'a AckCheck);

impl Append for Sum<'_> {
    fn append_to(&self, to: &mut String) {
        to.push_str("seq");
        if self.0.len > 0 {
            ('+', self.0.len).append_to(to);
        }
        match self.0.of.flag_len() {
            0 => {}
            flag => ('+', flag).append_to(to),
        }
    }
}
