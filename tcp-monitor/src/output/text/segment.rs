//! What a line tells of a segment: its numbers, whether they are right, and its options.

use std::fmt;

use crate::lifecycle::event::{AckCheck, Segment, SeqCheck, Step, Unexpected};
use crate::lifecycle::segment::Flags;

pub(super) struct SegmentDetail<'a>(pub(super) &'a Segment);

impl fmt::Display for SegmentDetail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let segment = self.0;
        let header = &segment.header;
        let has_ack = header.flags.contains(Flags::ACK);
        match segment.step {
            Step::Syn | Step::SynAck => {
                write!(f, "seq {}", header.seq)?;
                if has_ack {
                    write!(f, " ack {}", header.ack)?;
                }
                self.write_ack_check(f, header.ack)?;
                write!(f, " win {}", header.window)?;
                if let Some(mss) = header.options.mss {
                    write!(f, " mss {mss}")?;
                }
                if let Some(shift) = header.options.window_scale {
                    write!(f, " wscale {shift}")?;
                }
                if header.options.sack_permitted {
                    f.write_str(" sack")?;
                }
                if header.options.timestamps.is_some() {
                    f.write_str(" ts")?;
                }
            }
            Step::HandshakeAck | Step::Fin | Step::FinAck | Step::Rst => {
                match segment.seq_rel {
                    Some(seq) => write!(f, "seq +{seq}")?,
                    None => write!(f, "seq {}", header.seq)?,
                }
                self.write_seq_check(f)?;
                match segment.ack_rel {
                    Some(ack) => write!(f, " ack +{ack}")?,
                    None if has_ack => write!(f, " ack {}", header.ack)?,
                    None => {}
                }
                self.write_ack_check(f, segment.ack_rel.unwrap_or(header.ack))?;
            }
        }
        if segment.payload_len > 0 {
            write!(f, " len {}", segment.payload_len)?;
        }
        if segment.syn_cookie {
            f.write_str(" · SYN cookie")?;
        }
        if segment.retransmission {
            f.write_str(" · sent again")?;
        }
        match segment.unexpected {
            None => {}
            Some(Unexpected::OutOfWindow) => f.write_str(" · out of window")?,
            Some(Unexpected::Ack) => f.write_str(" · acknowledges what was not sent")?,
            Some(Unexpected::State) => f.write_str(" · unexpected")?,
        }
        Ok(())
    }
}

impl SegmentDetail<'_> {
    /// What the acknowledgment number, shown as `shown`, is the sum of, or what it should be.
    fn write_ack_check(&self, f: &mut fmt::Formatter<'_>, shown: u32) -> fmt::Result {
        let Some(check) = self.0.check.ack else { return Ok(()) };
        let sum = Sum(&check);
        if check.holds {
            return write!(f, " (={sum})");
        }
        let off = check.expected().wrapping_sub(self.0.header.ack);
        write!(f, " (≠{sum}={})", shown.wrapping_add(off))
    }

    fn write_seq_check(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.check.seq, self.0.seq_rel) {
            (Some(SeqCheck { holds: true, .. }) | None, _) => Ok(()),
            (Some(SeqCheck { expected, .. }), None) => write!(f, " (≠{expected})"),
            (Some(SeqCheck { expected, .. }), Some(seq)) => {
                let off = expected.wrapping_sub(self.0.header.seq);
                write!(f, " (≠+{})", seq.wrapping_add(off))
            }
        }
    }
}

/// What an acknowledgment number is the sum of: `seq+5+1` for a FIN with five bytes.
struct Sum<'a>(&'a AckCheck);

impl fmt::Display for Sum<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("seq")?;
        if self.0.len > 0 {
            write!(f, "+{}", self.0.len)?;
        }
        match self.0.of.flag_len() {
            0 => Ok(()),
            flag => write!(f, "+{flag}"),
        }
    }
}
