//! What is inferred of a connection: what each of its segments does to its two ends.

use std::net::SocketAddr;
use std::num::NonZeroU64;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Role;
use tcp_monitor_common::rules::control::SegmentKind;

use super::check::Sent;
use super::effect::{Effect, Way, effects, next};
use super::endpoint::Endpoint;
use super::enter::{Cause, is_handshake};
use super::flow::Flow;
use super::life::{Life, Source};
use super::stream::Novelty;
use super::visibility::Visibility;

use super::Identity;
use super::numbers::Relative;
use crate::lifecycle::event::{ConnectionId, End, Event, EventKind, Retransmit, Unexpected};
use crate::lifecycle::input::{RetransmitKind, SegmentInput};
use crate::lifecycle::segment::Flags;
use crate::lifecycle::time::Time;
use crate::lifecycle::tuple::Tuple;

/// What the segments of a connection show besides the states of its ends.
#[derive(Debug)]
pub(in crate::lifecycle) struct Inference {
    /// In the order of the tuple.
    pub(super) flows: [Flow; 2],
    pub(in crate::lifecycle) visibility: Visibility,
    /// When its last segment was seen.
    pub(super) last_seen: Time,
}

/// Both ends of a connection, and where to report what happens to them.
pub(in crate::lifecycle) struct Ends<'a> {
    pub(in crate::lifecycle) tuple: Tuple,
    /// In the order of the tuple.
    pub(in crate::lifecycle) of: &'a mut [Endpoint; 2],
    pub(in crate::lifecycle) out: &'a mut Vec<Event>,
}

/// A segment on its way from one end to the other.
pub(in crate::lifecycle) struct Passage<'a> {
    pub(in crate::lifecycle) ends: Ends<'a>,
    /// The connection, and the index of the end that opened it.
    pub(in crate::lifecycle) connection: (Option<ConnectionId>, usize),
    pub(in crate::lifecycle) ids: &'a mut Ids,
    /// The index of the end that sent it, and of that it goes to: the same if a socket connects to
    /// itself.
    pub(in crate::lifecycle) from: usize,
    pub(in crate::lifecycle) to: usize,
    pub(in crate::lifecycle) segment: &'a SegmentInput,
}

/// What a segment is the first to acknowledge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::lifecycle) struct Acks {
    pub(in crate::lifecycle) syn_ack: bool,
    pub(in crate::lifecycle) fin: bool,
}

/// The numbers of connections, in the order in which they are met.
#[derive(Debug, Default)]
pub(in crate::lifecycle) struct Ids(u64);

impl Ids {
    /// The next one.
    pub(in crate::lifecycle) fn next(&mut self) -> ConnectionId {
        let id = ConnectionId::new(NonZeroU64::MIN.saturating_add(self.0));
        self.0 += 1;
        id
    }
}

impl Passage<'_> {
    /// The identity of an end, by its index.
    pub(super) fn identity(&self, end: usize) -> Identity {
        let (connection, first) = self.connection;
        Identity { connection, end: if end == first { End::First } else { End::Second } }
    }

    pub(super) fn life(&self, end: usize) -> &Life {
        &self.ends.of[end].life
    }

    pub(super) fn life_mut(&mut self, end: usize) -> &mut Life {
        &mut self.ends.of[end].life
    }

    pub(super) fn state(&self, end: usize) -> TcpState {
        self.life(end).state()
    }

    /// The kernel reports the socket of an end, and that is not closed.
    pub(super) fn has_socket(&self, end: usize) -> bool {
        self.life(end).is_reported_by_kernel() && self.state(end) != TcpState::Close
    }

    /// Another connection begins, which the end `first` opens, unless it is known already that the
    /// last one of that end is not the one that this segment is of.
    pub(super) fn renew(&mut self, first: usize) {
        if self.life(first).of().connection == self.connection.0 {
            self.connection = (Some(self.ids.next()), first);
        }
    }
}

impl Inference {
    /// A connection of which no segment was seen. `sees_all_segments` says whether all will be.
    pub(in crate::lifecycle) fn new(sees_all_segments: bool) -> Self {
        let visibility = Visibility::new(sees_all_segments);
        Self { flows: Default::default(), visibility, last_seen: Time::default() }
    }

    /// An end begins a new life, whose states are inferred.
    pub(super) fn begin_life(&mut self, end: usize, life: Life, flow: Flow, passage: &mut Passage<'_>) {
        self.flows[end] = flow;
        *passage.life_mut(end) = life;
        if let Some(sent) = self.sent(end, passage) {
            *sent = Sent::default();
        }
    }

    /// What an end sent, where that is known from all segments.
    fn sent<'a>(&self, end: usize, passage: &'a mut Passage<'_>) -> Option<&'a mut Sent> {
        self.visibility.sees_all_segments.then_some(&mut passage.ends.of[end].sent)
    }

