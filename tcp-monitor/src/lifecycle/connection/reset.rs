//! What a RST does, and whether it counts.

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::counters::reset_reason_label;
use tcp_monitor_common::record::{ResetPhase, UNKNOWN_REASON};

use super::effect::{Effect, Way, next};
use super::enter::Cause;
use super::inference::{Inference, Passage};
use super::inferred_end::InferredEnd;
use crate::lifecycle::event::{EventKind, Reset, Unexpected};
use crate::lifecycle::input::{ResetDirection, SegmentInput};
use crate::lifecycle::segment::Flags;

impl Inference {
    /// A RST counts with the one end if it is what that expects next (RFC 9293, section 3.10.7.4,
    /// first), and with the other if that can have sent it.
    pub(super) fn reset(&mut self, passage: &mut Passage<'_>) -> Option<Unexpected> {
        let Passage { from, to, segment, .. } = *passage;
        let (sender, receiver) = (&self.ends[from], &self.ends[to]);
        let position = sender.stream.find(segment.header.seq);
        let is_of_sender = position.is_none_or(|position| sender.stream.can_be_expected(position));
        let counts = match receiver.life.state() {
            TcpState::SynSent => answers_syn(receiver, segment),
            TcpState::Close | TcpState::Listen | TcpState::SynRecv | TcpState::NewSynRecv => {
                is_of_sender || receiver.expects == Some(segment.header.seq)
            }
            // What it expects next is known only if all that came before was seen.
            TcpState::Established
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::CloseWait
            | TcpState::Closing
            | TcpState::LastAck
            | TcpState::TimeWait => {
                // Ahead of what was seen but within the window, as a FIN may be: the segments
                // before it were missed.
                let follows_gap = position.is_some_and(|position| sender.stream.can_follow_gap(position));
                is_of_sender
                    || follows_gap
                    || receiver.expects == Some(segment.header.seq)
                    || !self.visibility.sees_all_segments
            }
        };
        if !counts {
            return Some(Unexpected::OutOfWindow);
        }
        let may_be_reported = self.visibility.sees_all_segments || self.visibility.is_here(from);
        if receiver.life.state() == TcpState::SynSent
            && sender.life.state() == TcpState::Listen
            && may_be_reported
        {
            self.emit_no_listener(passage);
        }
        self.emit_reset(passage, from, ResetDirection::Sent);
        self.emit_reset(passage, to, ResetDirection::Received);
        // An end that opens here disowns a connection of before with a RST, and goes on opening.
        let disowns = !is_of_sender && self.ends[from].life.state() == TcpState::SynSent;
        for (end, way) in [(from, Way::Sent), (to, Way::Received)] {
            if way == Way::Received || !disowns {
                let state = next(self.ends[end].life.state(), way, Effect::Rst);
                self.enter(end, state, Cause::Segment(way, Effect::Rst), passage);
            }
        }
        None
    }

    fn emit_reset(&self, passage: &mut Passage<'_>, end: usize, direction: ResetDirection) {
        let inferred_end = &self.ends[end];
        let Some(phase) = phase(inferred_end.life.state(), direction) else { return };
        if !self.is_reported_here_alone(end) {
            return;
        }
        let (local, remote) = passage.tuple.addresses(end);
        let reset = EventKind::Reset(Reset {
            local,
            remote: Some(remote),
            direction,
            phase,
            reason: reset_reason_label(UNKNOWN_REASON),
            seq: inferred_end.stream.next_seq().filter(|_| self.visibility.sees_all_segments),
            ack: inferred_end.expects.filter(|_| self.visibility.sees_all_segments),
        });
        passage.out.push(self.event(end, passage.segment.time, reset, &passage.tuple));
    }

    /// The end that a SYN went to answers with a RST: there is no socket.
    fn emit_no_listener(&self, passage: &mut Passage<'_>) {
        let end = passage.from;
        if !self.ends[end].reported_by_kernel {
            let failure = HandshakeFailure::NoListener;
            let event = self.handshake_event(end, failure, passage.segment.time, &passage.tuple);
            passage.out.push(event);
        }
    }
}

/// RFC 9293, section 3.10.7.3: in SYN_SENT a RST counts if it acknowledges the SYN.
fn answers_syn(opener: &InferredEnd, segment: &SegmentInput) -> bool {
    let acked = opener.stream.find(segment.header.ack);
    segment.header.flags.contains(Flags::ACK) && acked.is_some_and(|acked| opener.accepts_ack(acked))
}

/// Where in the life of an end in `state` a RST falls. `None` if it reaches no socket.
const fn phase(state: TcpState, direction: ResetDirection) -> Option<ResetPhase> {
    match (state, direction) {
        (TcpState::Close | TcpState::Listen, ResetDirection::Sent) => Some(ResetPhase::NoSocket),
        (TcpState::Close | TcpState::Listen, ResetDirection::Received) => None,
        (state, _) => Some(ResetPhase::of_socket_in(state)),
    }
}
