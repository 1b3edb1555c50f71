//! What the segments of a handshake or a teardown show of a connection's numbers: where they begin,
//! and whether each is the one that follows.

use super::Connection;
use super::check::check;
use super::endpoint::Endpoint;
use crate::lifecycle::event::{Check, Step};
use crate::lifecycle::input::SegmentInput;
use crate::lifecycle::segment::Flags;

/// Relative sequence and acknowledgment number of a segment, where the start was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::lifecycle) struct Relative {
    pub(in crate::lifecycle) seq: Option<u32>,
    pub(in crate::lifecycle) ack: Option<u32>,
}

/// What the numbers of a segment are, with what is known of its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::lifecycle) struct Numbers {
    pub(in crate::lifecycle) relative: Relative,
    pub(in crate::lifecycle) check: Check,
}

impl Connection {
    /// Processes the numbers of a segment that the end `sender` sent, where only handshakes and
    /// teardowns are seen.
    pub(in crate::lifecycle) fn observe(
        &mut self,
        segment: &SegmentInput,
        step: Step,
        sender: usize,
    ) -> Numbers {
        let header = &segment.header;
        let receiver = self.tuple.peer_of(sender);
        let check = check(segment, step, &self.ends[sender].sent, &self.ends[receiver].sent);
        self.is_seen = true;
        match step {
            Step::Syn | Step::SynAck => self.begin(segment, step, sender, receiver),
            Step::Fin | Step::HandshakeAck | Step::FinAck => {
                self.acknowledged |= matches!(step, Step::HandshakeAck | Step::FinAck);
                self.note_sent(segment, sender, receiver);
            }
            Step::Rst => self.ends[sender].sent_rst = true,
        }
        let is_start = matches!(step, Step::Syn | Step::SynAck);
        let seq = self.ends[sender].sent.isn().map(|isn| header.seq.wrapping_sub(isn));
        let ack = self.ends[receiver].sent.isn().map(|isn| header.ack.wrapping_sub(isn));
        let relative = Relative {
            seq: if is_start { Some(0) } else { seq },
            ack: ack.filter(|_| header.flags.contains(Flags::ACK)),
        };
        Numbers { relative, check }
    }

    /// Whether a SYN from the end `sender` begins another connection.
    pub(in crate::lifecycle) fn is_reused_by(&mut self, syn: &SegmentInput, sender: usize) -> bool {
        if self.awaits_syn && usize::from(self.first) == sender {
            self.awaits_syn = false;
            if !self.ends[sender].is_closed() {
                return false;
            }
        }
        let is_known = self.ends[sender].sent.isn() == Some(syn.header.seq);
        let is_other = self.ends[sender].sent.isn().is_some() && !is_known;
        let is_over = !self.has_socket() && self.ends.iter().any(Endpoint::is_closed);
        let is_open =
            self.ends.iter().any(Endpoint::is_living) || self.ends.iter().any(Endpoint::is_inferred_open);
        (is_other || is_over && !is_known) && !is_open
    }

    /// A SYN or SYN-ACK sets where the sender's sequence numbers begin, unless it intrudes on a
    /// living connection (RFC 5961, section 4).
    fn begin(&mut self, segment: &SegmentInput, step: Step, sender: usize, receiver: usize) {
        let isn = segment.header.seq;
        let known = self.ends[sender].sent.isn();
        if known != Some(isn) && self.ends.iter().any(Endpoint::is_living) {
            return;
        }
        if step == Step::Syn {
            if known.is_some_and(|known| known != isn) {
                // The addresses are used again: a new connection.
                self.ends.iter_mut().for_each(Endpoint::discard_segments);
            }
            self.ends[sender].syn_at.get_or_insert(segment.time);
        } else {
            // It acknowledges the peer's SYN, whether that was seen or not.
            self.ends[receiver].sent.learn_isn(segment.header.ack.wrapping_sub(1));
        }
        self.note_sent(segment, sender, receiver);
    }

    fn note_sent(&mut self, segment: &SegmentInput, sender: usize, receiver: usize) {
        self.ends[sender].sent.send(segment);
        self.ends[receiver].sent.acknowledge(segment);
    }
}
