//! Which segments are duplicates. One packet passes several interfaces (a bond and its member, a
//! bridge and its veth, both ends of a veth) and is reported once; one that its sender retransmits
//! is reported again.

use std::iter::once;
use std::time::Duration;

use tcp_monitor_common::record::Direction;

use super::event::Step;
use super::input::SegmentInput;
use super::map::Map;
use super::queues::Place;
use super::segment::Flags;
use super::time::Time;
use super::tuple::Address;

/// The segments seen lately. To discard the oldest is its purpose, and not counted as a loss.
#[derive(Debug)]
pub(super) struct Dedup {
    packets: Map<Identity, Packet, 1>,
}

/// What a segment is, seen from an observation point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transmission {
    /// Sent for the first time.
    First,
    /// Retransmitted.
    Retransmitted,
    /// Reported already: another interface saw it first.
    Duplicate,
}

/// A segment as it was seen at one observation point, among all that see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Observation {
    pub(super) transmission: Transmission,
    /// Who saw it first, this time that it was sent.
    pub(super) first: ObservationPoint,
    /// The connection that it was taken to be of then.
    pub(super) connection: Option<Place>,
    /// Where it is remembered.
    remembered: Place,
    /// It leaves a network namespace that it came into: it is forwarded.
    pub(super) is_forwarded: bool,
}

impl Dedup {
    /// Bytes that a segment takes.
    #[cfg(test)]
    pub(super) const ENTRY: usize = Map::<Identity, Packet, 1>::ENTRY;

    pub(super) fn new(limit: usize) -> Self {
        Self { packets: Map::new(limit) }
    }

    /// A segment is seen.
    pub(super) fn see(&mut self, segment: &SegmentInput, step: Step) -> Observation {
        let (identity, point, now) = (Identity::of(segment, step), segment.observation_point(), segment.time);
        let (remembered, is_known) = self.packets.find_or_insert(identity, Packet::first(point, now), 0, now);
        let first = Observation {
            transmission: Transmission::First,
            first: point,
            connection: None,
            remembered,
            is_forwarded: false,
        };
        if is_known.is_none() {
            return first;
        }
        self.packets.queue(remembered, 0, now, ORDERED_TO);
        match self.packets.get_mut(remembered) {
            Some(packet) => packet.see(first, now),
            None => first,
        }
    }

    /// The segment of an observation is of this connection.
    pub(super) fn note(&mut self, observation: &Observation, connection: Place) {
        if let Some(packet) = self.packets.get_mut(observation.remembered) {
            packet.connection = Some(connection);
        }
    }
}

/// What two observations of one segment, or of a retransmission, have in common. The options of a
/// SYN or FIN may differ when it is retransmitted, and a FIN may then acknowledge and carry more
/// data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Identity {
    /// The network namespace, of a segment on its loopback interface: no other namespace sees that
    /// segment, but may have one with the same addresses and, if both connections begin at once,
    /// the same initial sequence number.
    loopback_of: Option<u32>,
    src: Address,
    dst: Address,
    step: Step,
    seq: u32,
    ack: u32,
}

impl Identity {
    fn of(segment: &SegmentInput, step: Step) -> Self {
        let header = &segment.header;
        let (seq, ack) = match step {
            Step::Syn => (header.seq, 0),
            Step::Fin => (header.seq.wrapping_add(segment.payload_len), 0),
            Step::SynAck | Step::HandshakeAck | Step::FinAck | Step::Rst => (header.seq, header.ack),
        };
        let loopback_of = (segment.ifindex == LOOPBACK_IFINDEX).then_some(segment.netns);
        Self { loopback_of, src: segment.src.into(), dst: segment.dst.into(), step, seq, ack }
    }
}

#[derive(Debug)]
struct Packet {
    /// The connection that it was taken to be of.
    connection: Option<Place>,
    /// How often it was sent.
    sent: u32,
    last_sent: Time,
    /// The observation point that saw it first, and how often.
    first: (ObservationPoint, u32),
    /// The same of the others. There are none on most hosts, and then no memory is taken.
    others: Vec<(ObservationPoint, u32)>,
}

/// Where a segment was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ObservationPoint {
    pub(super) netns: u32,
    pub(super) ifindex: u32,
    pub(super) direction: Option<Direction>,
}

impl SegmentInput {
    pub(super) const fn observation_point(&self) -> ObservationPoint {
        ObservationPoint { netns: self.netns, ifindex: self.ifindex, direction: self.direction }
    }
}

impl Packet {
    const fn first(point: ObservationPoint, now: Time) -> Self {
        Self { connection: None, sent: 1, last_sent: now, first: (point, 1), others: Vec::new() }
    }

    fn see(&mut self, new: Observation, now: Time) -> Observation {
        let point = new.first;
        let new = Observation { connection: self.connection, ..new };
        let known = self.points().find(|(known, _)| *known == point);
        let seen_here = known.map_or(1, |(_, seen)| seen.saturating_add(1));
        // The route may have changed since: what a new interface sees much later was retransmitted.
        let is_retransmitted = seen_here > self.sent || now.since(self.last_sent) > COPIES_ARRIVE_WITHIN;
        if is_retransmitted {
            self.sent = self.sent.saturating_add(1);
            self.last_sent = now;
            self.note(point, self.sent);
            return Observation { transmission: Transmission::Retransmitted, ..new };
        }
        self.note(point, seen_here);
        let mut others = self.points().filter(|(other, seen)| *other != point && *seen == self.sent);
        let came_in = |other: ObservationPoint| {
            (other.netns, other.direction) == (point.netns, Some(Direction::Ingress))
        };
        Observation {
            transmission: Transmission::Duplicate,
            first: others.clone().next().map_or(point, |(first, _)| first),
            is_forwarded: point.direction == Some(Direction::Egress)
                && others.any(|(other, _)| came_in(other)),
            ..new
        }
    }

    /// The observation points, in the order in which they saw it first, and how often each of them
    /// did.
    fn points(&self) -> impl Iterator<Item = (ObservationPoint, u32)> + Clone {
        once(self.first).chain(self.others.iter().copied())
    }

    fn note(&mut self, point: ObservationPoint, seen: u32) {
        let mut all = once(&mut self.first).chain(&mut self.others);
        if let Some(known) = all.find(|(known, _)| *known == point) {
            known.1 = seen;
        } else if self.others.len() < MAX_OTHERS {
            self.others.push((point, seen));
        }
    }
}

/// Whether a segment occupies sequence space: only such a one is retransmitted (RFC 9293, section
/// 3.4).
pub(super) fn occupies_sequence_space(segment: &SegmentInput) -> bool {
    let flags = segment.header.flags;
    !flags.contains(Flags::RST)
        && (segment.payload_len > 0 || flags.contains(Flags::SYN) || flags.contains(Flags::FIN))
}

/// Less than the first timeout of a SYN (1 s), more than a packet takes through one host.
const COPIES_ARRIVE_WITHIN: Duration = Duration::from_millis(500);
/// Interfaces that one packet passes after the first.
const MAX_OTHERS: usize = 15;
/// Within this time it does not matter which of two segments was seen last.
const ORDERED_TO: Duration = Duration::from_secs(1);
/// Kernel: `LOOPBACK_IFINDEX`, the same in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;
