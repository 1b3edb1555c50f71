//! Which segments were seen before. One packet passes several interfaces (a bond and its member, a bridge and its veth,
//! both ends of a veth) and is told once; one that its sender sends again is told again.

use std::iter::once;
use std::time::Duration;

use tcp_monitor_common::record::Direction;

use super::address::Address;
use super::event::Step;
use super::input::SegmentInput;
use super::queues::Queues;
use super::segment::Flags;
use super::time::Time;

/// The segments seen lately. To forget the oldest is its purpose, and not counted as a loss.
#[derive(Debug)]
pub(super) struct Sightings {
    sightings: Queues<Identity, Sighting, 1>,
}

/// What a segment is, seen from a vantage point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Sent for the first time.
    First,
    /// Sent again.
    Again,
    /// Told already: another interface saw it first.
    Copy,
}

/// A segment as it was seen at one vantage point, among all that see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) verdict: Verdict,
    /// Who saw it first, this time that it was sent.
    pub(super) first: Vantage,
    /// It leaves a network namespace that it came into: it is forwarded.
    pub(super) is_forwarded: bool,
}

impl Sightings {
    /// Bytes that a sighting takes.
    #[cfg(test)]
    pub(super) const ENTRY: usize = Queues::<Identity, Sighting, 1>::ENTRY;

    pub(super) fn new(limit: usize) -> Self {
        Self { sightings: Queues::new(limit) }
    }

    pub(super) fn see(&mut self, segment: &SegmentInput, step: Step) -> Seen {
        let (identity, vantage, now) = (Identity::of(segment, step), segment.vantage(), segment.time);
        let first = Seen { verdict: Verdict::First, first: vantage, is_forwarded: false };
        let Some(place) = self.sightings.find(&identity) else {
            self.sightings.insert(identity, Sighting::first(vantage, now), 0, now);
            return first;
        };
        self.sightings.queue(place, 0, now, ORDERED_TO);
        match self.sightings.get_mut(place) {
            Some(sighting) => sighting.see(vantage, now),
            None => first,
        }
    }
}

/// What two sightings of one segment, or of one sent again, have in common. The options of a SYN or FIN may differ when it
/// is sent again, and a FIN may then acknowledge and carry more data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Identity {
    /// The network namespace, of a segment on its loopback interface: no other namespace sees that segment, but may have
    /// one with the same addresses and, if both connections begin at once, the same initial sequence number.
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
struct Sighting {
    /// How often it was sent.
    sent: u32,
    last_sent: Time,
    /// The vantage point that saw it first, and how often.
    first: (Vantage, u32),
    /// The same of the others. There are none on most hosts, and then no memory is taken.
    others: Vec<(Vantage, u32)>,
}

/// Where a segment was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vantage {
    pub(super) netns: u32,
    pub(super) ifindex: u32,
    pub(super) direction: Option<Direction>,
}

impl SegmentInput {
    pub(super) const fn vantage(&self) -> Vantage {
        Vantage { netns: self.netns, ifindex: self.ifindex, direction: self.direction }
    }
}

impl Sighting {
    const fn first(vantage: Vantage, now: Time) -> Self {
        Self { sent: 1, last_sent: now, first: (vantage, 1), others: Vec::new() }
    }

    fn see(&mut self, vantage: Vantage, now: Time) -> Seen {
        let known = self.vantages().find(|(known, _)| *known == vantage);
        let seen_here = known.map_or(1, |(_, seen)| seen.saturating_add(1));
        // The route may have changed since: what a new interface sees much later was sent again.
        let sent_again = seen_here > self.sent || now.since(self.last_sent) > COPIES_ARRIVE_WITHIN;
        if sent_again {
            self.sent = self.sent.saturating_add(1);
            self.last_sent = now;
            self.note(vantage, self.sent);
            return Seen { verdict: Verdict::Again, first: vantage, is_forwarded: false };
        }
        self.note(vantage, seen_here);
        let mut others = self.vantages().filter(|(other, seen)| *other != vantage && *seen == self.sent);
        let came_in =
            |other: Vantage| (other.netns, other.direction) == (vantage.netns, Some(Direction::Ingress));
        Seen {
            verdict: Verdict::Copy,
            first: others.clone().next().map_or(vantage, |(first, _)| first),
            is_forwarded: vantage.direction == Some(Direction::Egress)
                && others.any(|(other, _)| came_in(other)),
        }
    }

    /// The vantage points, in the order in which they saw it first, and how often each of them did.
    fn vantages(&self) -> impl Iterator<Item = (Vantage, u32)> + Clone {
        once(self.first).chain(self.others.iter().copied())
    }

    fn note(&mut self, vantage: Vantage, seen: u32) {
        let mut all = once(&mut self.first).chain(&mut self.others);
        if let Some(known) = all.find(|(known, _)| *known == vantage) {
            known.1 = seen;
        } else if self.others.len() < MAX_OTHERS {
            self.others.push((vantage, seen));
        }
    }
}

/// Whether a segment occupies sequence space: only such a one is retransmitted (RFC 9293, section 3.4).
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
