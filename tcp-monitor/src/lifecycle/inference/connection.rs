//! A connection as its segments show it: what each of them does to its two ends.

use std::net::SocketAddr;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Role;

use super::endpoint::Endpoint;
use super::sight::Sight;
use super::sign::{Sign, Way, next, signs};
use super::stream::Novelty;
use super::telling::{Cause, is_handshake};
use crate::lifecycle::check::check;
use crate::lifecycle::event::{Check, Event, EventKind, Retransmit, Step, Unexpected};
use crate::lifecycle::flow::{FlowKey, Relative};
use crate::lifecycle::input::{RetransmitKind, SegmentInput};
use crate::lifecycle::segment::Flags;
use crate::lifecycle::time::Time;

#[derive(Debug)]
pub(super) struct Connection {
    /// In the order of [`FlowKey`].
    pub(super) ends: [Endpoint; 2],
    pub(super) sight: Sight,
    /// When its last segment was seen.
    pub(super) heard: Time,
}

/// A segment on its way from one end to the other, and where to tell what follows from it.
pub(super) struct Passage<'a> {
    pub(super) key: FlowKey,
    /// The index of the end that sent it, and of that it goes to: the same if a socket connects to itself.
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) segment: &'a SegmentInput,
    /// Whether the kernel tells of the socket of each end.
    pub(super) told_by_kernel: [bool; 2],
    pub(super) out: &'a mut Vec<Event>,
}

/// What a segment is the first to acknowledge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Acks {
    pub(super) syn_ack: bool,
    pub(super) fin: bool,
}

impl Connection {
    /// A connection of which no segment was seen. `is_whole` says whether all will be.
    pub(super) fn new(is_whole: bool) -> Self {
        let ends = [Endpoint::listening(), Endpoint::listening()];
        Self { ends, sight: Sight::new(is_whole), heard: Time::default() }
    }

    /// Takes a segment in. Returns what is unexpected of it, if anything is.
    pub(super) fn take(&mut self, passage: &mut Passage<'_>) -> Option<Unexpected> {
        self.note_kernel(passage);
        self.heard = self.heard.max(passage.segment.time);
        let flags = passage.segment.header.flags;
        let unexpected = if flags.contains(Flags::RST) {
            self.reset(passage)
        } else if flags.contains(Flags::SYN.union(Flags::ACK)) {
            self.answer(passage)
        } else if flags.contains(Flags::SYN) {
            self.open(passage)
        } else if flags.contains(Flags::ACK) && self.sight.is_whole {
            self.proceed(passage)
        } else if flags.contains(Flags::ACK) {
            self.skip(passage)
        } else {
            Some(Unexpected::State)
        };
        // A new life may have begun.
        self.note_kernel(passage);
        unexpected
    }

    /// What `segment` from the end `from` acknowledges first, and only it or one that answers the same segment sent again.
    pub(super) fn acks(&self, from: usize, to: usize, segment: &SegmentInput) -> Acks {
        let flags = segment.header.flags;
        let (sender, receiver) = (&self.ends[from], &self.ends[to]);
        let is_straggler = sender.state == TcpState::Close;
        if !flags.contains(Flags::ACK) || flags.contains(Flags::RST) || is_straggler {
            return Acks::default();
        }
        let acked = receiver.stream.find(segment.header.ack).filter(|acked| receiver.accepts_ack(*acked));
        let Some(acked) = acked else { return Acks::default() };
        Acks {
            syn_ack: receiver.awaits_ack_of_syn_ack && (acked == 1 || !receiver.stream.is_acked()),
            fin: receiver.awaits_ack_of_fin && receiver.stream.fin().is_some_and(|fin| acked > fin),
        }
    }

    /// The numbers of a segment counted from the starts of both streams.
    pub(super) fn relative(&self, from: usize, to: usize, segment: &SegmentInput) -> Relative {
        let header = &segment.header;
        let is_start = header.flags.contains(Flags::SYN);
        let seq = self.ends[from].stream.isn().map(|isn| header.seq.wrapping_sub(isn));
        let ack = self.ends[to].stream.isn().filter(|_| header.flags.contains(Flags::ACK));
        Relative {
            seq: if is_start { Some(0) } else { seq },
            ack: ack.map(|isn| header.ack.wrapping_sub(isn)),
        }
    }

