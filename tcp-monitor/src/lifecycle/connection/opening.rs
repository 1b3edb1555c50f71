//! What SYNs do: a connection begins, on fresh addresses or on those of an earlier one.

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Role;
use tcp_monitor_common::transition::is_synchronized;

use super::enter::Cause;
use super::flow::Flow;
use super::inference::{Inference, Passage};
use super::life::Life;
use super::stream::Stream;
use crate::lifecycle::event::Unexpected;
use crate::lifecycle::segment::Flags;
use crate::lifecycle::time::Time;

impl Inference {
    /// A SYN without ACK.
    pub(super) fn open(&mut self, passage: &mut Passage<'_>) -> Option<Unexpected> {
        use TcpState as S;
        let Passage { from, to, segment, .. } = *passage;
        let isn = segment.header.seq;
        let is_known = self.flows[from].stream.isn() == Some(isn);
        if passage.has_socket(from) {
            // The state of its socket shows that it opens.
            if is_synchronized(passage.state(from)) && !is_known {
                return Some(Unexpected::State);
            }
            if !is_known {
                self.flows[from] = Flow::opening(isn, Some(segment.time));
            }
        } else {
            match passage.state(from) {
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
                        self.flows[from].stray_syn = Some(Box::new((isn, segment.time)));
                    }
                    return Some(Unexpected::State);
                }
            }
            if !is_known && passage.state(from) != S::Listen {
                passage.renew(from);
            }
            self.begin_opening(from, isn, Some(segment.time), passage);
        }
        if passage.state(to) == S::Close && from != to {
            self.begin_listening(to, passage);
        }
        self.identify_listening(passage);
        self.begin_stream(passage);
        self.apply(passage, 0);
        None
    }

    /// An end opens with this initial sequence number. `seen` is when its SYN was seen, if it was.
    fn begin_opening(&mut self, end: usize, isn: u32, seen: Option<Time>, passage: &mut Passage<'_>) {
        let life = Life::opening(passage.identity(end), seen.is_some());
        self.begin_life(end, life, Flow::opening(isn, seen), passage);
    }

    fn begin_listening(&mut self, end: usize, passage: &mut Passage<'_>) {
        self.begin_life(end, Life::listening(passage.identity(end)), Flow::default(), passage);
    }

    /// An end that has not begun is of the connection that begins now, which may be another one
    /// than when the end was met.
    fn identify_listening(&mut self, passage: &mut Passage<'_>) {
        for end in [passage.from, passage.to] {
            let of = passage.identity(end);
            passage.life_mut(end).identify_listening(of);
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
        let acked = self.flows[passage.to].stream.position(segment.header.ack);
        self.begin_stream(passage);
        self.acknowledge(passage, acked);
        self.flows[from].awaits_ack_of_syn_ack = true;
        self.flows[from].ignored_answer |= self.flows[from].answered.is_some();
        self.apply(passage, acked);
        None
    }

    /// Makes sure that the end which a SYN-ACK goes to is one that has sent the SYN it
    /// acknowledges.
    fn find_opener(&mut self, passage: &mut Passage<'_>) -> Option<Unexpected> {
        use TcpState as S;
        let Passage { to, segment, .. } = *passage;
        let isn = segment.header.ack.wrapping_sub(1);
        let opener = &self.flows[to];
        let is_known = opener.stream.isn() == Some(isn);
        match passage.state(to) {
            // The SYN of its socket was not seen.
            _ if passage.has_socket(to) && opener.stream.isn().is_none() => {
                self.flows[to] = Flow::opening(isn, None);
            }
            S::SynSent | S::SynRecv | S::NewSynRecv => {
                let acked = self.flows[to].stream.position(segment.header.ack);
                return (!self.flows[to].accepts_ack(passage.state(to), acked)).then_some(Unexpected::Ack);
            }
            // Its SYN was not seen.
            S::Close | S::Listen => {
                if passage.state(to) == S::Close && !is_known {
                    passage.renew(to);
                }
                self.begin_opening(to, isn, None, passage);
            }
            S::TimeWait if !is_known => {
                self.enter(to, S::Close, Cause::Replaced, passage);
                passage.renew(to);
                self.begin_opening(to, isn, None, passage);
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
                let stray = opener.stray_syn.as_deref().copied();
                let Some((_, opened)) = stray.filter(|(stray, _)| *stray == isn && !passage.has_socket(to))
                else {
                    return Some(Unexpected::State);
                };
                // The SYN was no stray: the end of the last connection was not seen.
                self.enter(to, S::Close, Cause::Replaced, passage);
                passage.renew(to);
                self.begin_opening(to, isn, None, passage);
                self.flows[to].opened = Some(opened);
            }
        }
        None
    }

    /// Makes sure that the end which sends a SYN-ACK is one that can.
    fn find_answerer(&mut self, passage: &mut Passage<'_>) -> Option<Unexpected> {
        use TcpState as S;
        let Passage { from, to, segment, .. } = *passage;
        let isn = segment.header.seq;
        let opener_waits = passage.state(to) == S::SynSent;
        let answerer = &mut self.flows[from];
        let is_known = answerer.stream.isn() == Some(isn);
        match passage.state(from) {
            S::Listen => {}
            S::SynSent => return (!is_known).then_some(Unexpected::State),
            S::SynRecv | S::NewSynRecv => {
                if !is_known {
                    // A SYN cookie changes with time, and a request that was dropped is made anew.
                    answerer.stream = Stream::begin(isn);
                }
            }
            S::Close => self.begin_listening(from, passage),
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
                if !opener_waits || passage.has_socket(from) {
                    return Some(Unexpected::State);
                }
                self.enter(from, S::Close, Cause::Replaced, passage);
                self.begin_listening(from, passage);
            }
        }
        None
    }

    /// Processes the SYN that a segment carries.
    fn begin_stream(&mut self, passage: &mut Passage<'_>) {
        let Passage { from, segment, .. } = *passage;
        let header = &segment.header;
        if passage.state(from) == TcpState::Listen && header.flags.contains(Flags::ACK) {
            passage.life_mut(from).role = Role::Server;
        }
        let sender = &mut self.flows[from];
        if sender.stream.isn() != Some(header.seq) {
            sender.stream = Stream::begin(header.seq);
        }
        sender.syn_seen = true;
        sender.window_scale = header.options.window_scale;
        self.count(passage, 0);
    }
}
