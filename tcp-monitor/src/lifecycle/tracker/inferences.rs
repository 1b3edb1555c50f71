//! States that are inferred from segments: from all of them, or from those of handshakes and
//! teardowns.

use std::time::Duration;

use tcp_monitor_common::record::Direction;
use tcp_monitor_common::rules::control::SegmentKind;

use super::nat::Opener;
use super::segments::{Passing, Reading, client, opener};
use super::{InferFrom, Tracker};
use crate::lifecycle::connection::Identity;
use crate::lifecycle::connection::check::check;
use crate::lifecycle::connection::class::Class;
use crate::lifecycle::connection::inference::{Ends, Passage};
use crate::lifecycle::connection::life::Source;
use crate::lifecycle::connection::numbers::Numbers;
use crate::lifecycle::dedup::{Observation, Transmission};
use crate::lifecycle::event::{Event, Step, Unexpected};
use crate::lifecycle::input::SegmentInput;
use crate::lifecycle::queues::Place;
use crate::lifecycle::segment::Flags;
use crate::lifecycle::time::Time;

impl Tracker {
    /// Something is inferred where the kernel reports nothing.
    pub(super) fn infers(&self) -> bool {
        self.infer_from != InferFrom::Nothing
    }

    /// The segment, with what it is the first to acknowledge.
    pub(super) fn recognize(&self, passing: &Passing<'_>, known: Option<Place>) -> SegmentInput {
        let Passing { segment, from, to, .. } = *passing;
        let connection = known.and_then(|place| self.table.get(place));
        let acks = connection.and_then(|connection| {
            let states = [from, to].map(|end| connection.ends[end].life.state());
            connection.inference.as_ref().map(|inference| inference.acks(states, to, segment))
        });
        let acks = acks.unwrap_or_default();
        SegmentInput {
            acks_syn_ack: segment.acks_syn_ack || acks.syn_ack,
            acks_fin: segment.acks_fin || acks.fin,
            ..*segment
        }
    }

    /// Processes a segment, which is that `step` if it is one, where all are seen. Reports what
    /// follows from it of each end whose socket the kernel does not report: the sender's and the
    /// receiver's, in this order.
    pub(super) fn infer(
        &mut self,
        passing: &Passing<'_>,
        step: Option<Step>,
        known: Option<Place>,
        out: &mut Vec<Event>,
    ) -> Reading {
        let Passing { segment, ref tuple, from, to } = *passing;
        self.now = self.now.max(segment.time);
        let is_inferred =
            |place: &Place| self.table.get(*place).is_some_and(|connection| connection.inference.is_some());
        let place = match known.filter(is_inferred) {
            Some(place) => place,
            None if is_of_connection(segment) => {
                self.make_room_for_inference();
                let first = step.map_or_else(|| client(passing), |step| opener(passing, step));
                let Some(place) = self.table.find_or_add(tuple, first, self.now) else {
                    return Reading::default();
                };
                self.table.add_inference(place, true, self.now);
                place
            }
            None => {
                let connection = known.and_then(|place| self.table.get(place));
                let sender = connection.map(|connection| connection.identity(from));
                return Reading { sender, ..Reading::default() };
            }
        };
        let Some((connection, ids)) = self.table.get_with_ids(place) else { return Reading::default() };
        let Some(mut inference) = connection.inference.take() else { return Reading::default() };
        let sent = |end: usize| &connection.ends[end].sent;
        let before = step.map(|step| check(segment, step, sent(from), sent(to))).unwrap_or_default();
        let of = (connection.id, usize::from(connection.first));
        let ends = Ends { tuple: connection.tuple, of: &mut connection.ends, out };
        let mut passage = Passage { ends, connection: of, ids, from, to, segment };
        let unexpected = inference.process(&mut passage);
        let of_now = passage.connection;
        let check = match unexpected {
            Some(Unexpected::Ack) => before.of_nothing_sent(&connection.ends[to].sent),
            Some(Unexpected::OutOfWindow | Unexpected::State) | None => before,
        };
        let numbers = Numbers { relative: inference.relative(from, to, segment), check };
        let class = Class::of(&inference, &connection.ends);
        connection.inference = Some(inference);
        if of_now != of {
            connection.renew(of_now.0, of_now.1);
        }
        let sender = Some(connection.identity(from));
        self.queue_inference(place, class, class.stays(segment, unexpected));
        Reading { numbers, unexpected, sender }
    }

