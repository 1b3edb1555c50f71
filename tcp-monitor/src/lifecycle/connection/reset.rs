//! What a RST does, and whether it counts.

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::counters::reset_reason_label;
use tcp_monitor_common::record::{ResetPhase, UNKNOWN_REASON};

use super::effect::{Effect, Way, next};
use super::enter::Cause;
use super::flow::Flow;
use super::inference::{Inference, Passage};
use crate::lifecycle::event::{EventKind, Reset, Unexpected};
use crate::lifecycle::input::{ResetDirection, SegmentInput};
use crate::lifecycle::segment::Flags;

impl Inference {
    /// A RST counts with the one end if it is what that expects next (RFC 9293, section 3.10.7.4,
    /// first), and with the other if that can have sent it.
    pub(super) fn reset(&mut self, passage: &mut Passage<'_>) -> Option<Unexpected> {
        let Passage { from, to, segment, .. } = *passage;
        let (sender, receiver) = (&self.flows[from], &self.flows[to]);
        let position = sender.stream.find(segment.header.seq);
        let is_of_sender = position.is_none_or(|position| sender.stream.can_be_expected(position));
        let counts = match passage.state(to) {
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
        if passage.state(to) == TcpState::SynSent
            && passage.state(from) == TcpState::Listen
            && may_be_reported
        {
            self.emit_no_listener(passage);
        }
        self.emit_reset(passage, from, ResetDirection::Sent);
        self.emit_reset(passage, to, ResetDirection::Received);
        // An end that opens here disowns a connection of before with a RST, and goes on opening.
        let disowns = !is_of_sender && passage.state(from) == TcpState::SynSent;
        for (end, way) in [(from, Way::Sent), (to, Way::Received)] {
            if way == Way::Received || !disowns {
                let state = next(passage.state(end), way, Effect::Rst);
                self.enter(end, state, Cause::Segment(way, Effect::Rst), passage);
            }
        }
        None
    }

    fn emit_reset(&self, passage: &mut Passage<'_>, end: usize, direction: ResetDirection) {
        let flow = &self.flows[end];
        let Some(phase) = phase(passage.state(end), direction) else { return };
        if !self.is_reported_here_alone(end, passage.ends.of) {
            return;
        }
        let (local, remote) = passage.ends.tuple.addresses(end);
        let reset = EventKind::Reset(Reset {
            local,
            remote: Some(remote),
            direction,
            phase,
            reason: reset_reason_label(UNKNOWN_REASON),
            seq: flow.stream.next_seq().filter(|_| self.visibility.sees_all_segments),
            ack: flow.expects.filter(|_| self.visibility.sees_all_segments),
        });
        let event = self.event(end, passage.segment.time, reset, &passage.ends);
        passage.ends.out.push(event);
    }

    /// The end that a SYN went to answers with a RST: there is no socket.
    fn emit_no_listener(&self, passage: &mut Passage<'_>) {
        let end = passage.from;
        if !passage.life(end).is_reported_by_kernel() {
            let failure = HandshakeFailure::NoListener;
            let event = self.handshake_event(end, failure, passage.segment.time, &passage.ends);
            passage.ends.out.push(event);
        }
    }
}

/// RFC 9293, section 3.10.7.3: in SYN_SENT a RST counts if it acknowledges the SYN.
fn answers_syn(opener: &Flow, segment: &SegmentInput) -> bool {
    let acked = opener.stream.find(segment.header.ack);
    let accepts = |acked| opener.accepts_ack(TcpState::SynSent, acked);
    segment.header.flags.contains(Flags::ACK) && acked.is_some_and(accepts)
}

/// Where in the life of an end in `state` a RST falls. `None` if it reaches no socket.
const fn phase(state: TcpState, direction: ResetDirection) -> Option<ResetPhase> {
    match (state, direction) {
        (TcpState::Close | TcpState::Listen, ResetDirection::Sent) => Some(ResetPhase::NoSocket),
        (TcpState::Close | TcpState::Listen, ResetDirection::Received) => None,
        (state, _) => Some(ResetPhase::of_socket_in(state)),
    }
}
