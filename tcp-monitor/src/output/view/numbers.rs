//! The numbers of a segment as views show them: relative where the start is known, with the check.

use super::record::SegmentEntry;
use crate::lifecycle::event::{AckCheck, Acknowledged, SeqCheck, Step, Unexpected};
use crate::lifecycle::segment::Flags;
use crate::output::style::Color;

/// The flags that are set, the most important first: `SYN+ACK`.
pub(super) fn flags(flags: Flags) -> String {
    const ORDER: [Flags; 9] = [
        Flags::RST,
        Flags::SYN,
        Flags::FIN,
        Flags::PSH,
        Flags::ACK,
        Flags::URG,
        Flags::ECE,
        Flags::CWR,
        Flags::NS,
    ];
    let names = ORDER.into_iter().filter(|flag| flags.contains(*flag)).flat_map(Flags::names);
    names.collect::<Vec<_>>().join("+")
}

impl SegmentEntry {
    pub(super) fn has(&self, flag: Flags) -> bool {
        self.flags.contains(flag)
    }

    /// The label of its arrow, in pieces.
    pub(super) fn label(&self) -> Vec<String> {
        let mut label = vec![flags(self.flags), format!("seq={}", self.shown_seq())];
        if let Some(SeqCheck { expected, holds: false }) = self.check.seq {
            label.push(format!("(≠{})", self.as_seq(expected)));
        }
        if self.has(Flags::ACK) {
            label.push(match self.check.ack {
                Some(check) if check.holds => format!("ack={} (={})", self.shown_ack(), self.sum(&check)),
                Some(check) => format!(
                    "ack={} (≠{}={})",
                    self.shown_ack(),
                    self.sum(&check),
                    self.as_ack(check.expected())
                ),
                None => format!("ack={}", self.shown_ack()),
            });
        }
        if self.len > 0 {
            label.push(format!("len={}", self.len));
        }
        label.extend(self.marks().map(str::to_owned));
        label
    }

    /// Its special properties.
    pub(super) fn marks(&self) -> impl Iterator<Item = &'static str> {
        let unexpected = self.unexpected.map(|unexpected| match unexpected {
            Unexpected::OutOfWindow => "out of window",
            Unexpected::Ack => "ACKed unseen segment",
            Unexpected::State => "unexpected",
        });
        self.retransmission.then_some("retransmitted").into_iter().chain(unexpected)
    }

    /// Its colour; `ordinary` if there is nothing special about it.
    pub(super) fn color(&self, ordinary: Color) -> Color {
        let is_right = self.check.holds() && self.unexpected.is_none();
        if !is_right || self.step == Step::Rst {
            Color::Red
        } else if self.retransmission {
            Color::Yellow
        } else {
            ordinary
        }
    }

    /// The sum of an acknowledgment number: `51+5+1` for a FIN with five bytes.
    pub(super) fn sum(&self, check: &AckCheck) -> String {
        let mut sum = self.as_ack(check.seq).to_string();
        if check.len > 0 {
            sum += &format!("+{}", check.len);
        }
        match check.of {
            Acknowledged::Syn | Acknowledged::Fin => sum += "+1",
            Acknowledged::Data => {}
        }
        sum
    }

    pub(super) fn shown_seq(&self) -> u32 {
        self.as_seq(self.seq)
    }

    pub(super) fn shown_ack(&self) -> u32 {
        self.as_ack(self.ack)
    }

    /// A sequence number of the sender, relative if possible.
    pub(super) fn as_seq(&self, number: u32) -> u32 {
        self.seq_rel.map_or(number, |relative| relative.wrapping_add(number.wrapping_sub(self.seq)))
    }

    /// A sequence number of the receiver, relative if possible.
    pub(super) fn as_ack(&self, number: u32) -> u32 {
        self.ack_rel.map_or(number, |relative| relative.wrapping_add(number.wrapping_sub(self.ack)))
    }
}
