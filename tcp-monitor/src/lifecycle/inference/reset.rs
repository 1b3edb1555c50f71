//! What a RST does, and whether it counts.

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::counters::reset_reason_label;
use tcp_monitor_common::record::{ResetPhase, UNKNOWN_REASON};

use super::connection::{Connection, Passage};
use super::endpoint::Endpoint;
use super::sign::{Sign, Way, next};
use super::telling::Cause;
use crate::lifecycle::event::{EventKind, Reset, Unexpected};
use crate::lifecycle::input::{ResetDirection, SegmentInput};
use crate::lifecycle::segment::Flags;

impl Connection {
    /// A RST counts with the one end if it is what that expects next (RFC 9293, section 3.10.7.4, first), and with the other if
    /// that can have sent it.
    pub(super) fn reset(&mut self, passage: &mut Passage<'_>) -> Option<Unexpected> {
        let Passage { from, to, segment, .. } = *passage;
        let (sender, receiver) = (&self.ends[from], &self.ends[to]);
        let position = sender.stream.find(segment.header.seq);
        let is_of_sender = position.is_none_or(|position| sender.stream.can_be_expected(position));
        let counts = match receiver.state {
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
                // Ahead of what was seen but within the window, as a FIN may be: the segments before it were missed.
                let follows_gap = position.is_some_and(|position| sender.stream.can_follow_gap(position));
                is_of_sender
                    || follows_gap
                    || receiver.expects == Some(segment.header.seq)
                    || !self.sight.is_whole
            }
        };
        if !counts {
            return Some(Unexpected::OutOfWindow);
        }
        let may_be_told = self.sight.is_whole || self.sight.is_here(from);
        if receiver.state == TcpState::SynSent && sender.state == TcpState::Listen && may_be_told {
            self.tell_no_listener(passage);
        }
        self.tell_reset(passage, from, ResetDirection::Sent);
        self.tell_reset(passage, to, ResetDirection::Received);
        // An end that opens here disowns a connection of before with a RST, and goes on opening.
        let disowns = !is_of_sender && self.ends[from].state == TcpState::SynSent;
        for (end, way) in [(from, Way::Sent), (to, Way::Received)] {
            if way == Way::Received || !disowns {
                let state = next(self.ends[end].state, way, Sign::Rst);
                self.enter(end, state, Cause::Segment(way, Sign::Rst), passage);
            }
        }
        None
    }

    fn tell_reset(&self, passage: &mut Passage<'_>, end: usize, direction: ResetDirection) {
        let endpoint = &self.ends[end];
        let Some(phase) = phase(endpoint.state, direction) else { return };
        if !self.is_told_alone(end) {
            return;
        }
        let (local, remote) = passage.key.addresses(end);
        let reset = EventKind::Reset(Reset {
            local,
            remote: Some(remote),
            direction,
            phase,
            reason: reset_reason_label(UNKNOWN_REASON),
            seq: endpoint.stream.next_seq().filter(|_| self.sight.is_whole),
            ack: endpoint.expects.filter(|_| self.sight.is_whole),
        });
        passage.out.push(self.event(end, passage.segment.time, reset, &passage.key));
    }

    /// The end that a SYN went to answers with a RST: there is no socket.
    fn tell_no_listener(&self, passage: &mut Passage<'_>) {
        let end = passage.from;
        if !self.ends[end].told_by_kernel {
            let result = Err(HandshakeFailure::NoListener);
            let handshake = self.handshake(end, result, passage.segment.time, &passage.key);
            passage.out.push(handshake);
        }
    }
}

/// RFC 9293, section 3.10.7.3: in SYN_SENT a RST counts if it acknowledges the SYN.
fn answers_syn(opener: &Endpoint, segment: &SegmentInput) -> bool {
    let acked = opener.stream.find(segment.header.ack);
    segment.header.flags.contains(Flags::ACK) && acked.is_some_and(|acked| opener.accepts_ack(acked))
}

/// Where in the life of an end in `state` a RST falls. `None` if it reaches nobody.
const fn phase(state: TcpState, direction: ResetDirection) -> Option<ResetPhase> {
    use TcpState as S;
    match state {
        S::Close | S::Listen => match direction {
            ResetDirection::Sent => Some(ResetPhase::NoSocket),
            ResetDirection::Received => None,
        },
        S::SynSent | S::SynRecv | S::NewSynRecv => Some(ResetPhase::Handshake),
        S::Established => Some(ResetPhase::Established),
        S::FinWait1 | S::FinWait2 | S::CloseWait | S::Closing | S::LastAck => Some(ResetPhase::Closing),
        S::TimeWait => Some(ResetPhase::TimeWait),
    }
}