    /// The numbers of a step that is not taken in yet against those that are next.
    pub(super) fn check(&self, from: usize, to: usize, segment: &SegmentInput, step: Step) -> Check {
        check(segment, step, &self.ends[from].sent, &self.ends[to].sent)
    }

    /// A segment with ACK, and without SYN and RST.
    fn proceed(&mut self, passage: &mut Passage<'_>) -> Option<Unexpected> {
        let Passage { from, to, segment, .. } = *passage;
        let header = &segment.header;
        self.meet_midway(passage);
        if self.ends[from].state == TcpState::Close {
            // A straggler.
            return None;
        }
        let acked = self.ends[to].stream.position(header.ack);
        if !self.ends[to].accepts_ack(acked) {
            return Some(Unexpected::Ack);
        }
        let stream = &mut self.ends[from].stream;
        let position = stream.position(header.seq);
        let is_fin = header.flags.contains(Flags::FIN);
        let end = position + i64::from(segment.payload_len) + i64::from(is_fin);
        if is_fin && stream.is_behind(end) {
            // More was acknowledged than it says there is.
            return Some(Unexpected::OutOfWindow);
        }
        let unexpected = stream.is_ahead(position).then_some(Unexpected::OutOfWindow);
        if is_fin && stream.fin().is_none() {
            self.ends[from].fin_answers = acked_fin(&self.ends[to], acked);
        }
        self.count(passage, position);
        self.acknowledge(passage, acked);
        self.apply(passage, acked);
        unexpected
    }

    /// A segment with ACK, and without SYN and RST, between which and the last there may have been any number of others: nothing
    /// of it is unexpected.
    fn skip(&mut self, passage: &mut Passage<'_>) -> Option<Unexpected> {
        let Passage { from, to, segment, .. } = *passage;
        let header = &segment.header;
        self.meet_midway(passage);
        if self.ends[from].state == TcpState::Close {
            // A straggler.
            return None;
        }
        let acked = self.ends[to].stream.skip_to_ack(header.ack);
        if is_handshake(self.ends[to].state) && acked < 1 {
            return None;
        }
        let is_fin = header.flags.contains(Flags::FIN);
        let space = segment.payload_len.saturating_add(u32::from(is_fin));
        let stream = &mut self.ends[from].stream;
        let position = stream.skip_to(header.seq, space, is_fin);
        if is_fin && stream.fin().is_none() {
            self.ends[from].fin_answers = acked_fin(&self.ends[to], acked);
        }
        self.count(passage, position);
        self.acknowledge(passage, acked);
        self.apply(passage, acked);
        None
    }

    /// Ends of which no segment was seen before this one, which can be of an open connection only.
    fn meet_midway(&mut self, passage: &Passage<'_>) {
        let Passage { from, to, segment, .. } = *passage;
        let roles = match [from, to].map(|end| self.ends[end].state == TcpState::Listen) {
            [true, true] => roles_by_port(segment.src, segment.dst).map(Some),
            [true, false] => [Some(other(self.ends[to].role)), None],
            [false, true] => [None, Some(other(self.ends[from].role))],
            [false, false] => [None, None],
        };
        for (end, role) in [from, to].into_iter().zip(roles) {
            if let Some(role) = role {
                self.ends[end] = Endpoint::met_midway(role);
            }
        }
        self.note_kernel(passage);
    }