    /// Processes a segment. Returns what is unexpected of it, if anything is.
    pub(in crate::lifecycle) fn process(&mut self, passage: &mut Passage<'_>) -> Option<Unexpected> {
        self.last_seen = self.last_seen.max(passage.segment.time);
        let flags = passage.segment.header.flags;
        match flags.kind() {
            Some(SegmentKind::Rst) => self.reset(passage),
            Some(SegmentKind::SynAck) => self.answer(passage),
            Some(SegmentKind::Syn) => self.open(passage),
            Some(SegmentKind::Fin) | None => {
                if !flags.contains(Flags::ACK) {
                    Some(Unexpected::State)
                } else if self.visibility.sees_all_segments {
                    self.proceed(passage)
                } else {
                    self.skip(passage)
                }
            }
        }
    }

    /// What `segment` from the end `from` acknowledges first, and only it or one that answers a
    /// retransmission of the same segment.
    pub(in crate::lifecycle) fn acks(
        &self,
        [sender, receiver]: [TcpState; 2],
        to: usize,
        segment: &SegmentInput,
    ) -> Acks {
        let flags = segment.header.flags;
        let is_straggler = sender == TcpState::Close;
        if !flags.contains(Flags::ACK) || flags.contains(Flags::RST) || is_straggler {
            return Acks::default();
        }
        let flow = &self.flows[to];
        let acked = flow.stream.find(segment.header.ack).filter(|acked| flow.accepts_ack(receiver, *acked));
        let Some(acked) = acked else { return Acks::default() };
        Acks {
            syn_ack: flow.awaits_ack_of_syn_ack && (acked == 1 || !flow.stream.is_acked()),
            fin: flow.awaits_ack_of_fin && flow.stream.fin().is_some_and(|fin| acked > fin),
        }
    }

    /// The numbers of a segment counted from the starts of both streams.
    pub(in crate::lifecycle) fn relative(&self, from: usize, to: usize, segment: &SegmentInput) -> Relative {
        let header = &segment.header;
        let is_start = header.flags.contains(Flags::SYN);
        let seq = self.flows[from].stream.isn().map(|isn| header.seq.wrapping_sub(isn));
        let ack = self.flows[to].stream.isn().filter(|_| header.flags.contains(Flags::ACK));
        Relative {
            seq: if is_start { Some(0) } else { seq },
            ack: ack.map(|isn| header.ack.wrapping_sub(isn)),
        }
    }

    /// A segment with ACK, and without SYN and RST.
    fn proceed(&mut self, passage: &mut Passage<'_>) -> Option<Unexpected> {
        let Passage { from, to, segment, .. } = *passage;
        let header = &segment.header;
        self.meet_midway(passage);
        if passage.state(from) == TcpState::Close {
            // A straggler.
            return None;
        }
        let acked = self.flows[to].stream.position(header.ack);
        if !self.flows[to].accepts_ack(passage.state(to), acked) {
            return Some(Unexpected::Ack);
        }
        let stream = &mut self.flows[from].stream;
        let position = stream.position(header.seq);
        let is_fin = header.flags.contains(Flags::FIN);
        let end = position + i64::from(segment.payload_len) + i64::from(is_fin);
        if is_fin && stream.is_behind(end) {
            // More was acknowledged than it says there is.
            return Some(Unexpected::OutOfWindow);
        }
        let unexpected = stream.is_ahead(position).then_some(Unexpected::OutOfWindow);
        if is_fin && stream.fin().is_none() {
            self.flows[from].fin_answers = acked_fin(&self.flows[to], acked);
        }
        self.count(passage, position);
        self.acknowledge(passage, acked);
        self.apply(passage, acked);
        unexpected
    }

    /// A segment with ACK, and without SYN and RST, between which and the last there may have been
    /// any number of others: nothing of it is unexpected.
    fn skip(&mut self, passage: &mut Passage<'_>) -> Option<Unexpected> {
        let Passage { from, to, segment, .. } = *passage;
        let header = &segment.header;
        self.meet_midway(passage);
        if passage.state(from) == TcpState::Close {
            // A straggler.
            return None;
        }
        let acked = self.flows[to].stream.skip_to_ack(header.ack);
        if is_handshake(passage.state(to)) && acked < 1 {
            return None;
        }
        let is_fin = header.flags.contains(Flags::FIN);
        let space = segment.payload_len.saturating_add(u32::from(is_fin));
        let stream = &mut self.flows[from].stream;
        let position = stream.skip_to(header.seq, space, is_fin);
        if is_fin && stream.fin().is_none() {
            self.flows[from].fin_answers = acked_fin(&self.flows[to], acked);
        }
        self.count(passage, position);
        self.acknowledge(passage, acked);
        self.apply(passage, acked);
        None
    }

