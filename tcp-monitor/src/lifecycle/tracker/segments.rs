//! What the tracker does with a segment.

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Role;
use tcp_monitor_common::rules::control::SegmentKind;

use super::Tracker;
use crate::lifecycle::connection::inference::roles_by_port;
use crate::lifecycle::connection::numbers::Numbers;
use crate::lifecycle::connection::{Connection, EndRef, Identity};
use crate::lifecycle::dedup::{Observation, Transmission, occupies_sequence_space};
use crate::lifecycle::event::{Event, EventKind, Segment, Step, Unexpected};
use crate::lifecycle::input::SegmentInput;
use crate::lifecycle::queues::Place;
use crate::lifecycle::time::Time;
use crate::lifecycle::tuple::Tuple;

/// A segment on its way from one end to the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passing<'a> {
    pub(super) segment: &'a SegmentInput,
    pub(super) tuple: Tuple,
    /// The index of the end that sent it, and of that it goes to: the same if a socket connects to
    /// itself.
    pub(super) from: usize,
    pub(super) to: usize,
}

/// What was read from a segment with what is known of its connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    pub(super) numbers: Numbers,
    pub(super) unexpected: Option<Unexpected>,
    pub(super) sender: Option<Identity>,
}

impl Tracker {
    pub(super) fn process_segment(&mut self, segment: &SegmentInput, out: &mut Vec<Event>) {
        let (tuple, from) = Tuple::of(segment.netns, segment.src, segment.dst);
        let passing = Passing { segment, tuple, from, to: tuple.peer_of(from) };
        if self.sees_all_segments() {
            self.process_any(passing, out);
        } else if let Some(step) = step_of(segment) {
            self.process_control(&passing, step, out);
        }
    }

    /// A segment, where all are seen, each once.
    fn process_any(&mut self, passing: Passing<'_>, out: &mut Vec<Event>) {
        let known = self.table.find(&passing.tuple);
        let recognized = self.recognize(&passing, known);
        let passing = Passing { segment: &recognized, ..passing };
        let Some(step) = step_of(passing.segment) else {
            self.infer(&passing, None, known, out);
            return;
        };
        let observation = self.dedup.see(passing.segment, step);
        if observation.transmission != Transmission::Duplicate {
            let place = out.len();
            let reading = self.infer(&passing, Some(step), known, out);
            out.insert(place, segment_event(passing.segment, step, &observation, reading));
        }
    }

    /// A segment, where only those of handshakes and teardowns are seen, each wherever it passes.
    fn process_control(&mut self, passing: &Passing<'_>, step: Step, out: &mut Vec<Event>) {
        let observation = self.dedup.see(passing.segment, step);
        let known = self.connection_of(passing, step, &observation, out);
        let numbers = self.observe(passing, step, &observation, known);
        // What follows from the segment is reported after it.
        let place = out.len();
        let Some(known) = known else {
            if observation.transmission != Transmission::Duplicate {
                let reading = Reading { numbers, ..Reading::default() };
                out.push(segment_event(passing.segment, step, &observation, reading));
            }
            return;
        };
        self.affect_time_waits(passing.ends(known), passing.segment, step, out);
        let mut sender = self.table.get(known).map(|connection| connection.identity(passing.from));
        if self.infers() {
            sender = self.infer_from_control(passing, &observation, known, out).or(sender);
        }
        if observation.transmission != Transmission::Duplicate {
            let reading = Reading { numbers, unexpected: None, sender };
            out.insert(place, segment_event(passing.segment, step, &observation, reading));
        }
    }

    /// The connection of a segment, which may begin with it.
    fn connection_of(
        &mut self,
        passing: &Passing<'_>,
        step: Step,
        observation: &Observation,
        out: &mut Vec<Event>,
    ) -> Option<Place> {
        let Passing { segment, ref tuple, from, .. } = *passing;
        let is_duplicate = observation.transmission == Transmission::Duplicate;
        let mut is_new = false;
        let mut connecting = None;
        let candidates = &mut self.connecting;
        let place = self.table.find_or(tuple, |connections, ids| {
            let first_seen = observation.connection.filter(|place| {
                let same = |it: &Connection| it.tuple.has_addresses_of(tuple) && it.has_room_for_namespace();
                connections.get(*place).is_some_and(same)
            });
            if is_duplicate && first_seen.is_some() {
                return first_seen;
            }
            if step == Step::Rst {
                return None;
            }
            is_new = true;
            connecting = if step == Step::Syn { candidates.take_sender_of(segment) } else { None };
            let of_socket = connecting.and_then(|place| connections.get(place)).and_then(|it| it.id);
            let id = of_socket.or_else(|| Some(ids.next()));
            Some(super::table::insert(connections, id, *tuple, opener(passing, step), segment.time))
        })?;
        let place = match observation.connection.filter(|_| is_duplicate) {
            Some(first) => self.join(first, place, tuple, segment.time),
            None => place,
        };
        if step == Step::Syn && !is_new && self.may_be_of_connecting(place, passing) {
            connecting = self.connecting.take_sender_of(segment);
        }
        if let Some(sender) = connecting {
            let socket = [0, 1]
                .map(|end| EndRef::new(sender, end))
                .into_iter()
                .find(|at| self.route_of(*at).is_some());
            if let Some(socket) = socket {
                if let Some((_, Some(since))) = self.route_of(socket) {
                    self.connecting.remove_deferred(sender, since);
                }
                self.learn_port(socket, EndRef::new(place, from), segment.time, out);
            }
        }
        if !is_duplicate {
            self.dedup.note(observation, place);
            if step == Step::Syn
                && let Some((connection, ids)) = self.table.get_with_ids(place)
                && connection.is_reused_by(segment, from)
            {
                connection.renew(Some(ids.next()), from);
            }
        }
        Some(place)
    }