    /// Counts what a segment carries, and tells if it was sent before.
    pub(super) fn count(&mut self, passage: &mut Passage<'_>, position: i64) {
        let segment = passage.segment;
        let flags = segment.header.flags;
        let [syn, fin] = [Flags::SYN, Flags::FIN].map(|flag| flags.contains(flag));
        let is_fin = fin && !syn;
        let space = segment.payload_len.saturating_add(u32::from(syn) + u32::from(is_fin));
        let sender = &mut self.ends[passage.from];
        sender.sent.send(segment);
        if is_fin {
            sender.awaits_ack_of_fin = true;
        }
        // Who answers a SYN with his own sends it again, but with an ACK.
        let opens_too = syn && flags.contains(Flags::ACK) && sender.state == TcpState::SynSent;
        let control = match (syn, fin) {
            (true, _) => Flags::SYN,
            (false, true) => Flags::FIN,
            (false, false) => Flags::default(),
        };
        let novelty = sender.stream.send(position, space, control, segment.vantage());
        if novelty != Novelty::Again || opens_too {
            return;
        }
        sender.retransmits = sender.retransmits.saturating_add(1);
        let kind = match (syn, fin) {
            (true, _) if flags.contains(Flags::ACK) => RetransmitKind::SynAck,
            (true, _) => RetransmitKind::Syn,
            (false, true) => RetransmitKind::Fin,
            (false, false) => RetransmitKind::Data,
        };
        if self.is_told_alone(passage.from) {
            let retransmit = EventKind::Retransmit(Retransmit {
                local: segment.src,
                remote: segment.dst,
                kind,
                state: self.ends[passage.from].state,
            });
            passage.out.push(self.event(passage.from, segment.time, retransmit, &passage.key));
        }
    }

    /// Takes in the acknowledgment of a segment, and its window.
    pub(super) fn acknowledge(&mut self, passage: &Passage<'_>, acked: i64) {
        let Passage { from, to, segment, .. } = *passage;
        let is_syn = segment.header.flags.contains(Flags::SYN);
        let receiver = &mut self.ends[to];
        receiver.awaits_ack_of_syn_ack = false;
        receiver.sent.acknowledge(segment);
        if acked_fin(receiver, acked) {
            receiver.awaits_ack_of_fin = false;
        }
        let is_latest = !receiver.stream.is_behind(acked);
        receiver.stream.acknowledge(acked);
        if is_latest {
            self.ends[from].expects = Some(segment.header.ack);
        }
        if let Some(shift) = self.window_shift(from, to, is_syn) {
            let window = i64::from(segment.header.window) << shift;
            self.ends[to].stream.open_window(acked.saturating_add(window));
        }
    }

    /// How the windows that the end `from` announces are scaled, if that is known (RFC 7323, section 2.2).
    fn window_shift(&self, from: usize, to: usize, is_syn: bool) -> Option<u8> {
        let (sender, receiver) = (&self.ends[from], &self.ends[to]);
        if is_syn {
            return Some(0);
        }
        if !sender.syn_seen || !receiver.syn_seen {
            return None;
        }
        let shift = receiver.window_scale.and(sender.window_scale).unwrap_or(0);
        Some(shift.min(MAX_WINDOW_SHIFT))
    }

    /// Changes the states of both ends as the segment proves it.
    pub(super) fn apply(&mut self, passage: &mut Passage<'_>, acked: i64) {
        let flags = passage.segment.header.flags;
        let acks_fin = acked_fin(&self.ends[passage.to], acked);
        for (end, way) in [(passage.from, Way::Sent), (passage.to, Way::Received)] {
            for sign in signs(flags, acked >= 1, acks_fin) {
                if (way, sign) == (Way::Received, Sign::AckOfSyn) && self.awaits_kernel(end) {
                    self.ends[end].answered.get_or_insert(passage.segment.time);
                    continue;
                }
                let state = next(self.ends[end].state, way, sign);
                self.enter(end, state, Cause::Segment(way, sign), passage);
            }
        }
    }

    pub(super) fn note_kernel(&mut self, passage: &Passage<'_>) {
        for (end, told) in [passage.from, passage.to].into_iter().zip(passage.told_by_kernel) {
            self.ends[end].told_by_kernel |= told;
        }
    }
}

/// Whether an acknowledgment up to `acked` is of the FIN of `end` too.
fn acked_fin(end: &Endpoint, acked: i64) -> bool {
    end.stream.fin().is_some_and(|fin| acked > fin)
}

/// Services have the lower ports. Of equal ones, who sends first is taken for the client.
fn roles_by_port(src: SocketAddr, dst: SocketAddr) -> [Role; 2] {
    if src.port() < dst.port() { [Role::Server, Role::Client] } else { [Role::Client, Role::Server] }
}

const fn other(role: Role) -> Role {
    match role {
        Role::Server => Role::Client,
        Role::Client => Role::Server,
    }
}

/// RFC 7323, section 2.3.
const MAX_WINDOW_SHIFT: u8 = 14;
