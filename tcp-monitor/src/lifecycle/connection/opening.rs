//! What SYNs do: a connection begins, on fresh addresses or on those of an earlier one.

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Role;

use super::enter::Cause;
use super::inference::{Inference, Passage};
use super::inferred_end::InferredEnd;
use super::stream::Stream;
use crate::lifecycle::event::Unexpected;
use crate::lifecycle::segment::Flags;

impl Inference {
    /// A SYN without ACK.
    pub(super) fn open(&mut self, passage: &mut Passage<'_>) -> Option<Unexpected> {
        use TcpState as S;
        let Passage { from, to, segment, .. } = *passage;
        let isn = segment.header.seq;
        let sender = &mut self.ends[from];
        let is_known = sender.stream.isn() == Some(isn);
        match sender.life.state() {
            S::SynSent | S::SynRecv | S::NewSynRecv if is_known => {
                self.count(passage, 0);
                return None;
            }
            // The last attempt was given up.
            S::SynSent => self.enter(from, S::Close, Cause::Replaced, passage),
            S::Close | S::Listen => {}
            S::TimeWait if !is_known => self.enter(from, S::Close, Cause::Replaced, passage),
            S::TimeWait
            | S::SynRecv
            | S::NewSynRecv
            | S::Established
            | S::FinWait1
            | S::FinWait2
            | S::CloseWait
            | S::Closing
            | S::LastAck => {
                if !is_known {
                    sender.stray_syn = Some(Box::new((isn, segment.time)));
                }
                return Some(Unexpected::State);
            }
        }
        let last = &self.ends[from].life;
        if !is_known && last.state() != S::Listen {
            passage.renew(last.of(), from);
        }
        self.ends[from] = InferredEnd::opening(passage.identity(from), isn, Some(segment.time));
        passage.discard_sent(from);
        if self.ends[to].life.state() == S::Close && from != to {
            self.ends[to] = InferredEnd::listening(passage.identity(to));
            passage.discard_sent(to);
        }
        self.identify_listening(passage);
        self.note_reported(passage);
        self.begin_stream(passage);
        self.apply(passage, 0);
        None
    }

    /// An end that has not begun is of the connection that begins now, which may be another one
    /// than when the end was met.
    fn identify_listening(&mut self, passage: &Passage<'_>) {
        for end in [passage.from, passage.to] {
            if self.ends[end].life.state() == TcpState::Listen {
                self.ends[end].life.set_identity(passage.identity(end));
            }
        }
    }

    /// A SYN with ACK.
    pub(super) fn answer(&mut self, passage: &mut Passage<'_>) -> Option<Unexpected> {
        let Passage { from, segment, .. } = *passage;
        if let Some(unexpected) = self.find_opener(passage) {
            return Some(unexpected);
        }
        if let Some(unexpected) = self.find_answerer(passage) {
            return Some(unexpected);
        }
        self.identify_listening(passage);
        self.note_reported(passage);
        let acked = self.ends[passage.to].stream.position(segment.header.ack);
        self.begin_stream(passage);
        self.acknowledge(passage, acked);
        self.ends[from].awaits_ack_of_syn_ack = true;
        self.ends[from].ignored_answer |= self.ends[from].answered.is_some();
        self.apply(passage, acked);
        None
    }

    /// Makes sure that the end which a SYN-ACK goes to is one that has sent the SYN it
    /// acknowledges.
    fn find_opener(&mut self, passage: &mut Passage<'_>) -> Option<Unexpected> {
        use TcpState as S;
        let Passage { to, segment, .. } = *passage;
        let isn = segment.header.ack.wrapping_sub(1);
        let opener = &mut self.ends[to];
        match opener.life.state() {
            S::SynSent | S::SynRecv | S::NewSynRecv => {
                let acked = opener.stream.position(segment.header.ack);
                return (!opener.accepts_ack(acked)).then_some(Unexpected::Ack);
            }
            // Its SYN was not seen.
            S::Close | S::Listen => {
                if opener.life.state() == S::Close && opener.stream.isn() != Some(isn) {
                    passage.renew(opener.life.of(), to);
                }
                self.ends[to] = InferredEnd::opening(passage.identity(to), isn, None);
                passage.discard_sent(to);
            }
            S::TimeWait if opener.stream.isn() != Some(isn) => {
                self.enter(to, S::Close, Cause::Replaced, passage);
                passage.renew(self.ends[to].life.of(), to);
                self.ends[to] = InferredEnd::opening(passage.identity(to), isn, None);
                passage.discard_sent(to);
            }
            S::TimeWait
            | S::Established
            | S::FinWait1
            | S::FinWait2
            | S::CloseWait
            | S::Closing
            | S::LastAck => {
                if opener.stream.isn() == Some(isn) {
                    return None;
                }
                let stray = opener.stray_syn.as_deref().copied();
                let Some((_, opened)) = stray.filter(|(stray, _)| *stray == isn) else {
                    return Some(Unexpected::State);
                };
                // The SYN was no stray: the end of the last connection was not seen.
                self.enter(to, S::Close, Cause::Replaced, passage);
                passage.renew(self.ends[to].life.of(), to);
                let opener = InferredEnd::opening(passage.identity(to), isn, None);
                self.ends[to] = InferredEnd { opened: Some(opened), ..opener };
                passage.discard_sent(to);
            }
        }
        None
    }

    /// Makes sure that the end which sends a SYN-ACK is one that can.
    fn find_answerer(&mut self, passage: &mut Passage<'_>) -> Option<Unexpected> {
        use TcpState as S;
        let Passage { from, to, segment, .. } = *passage;
        let isn = segment.header.seq;
        let opener_waits = matches!(self.ends[to].life.state(), S::SynSent);
        let answerer = &mut self.ends[from];
        let is_known = answerer.stream.isn() == Some(isn);
        match answerer.life.state() {
            S::Listen => {}
            S::SynSent => return (!is_known).then_some(Unexpected::State),
            S::SynRecv | S::NewSynRecv => {
                if !is_known {
                    // A SYN cookie changes with time, and a request that was dropped is made anew.
                    answerer.stream = Stream::begin(isn);
                }
            }
            S::Close => {
                self.ends[from] = InferredEnd::listening(passage.identity(from));
                passage.discard_sent(from);
            }
            S::TimeWait
            | S::Established
            | S::FinWait1
            | S::FinWait2
            | S::CloseWait
            | S::Closing
            | S::LastAck => {
                if is_known {
                    return None;
                }
                if !opener_waits {
                    return Some(Unexpected::State);
                }
                self.enter(from, S::Close, Cause::Replaced, passage);
                self.ends[from] = InferredEnd::listening(passage.identity(from));
                passage.discard_sent(from);
            }
        }
        None
    }

    /// Processes the SYN that a segment carries.
    fn begin_stream(&mut self, passage: &mut Passage<'_>) {
        let Passage { from, segment, .. } = *passage;
        let header = &segment.header;
        let sender = &mut self.ends[from];
        if sender.stream.isn() != Some(header.seq) {
            sender.stream = Stream::begin(header.seq);
        }
        if sender.life.state() == TcpState::Listen && header.flags.contains(Flags::ACK) {
            sender.life.role = Role::Server;
        }
        sender.syn_seen = true;
        sender.window_scale = header.options.window_scale;
        self.count(passage, 0);
    }
}