    /// Ends of which no segment was seen before this one, which can be of an open connection only.
    fn meet_midway(&mut self, passage: &mut Passage<'_>) {
        let Passage { from, to, segment, .. } = *passage;
        let roles = match [from, to].map(|end| passage.state(end) == TcpState::Listen) {
            [true, true] => roles_by_port(segment.src, segment.dst).map(Some),
            [true, false] => [Some(other(passage.life(to).role)), None],
            [false, true] => [None, Some(other(passage.life(from).role))],
            [false, false] => [None, None],
        };
        for (end, role) in [from, to].into_iter().zip(roles) {
            if let Some(role) = role {
                let (of, state) = (passage.identity(end), TcpState::Established);
                let life = Life::met(of, role, state, Source::Segments);
                self.begin_life(end, life, Flow::default(), passage);
            }
        }
    }

    /// Counts what a segment carries, and reports a retransmission.
    pub(super) fn count(&mut self, passage: &mut Passage<'_>, position: i64) {
        let segment = passage.segment;
        let flags = segment.header.flags;
        let [syn, fin] = [Flags::SYN, Flags::FIN].map(|flag| flags.contains(flag));
        let is_fin = fin && !syn;
        let space = segment.payload_len.saturating_add(u32::from(syn) + u32::from(is_fin));
        if let Some(sent) = self.sent(passage.from, passage) {
            sent.send(segment);
        }
        let sender = &mut self.flows[passage.from];
        if is_fin {
            sender.awaits_ack_of_fin = true;
        }
        // Who answers a SYN with his own sends it again, but with an ACK.
        let opens_too = syn && flags.contains(Flags::ACK) && passage.state(passage.from) == TcpState::SynSent;
        let control = match (syn, fin) {
            (true, _) => Flags::SYN,
            (false, true) => Flags::FIN,
            (false, false) => Flags::default(),
        };
        let novelty = sender.stream.send(position, space, control, segment.observation_point());
        if novelty != Novelty::Retransmitted || opens_too {
            return;
        }
        sender.retransmits = sender.retransmits.saturating_add(1);
        let kind = match (syn, fin) {
            (true, _) if flags.contains(Flags::ACK) => RetransmitKind::SynAck,
            (true, _) => RetransmitKind::Syn,
            (false, true) => RetransmitKind::Fin,
            (false, false) => RetransmitKind::Data,
        };
        if self.is_reported_here_alone(passage.from, passage.ends.of) {
            let retransmit = EventKind::Retransmit(Retransmit {
                local: segment.src,
                remote: segment.dst,
                kind,
                state: passage.state(passage.from),
            });
            let event = self.event(passage.from, segment.time, retransmit, &passage.ends);
            passage.ends.out.push(event);
        }
    }

    /// Processes the acknowledgment of a segment, and its window.
    pub(super) fn acknowledge(&mut self, passage: &mut Passage<'_>, acked: i64) {
        let Passage { from, to, segment, .. } = *passage;
        if let Some(sent) = self.sent(to, passage) {
            sent.acknowledge(segment);
        }
        let is_syn = segment.header.flags.contains(Flags::SYN);
        let receiver = &mut self.flows[to];
        receiver.awaits_ack_of_syn_ack = false;
        if acked_fin(receiver, acked) {
            receiver.awaits_ack_of_fin = false;
        }
        let is_latest = !receiver.stream.is_behind(acked);
        receiver.stream.acknowledge(acked);
        if is_latest {
            self.flows[from].expects = Some(segment.header.ack);
        }
        if let Some(shift) = self.window_shift(from, to, is_syn) {
            let window = i64::from(segment.header.window) << shift;
            self.flows[to].stream.open_window(acked.saturating_add(window));
        }
    }

    /// How the windows that the end `from` announces are scaled, if that is known (RFC 7323,
    /// section 2.2).
    fn window_shift(&self, from: usize, to: usize, is_syn: bool) -> Option<u8> {
        let (sender, receiver) = (&self.flows[from], &self.flows[to]);
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
        let acks_fin = acked_fin(&self.flows[passage.to], acked);
        for (end, way) in [(passage.from, Way::Sent), (passage.to, Way::Received)] {
            for effect in effects(flags, acked >= 1, acks_fin) {
                if (way, effect) == (Way::Received, Effect::AckOfSyn)
                    && self.awaits_kernel(end, passage.ends.of)
                {
                    self.flows[end].answered.get_or_insert(passage.segment.time);
                    continue;
                }
                let state = next(passage.state(end), way, effect);
                self.enter(end, state, Cause::Segment(way, effect), passage);
            }
        }
    }
}

/// Whether an acknowledgment up to `acked` is of the FIN of `end` too.
fn acked_fin(end: &Flow, acked: i64) -> bool {
    end.stream.fin().is_some_and(|fin| acked > fin)
}

/// Services have the lower ports. Of equal ones, who sends first is taken for the client.
pub(in crate::lifecycle) fn roles_by_port(src: SocketAddr, dst: SocketAddr) -> [Role; 2] {
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
