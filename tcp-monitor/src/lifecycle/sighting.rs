//! Which segments were seen before. One packet passes several interfaces (a bond and its member, a bridge and its veth,
//! both ends of a veth) and is told once; one that its sender sends again is told again.

use std::net::SocketAddr;
use std::time::Duration;

use tcp_monitor_common::record::Direction;

use super::event::Step;
use super::input::SegmentInput;
use super::segment::Flags;
use super::table::Table;
use super::time::Time;

/// The segments seen lately. To forget the oldest is its purpose, and not counted as a loss.
#[derive(Debug)]
pub(super) struct Sightings {
    table: Table<Identity, Sighting>,
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
    pub(super) fn new(limit: usize) -> Self {
        Self { table: Table::new(limit) }
    }

    pub(super) fn see(&mut self, segment: &SegmentInput, step: Step) -> Seen {
        let (identity, vantage, now) = (Identity::of(segment, step), segment.vantage(), segment.time);
        match self.table.touch(&identity, now) {
            Some(sighting) => sighting.see(vantage, now),
            None => {
                let sighting = Sighting { sent: 1, last_sent: now, vantages: vec![(vantage, 1)] };
                self.table.insert(identity, sighting, now);
                Seen { verdict: Verdict::First, first: vantage, is_forwarded: false }
            }
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
    src: SocketAddr,
    dst: SocketAddr,
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
        Self { loopback_of, src: segment.src, dst: segment.dst, step, seq, ack }
    }
}

#[derive(Debug)]
struct Sighting {
    /// How often it was sent.
    sent: u32,
    last_sent: Time,
    /// How often each vantage point saw it.
    vantages: Vec<(Vantage, u32)>,
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
    fn see(&mut self, vantage: Vantage, now: Time) -> Seen {
        let known = self.vantages.iter().position(|(known, _)| *known == vantage);
        let seen_here = known.map_or(1, |at| self.vantages[at].1.saturating_add(1));
        // The route may have changed since: what a new interface sees much later was sent again.
        let sent_again = seen_here > self.sent || now.since(self.last_sent) > COPIES_ARRIVE_WITHIN;
        if sent_again {
            self.sent = self.sent.saturating_add(1);
            self.last_sent = now;
        }
        let seen_here = if sent_again { self.sent } else { seen_here };
        match known {
            Some(at) => self.vantages[at].1 = seen_here,
            None if self.vantages.len() < MAX_VANTAGES => self.vantages.push((vantage, seen_here)),
            None => {}
        }
        if sent_again {
            return Seen { verdict: Verdict::Again, first: vantage, is_forwarded: false };
        }
        let mut others = self.vantages.iter().filter(|(other, seen)| *other != vantage && *seen == self.sent);
        let came_in =
            |other: Vantage| (other.netns, other.direction) == (vantage.netns, Some(Direction::Ingress));
        Seen {
            verdict: Verdict::Copy,
            first: others.clone().next().map_or(vantage, |(first, _)| *first),
            is_forwarded: vantage.direction == Some(Direction::Egress)
                && others.any(|(other, _)| came_in(*other)),
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
/// Interfaces that one packet passes.
const MAX_VANTAGES: usize = 16;
/// Kernel: `LOOPBACK_IFINDEX`, the same in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;