    /// Processes a segment of a handshake or a teardown that was seen at one of the observation
    /// points that it passes. Returns which connection and end it is of.
    pub(super) fn infer_from_control(
        &mut self,
        passing: &Passing<'_>,
        observation: &Observation,
        place: Place,
        out: &mut Vec<Event>,
    ) -> Option<Identity> {
        let Passing { segment, from, to, .. } = *passing;
        self.now = self.now.max(segment.time);
        let is_duplicate = observation.transmission == Transmission::Duplicate;
        let connection = self.table.get_mut(place)?;
        if segment.syn_cookie {
            // There is no request, and nothing to time out. If the cookie comes back, the kernel
            // reports a socket.
            if let Some(inference) = &mut connection.inference {
                let mut ends = Ends { tuple: connection.tuple, of: &mut connection.ends, out };
                inference.replace_ends(segment.time, &mut ends);
                self.table.drop_inference(place, self.now);
            }
            return None;
        }
        if connection.inference.is_none() {
            if is_duplicate || !is_of_connection(segment) || connection.leaves_nothing_to_infer() {
                return None;
            }
            self.make_room_for_inference();
            self.table.add_inference(place, false, self.now);
        }
        let (connection, ids) = self.table.get_with_ids(place)?;
        let mut inference = connection.inference.take()?;
        let of = (connection.id, usize::from(connection.first));
        let ends = Ends { tuple: connection.tuple, of: &mut connection.ends, out };
        let mut passage = Passage { ends, connection: of, ids, from, to, segment };
        inference.visibility.note(from, segment, observation);
        for end in [0, 1] {
            inference.emit_deferred(end, segment.time, &mut passage.ends);
        }
        if !is_duplicate {
            inference.process(&mut passage);
        }
        let of_now = passage.connection;
        let class = Class::of(&inference, &connection.ends);
        let is_answered_here = inference.visibility.is_here(from);
        let is_settled = inference.is_settled(&connection.ends);
        let is_reported = connection.ends[from].life.is_reported_by_kernel();
        connection.inference = Some(inference);
        if of_now != of {
            connection.renew(of_now.0, of_now.1);
        }
        let (identity, tuple) = (connection.identity(from), connection.tuple);
        if is_settled {
            self.table.drop_inference(place, self.now);
            return Some(identity);
        }
        let at_least = if is_duplicate { Duration::MAX } else { class.stays(segment, None) };
        self.queue_inference(place, class, at_least);
        let sender = Opener { tuple, end: from };
        self.follow_translation(segment, sender, is_reported, is_duplicate, is_answered_here);
        Some(identity)
    }

    /// Finds out which connections are one before and behind a translation of addresses: a SYN with
    /// the same initial sequence number came into the namespace right before, with other addresses.
    fn follow_translation(
        &mut self,
        segment: &SegmentInput,
        sender: Opener,
        is_reported: bool,
        is_duplicate: bool,
        is_here: bool,
    ) {
        let (netns, seq) = (segment.netns, segment.header.seq);
        let is_syn = segment.header.flags.kind() == Some(SegmentKind::Syn);
        match segment.direction {
            Some(Direction::Ingress) if is_syn => self.nat.come_in(netns, seq, sender, self.now),
            Some(Direction::Egress) if is_syn && !is_duplicate && !is_reported => {
                self.nat.go_out(netns, seq, sender, self.now);
            }
            Some(_) | None if is_syn || is_duplicate => {}
            Some(_) | None => {
                let Some(opener) = self.nat.answer(&sender.tuple, sender.end) else { return };
                let Some(place) = self.table.find(&opener.tuple) else { return };
                let Some(connection) = self.table.get_mut(place) else { return };
                let Some(inference) = &mut connection.inference else { return };
                if is_here {
                    // Its socket has the other addresses. What is reported already goes on to its
                    // end.
                    let lives = connection.ends.iter_mut().map(|end| &mut end.life);
                    let silent = lives.filter(|life| life.source == Source::Segments && !life.has_reports);
                    silent.for_each(|life| life.source = Source::Translated);
                } else {
                    inference.visibility.find_translated(1 - opener.end, netns);
                }
            }
        }
    }

    /// The kernel reports a socket of a connection from now on.
    pub(super) fn note_kernel(&mut self, place: Place, now: Time) {
        let Some(connection) = self.table.get(place) else { return };
        let Some(inference) = &connection.inference else { return };
        let class = Class::of(inference, &connection.ends);
        self.now = self.now.max(now);
        if inference.is_settled(&connection.ends) {
            self.table.drop_inference(place, self.now);
        } else {
            self.queue_inference(place, class, Duration::MAX);
        }
    }

    /// When [`Self::expire_inference`] has something to do, at the earliest.
    pub(super) fn next_inference_deadline(&self) -> Option<Time> {
        Class::ALL.into_iter().filter_map(|class| self.inference_deadline(class)).map(|(due, _)| due).min()
    }

    /// Reports what the time brought about that passed first, of what passed until `now`.
    pub(super) fn expire_inference(&mut self, now: Time, out: &mut Vec<Event>) {
        let deadlines =
            Class::ALL.into_iter().filter_map(|class| Some((class, self.inference_deadline(class)?)));
        let Some((class, (deadline, place))) = deadlines.min_by_key(|(_, (deadline, _))| *deadline) else {
            return;
        };
        if deadline > now {
            return;
        }
        // After all inputs so far, or it would have been due before them.
        self.now = self.now.max(deadline);
        if class == Class::Closed || class == Class::Open && !self.sees_all_segments() {
            self.table.drop_inference(place, self.now);
            return;
        }
        let Some(connection) = self.table.get_mut(place) else { return };
        let Some(inference) = &mut connection.inference else { return };
        if class != Class::HalfOpen || inference.is_half_open_until(&connection.ends) <= deadline {
            let mut ends = Ends { tuple: connection.tuple, of: &mut connection.ends, out };
            inference.time_out(class, deadline, &mut ends);
        }
        let class = Class::of(inference, &connection.ends);
        self.queue_inference(place, class, Duration::ZERO);
    }

    fn queue_inference(&mut self, place: Place, class: Class, at_least: Duration) {
        self.table.queue_inferred(place, class, self.now, at_least);
        self.limit_unproven();
    }

    fn inference_deadline(&self, class: Class) -> Option<(Time, Place)> {
        let (queued, place) = self.table.first_inferred(class)?;
        Some((queued + class.timeout(self.sees_all_segments()), place))
    }
}

/// Whether a segment of no known connection is of one. A bare ACK may be the last of one that is
/// over; a RST is.
fn is_of_connection(segment: &SegmentInput) -> bool {
    let [rst, syn, fin, ack] =
        [Flags::RST, Flags::SYN, Flags::FIN, Flags::ACK].map(|flag| segment.header.flags.contains(flag));
    !rst && (syn || ack && (fin || segment.payload_len > 0))
}