    /// A packet that the connection `first` sent is seen in the network namespace of another one.
    /// They are one connection, unless both have a socket at the same end. Returns which is the
    /// connection now.
    fn join(&mut self, first: Place, other: Place, tuple: &Tuple, now: Time) -> Place {
        let (Some(known), Some(joined)) = (self.table.get(first), self.table.get(other)) else {
            return other;
        };
        let is_free = |end: usize| {
            let (mine, theirs) = (&known.ends[end], &joined.ends[end]);
            theirs.time_wait.is_none() && (theirs.socket.is_none() || !mine.is_reported())
        };
        let has_one_namespace = joined.other_netns.is_none() && known.has_room_for_namespace();
        let is_same = first != other && known.tuple.has_addresses_of(tuple);
        let can_join = is_same && has_one_namespace && joined.inference.is_none();
        if !can_join || !is_free(0) || !is_free(1) {
            return other;
        }
        let identities = [0, 1].map(|end| known.identity(end));
        let sockets = [0, 1].map(|end| joined.ends[end].socket.is_some());
        for end in [0, 1].into_iter().filter(|end| sockets[*end]) {
            let at = self.table.move_socket(EndRef::new(other, end), EndRef::new(first, end));
            if let Some(moved) = self.table.end_mut(at) {
                moved.life.set_identity(identities[end]);
            }
        }
        self.table.discard_segments(other, now);
        self.table.find_or(tuple, |_, _| Some(first));
        first
    }

    /// Whether a SYN may be that of a socket whose port is not known: none that is known has sent
    /// it.
    fn may_be_of_connecting(&self, place: Place, passing: &Passing<'_>) -> bool {
        self.table.get(place).is_some_and(|connection| {
            let sender = &connection.ends[passing.from];
            sender.sent.isn() != Some(passing.segment.header.seq)
                && sender.reported_state() != Some(TcpState::SynSent)
        })
    }

    /// The numbers of a segment.
    fn observe(
        &mut self,
        passing: &Passing<'_>,
        step: Step,
        observation: &Observation,
        known: Option<Place>,
    ) -> Numbers {
        let connection = known.and_then(|place| self.table.get_mut(place));
        let Some(connection) = connection else { return Numbers::default() };
        // Another network namespace saw it already.
        if observation.transmission == Transmission::Duplicate
            && observation.first.netns != passing.tuple.netns
        {
            return Numbers::default();
        }
        let numbers = connection.observe(passing.segment, step, passing.from);
        if let Some(place) = known {
            self.table.note_use(place, passing.segment.time);
        }
        numbers
    }
}

impl Passing<'_> {
    /// Its ends in the table: the sender and the receiver.
    fn ends(&self, place: Place) -> [EndRef; 2] {
        [self.from, self.to].map(|end| EndRef::new(place, end))
    }
}

/// The index of the end that opened a connection which is met with this segment.
pub(super) fn opener(passing: &Passing<'_>, step: Step) -> usize {
    match step {
        Step::Syn => passing.from,
        Step::SynAck => passing.to,
        Step::HandshakeAck | Step::Fin | Step::FinAck | Step::Rst => client(passing),
    }
}

/// The index of the client's end, where only the ports show that.
pub(super) fn client(passing: &Passing<'_>) -> usize {
    match roles_by_port(passing.segment.src, passing.segment.dst) {
        [Role::Client, _] => passing.from,
        [Role::Server, _] => passing.to,
    }
}

fn segment_event(segment: &SegmentInput, step: Step, observation: &Observation, reading: Reading) -> Event {
    let is_retransmission = observation.transmission == Transmission::Retransmitted;
    let reported = Segment {
        src: segment.src,
        dst: segment.dst,
        header: segment.header,
        payload_len: segment.payload_len,
        seq_rel: reading.numbers.relative.seq,
        ack_rel: reading.numbers.relative.ack,
        ifindex: segment.ifindex,
        direction: segment.direction,
        step,
        syn_cookie: segment.syn_cookie,
        retransmission: is_retransmission && occupies_sequence_space(segment),
        unexpected: reading.unexpected,
        check: reading.numbers.check,
    };
    let event = Event::new(segment.time, EventKind::Segment(reported));
    Event { netns: segment.netns, ..event }.of(reading.sender)
}

/// The step a segment is. `None` if it is none: nothing to report.
fn step_of(segment: &SegmentInput) -> Option<Step> {
    match segment.header.flags.kind() {
        Some(SegmentKind::Rst) => Some(Step::Rst),
        Some(SegmentKind::SynAck) => Some(Step::SynAck),
        Some(SegmentKind::Syn) => Some(Step::Syn),
        Some(SegmentKind::Fin) => Some(Step::Fin),
        None if segment.acks_syn_ack => Some(Step::HandshakeAck),
        None if segment.acks_fin => Some(Step::FinAck),
        None => None,
    }
}
