//! The bytes that one end sends, known by their positions: sequence numbers counted on past 32
//! bits. What was sent, what was acknowledged, and what was retransmitted.

use crate::lifecycle::dedup::ObservationPoint;
use crate::lifecycle::segment::Flags;

/// One direction of a connection. Position 0 is the SYN, 1 the first byte.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    /// Sequence number at position 0. If the SYN was not seen, as if it had come right before the
    /// first byte that was.
    base: Option<u32>,
    /// `base` is the initial sequence number.
    start_seen: bool,
    /// Behind the last position sent.
    next: i64,
    /// The first position that is not acknowledged.
    unacked: Position,
    /// The first position that the receiver does not accept yet, if its window is known.
    edge: Position,
    fin: Position,
    /// From where to where nothing was seen yet before `next`, the latest last.
    holes: Option<Box<Holes>>,
    /// Where the first segment was seen. Others, seen elsewhere too, are not counted a second time.
    point: Option<ObservationPoint>,
}

/// A position that may not be known: an `Option<i64>` in half of the memory.
#[derive(Clone, Copy, Debug)]
struct Position(i64);

/// Parts of a stream, from where to where. Most streams have none, and take no memory for them.
#[derive(Clone, Debug, Default)]
struct Holes(Vec<(i64, i64)>);

impl Position {
    const fn known(self) -> Option<i64> {
        if self.0 == i64::MIN { None } else { Some(self.0) }
    }
}

impl Default for Position {
    fn default() -> Self {
        Self(i64::MIN)
    }
}

/// What a segment is to its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Novelty {
    /// It has something that was not seen before.
    New,
    /// All of it was seen before: it is a retransmission.
    Retransmitted,
    /// It takes no sequence space, or is a keep-alive, or was seen elsewhere first.
    Nothing,
}

impl Stream {
    /// The stream that the SYN with this initial sequence number begins.
    pub(super) fn begin(isn: u32) -> Self {
        Self { base: Some(isn), start_seen: true, ..Self::default() }
    }

    pub(super) fn isn(&self) -> Option<u32> {
        self.base.filter(|_| self.start_seen)
    }

    /// Next sequence number to be sent.
    pub(super) fn next_seq(&self) -> Option<u32> {
        self.base.map(|base| base.wrapping_add(low_bits(self.next)))
    }

    /// The position of a sequence number: of all that have it, the one nearest to what was sent
    /// last. In a stream met midway, the first is position 1.
    pub(super) fn position(&mut self, seq: u32) -> i64 {
        if self.base.is_none() {
            self.base = Some(seq.wrapping_sub(1));
            self.next = 1;
        }
        self.find(seq).unwrap_or(1)
    }

    /// As [`Self::position`]; `None` in a stream of which nothing was seen.
    pub(super) fn find(&self, seq: u32) -> Option<i64> {
        let distance = seq.wrapping_sub(self.next_seq()?).cast_signed();
        Some(self.next.saturating_add(distance.into()))
    }

    /// As [`Self::position`], where segments before this one were not seen: it is behind what was,
    /// unless it is the FIN again. `space` is its length in sequence numbers.
    pub(super) fn skip_to(&mut self, seq: u32, space: u32, is_fin: bool) -> i64 {
        let position = self.position(seq);
        let before_fin = self.fin.known().map(|fin| fin.saturating_add(1).saturating_sub(space.into()));
        if let Some(again) = before_fin.filter(|again| is_fin && low_bits(position ^ *again) == 0) {
            return again;
        }
        let skipped = self.next_seq().map_or(0, |next| seq.wrapping_sub(next));
        self.next = self.next.saturating_add(skipped.into());
        self.next
    }

    /// The position of an acknowledgment number, where what it is of may not have been seen.
    pub(super) fn skip_to_ack(&self, ack: u32) -> i64 {
        let position = self.find(ack).unwrap_or(1);
        match self.fin.known() {
            Some(fin) if low_bits(position ^ fin.saturating_add(1)) == 0 => fin.saturating_add(1),
            Some(fin) => position.min(fin),
            None => position,
        }
    }

    /// Processes what a segment carries: `space` is its length in sequence numbers.
    pub(super) fn send(
        &mut self,
        position: i64,
        space: u32,
        control: Flags,
        point: ObservationPoint,
    ) -> Novelty {
        let end = position.saturating_add(space.into());
        let is_bare = control == Flags::default();
        if space == 0 || is_bare && self.is_keep_alive(position, space) {
            return Novelty::Nothing;
        }
        if control == Flags::FIN {
            self.fin = Position(self.fin.known().unwrap_or(end - 1));
        }
        if *self.point.get_or_insert(point) != point {
            return Novelty::Nothing;
        }
        let fills = self.fill(position, end);
        if position > self.next {
            let holes = &mut self.holes.get_or_insert_default().0;
            if holes.len() == MAX_HOLES {
                holes.remove(0);
            }
            holes.push((self.next, position));
        }
        let is_new = fills || end > self.next;
        self.next = self.next.max(end);
        if is_new { Novelty::New } else { Novelty::Retransmitted }
    }

    /// The receiver has everything before `position`. Segments that carried it may have been
    /// missed.
    pub(super) fn acknowledge(&mut self, position: i64) {
        let unacked = self.unacked.known().map_or(position, |unacked| unacked.max(position));
        self.unacked = Position(unacked);
        self.next = self.next.max(unacked);
        if let Some(holes) = &mut self.holes {
            holes.0.retain(|(_, end)| *end > unacked);
        }
    }

    /// The receiver accepts what is before `edge`.
    pub(super) fn open_window(&mut self, edge: i64) {
        self.edge = Position(self.edge.known().map_or(edge, |known| known.max(edge)));
    }

    /// Whether an acknowledgment up to `position` can be of something that was sent, `ahead` of
    /// which may have been missed.
    pub(super) fn can_be_acked(&self, position: i64, ahead: i64) -> bool {
        position <= self.next.saturating_add(ahead)
    }

    /// Whether the receiver accepts nothing at `position`, as far as is known.
    pub(super) fn is_ahead(&self, position: i64) -> bool {
        self.edge.known().is_some_and(|edge| position > edge)
    }

    /// Whether the receiver has more than what is before `position`.
    pub(super) fn is_behind(&self, position: i64) -> bool {
        self.unacked.known().is_some_and(|unacked| position < unacked)
    }

    /// Whether `position` can be the next that the receiver expects: between what it acknowledged
    /// and what was sent.
    pub(super) fn can_be_expected(&self, position: i64) -> bool {
        (self.unacked.known().unwrap_or(0)..=self.next).contains(&position)
    }

    /// Whether a segment at `position` is ahead of all that was sent, as far as it was seen, and
    /// the receiver accepts it.
    pub(super) fn can_follow_gap(&self, position: i64) -> bool {
        self.fin.known().is_none()
            && position > self.next
            && self.edge.known().is_some_and(|edge| position < edge)
    }

    pub(super) fn fin(&self) -> Option<i64> {
        self.fin.known()
    }

    pub(super) fn is_acked(&self) -> bool {
        self.unacked.known().is_some()
    }

    pub(super) fn is_fin_acked(&self) -> bool {
        self.fin.known().is_some_and(|fin| self.is_behind(fin))
    }

    /// Payload that the receiver acknowledged, since the stream was met.
    pub(super) fn payload_acked(&self) -> Option<u64> {
        let acked = self.unacked.known()?.saturating_sub(1 + i64::from(self.is_fin_acked()));
        Some(u64::try_from(acked).unwrap_or_default())
    }

    /// A keep-alive has the last sequence number that was acknowledged, with that byte or none.
    fn is_keep_alive(&self, position: i64, space: u32) -> bool {
        space <= 1 && self.unacked.known() == Some(self.next) && position == self.next - 1
    }

    /// Whether a segment fills a hole or a part of one.
    fn fill(&mut self, start: i64, end: i64) -> bool {
        let Some(Holes(holes)) = self.holes.as_deref_mut() else { return false };
        let Some(at) = holes.iter().position(|(from, to)| start < *to && end > *from) else {
            return false;
        };
        let (from, to) = holes.remove(at);
        for rest in [(from, start), (end, to)] {
            if rest.0 < rest.1 && holes.len() < MAX_HOLES {
                holes.push(rest);
            }
        }
        true
    }
}

/// A position modulo 2³².
const fn low_bits(position: i64) -> u32 {
    (position & 0xffff_ffff) as u32
}

/// Losses within one window that are distinguished from retransmissions.
const MAX_HOLES: usize = 8;

#[cfg(test)]
mod tests {
    use super::{Flags, Novelty, Stream};
    use crate::lifecycle::dedup::ObservationPoint;

    const HERE: ObservationPoint = ObservationPoint { netns: 0, ifindex: 1, direction: None };

    /// A stream whose SYN was seen, to which segments are sent by their relative sequence numbers.
    struct Wire(Stream, u32);

    impl Wire {
        fn new(isn: u32) -> Self {
            let mut stream = Stream::begin(isn);
            assert_eq!(stream.send(0, 1, Flags::SYN, HERE), Novelty::New);
            Self(stream, isn)
        }

        fn send(&mut self, seq: u32, len: u32) -> Novelty {
            let position = self.0.position(self.1.wrapping_add(seq));
            self.0.send(position, len, Flags::default(), HERE)
        }

        fn ack(&mut self, seq: u32) {
            let position = self.0.position(self.1.wrapping_add(seq));
            self.0.acknowledge(position);
        }
    }

    #[test]
    fn what_fills_a_hole_is_not_retransmitted() {
        let mut wire = Wire::new(u32::MAX - 150);
        let sent =
            [(1, 100), (201, 100), (401, 100), (201, 100), (101, 50), (151, 50), (101, 100), (301, 100)];
        let novelty = sent.map(|(seq, len)| wire.send(seq, len));
        let [new, again] = [Novelty::New, Novelty::Retransmitted];
        assert_eq!(novelty, [new, new, new, again, new, new, again, new]);
    }

    #[test]
    fn positions_count_on_past_32_bits() {
        let mut wire = Wire::new(7);
        let (mut seq, step) = (1_u32, 1 << 28);
        for _ in 0..80 {
            assert_eq!(wire.send(seq, step), Novelty::New);
            seq = seq.wrapping_add(step);
            wire.ack(seq);
        }
        assert_eq!(wire.0.payload_acked(), Some(80 << 28));
        assert_eq!(wire.send(seq.wrapping_sub(step), step), Novelty::Retransmitted);
        assert_eq!(wire.0.next_seq(), Some(seq.wrapping_add(7)));
    }

    #[test]
    fn a_keep_alive_is_no_data_but_a_lost_byte_is() {
        let mut wire = Wire::new(0);
        wire.send(1, 1);
        assert_eq!(wire.send(1, 1), Novelty::Retransmitted, "not acknowledged yet");
        wire.ack(2);
        assert_eq!([wire.send(1, 0), wire.send(1, 1)], [Novelty::Nothing; 2]);
        assert_eq!(wire.0.payload_acked(), Some(1));
    }

    #[test]
    fn a_syn_retransmitted_after_its_acknowledgment_is_no_keep_alive() {
        let mut wire = Wire::new(0);
        wire.ack(1);
        assert_eq!(wire.0.send(0, 1, Flags::SYN, HERE), Novelty::Retransmitted);
        assert_eq!(wire.0.send(0, 1, Flags::default(), HERE), Novelty::Nothing);
    }

    #[test]
    fn what_was_not_seen_is_skipped_and_a_fin_is_known_again() {
        let mut wire = Wire::new(u32::MAX - 100);
        let seq = |n: u32| (u32::MAX - 100).wrapping_add(n);
        let fin = wire.0.skip_to(seq(3_000_000_000), 1, true);
        assert_eq!(fin, 3_000_000_000);
        assert_eq!(wire.0.send(fin, 1, Flags::FIN, HERE), Novelty::New);
        // Retransmitted with the byte before it.
        let again = wire.0.skip_to(seq(2_999_999_999), 2, true);
        assert_eq!((again, wire.0.send(again, 2, Flags::FIN, HERE)), (fin - 1, Novelty::Retransmitted));
        let acked = [seq(3_000_000_001), seq(3_000_000_000), seq(7)].map(|ack| wire.0.skip_to_ack(ack) > fin);
        assert_eq!(acked, [true, false, false]);
    }

    #[test]
    fn acknowledged_segments_that_were_missed_count() {
        let mut wire = Wire::new(0);
        wire.ack(501);
        assert_eq!(wire.0.payload_acked(), Some(500));
        assert_eq!(wire.send(501, 10), Novelty::New);
        assert_eq!(wire.send(301, 100), Novelty::Retransmitted);
    }

    #[test]
    fn a_stream_met_midway_counts_from_there() {
        let mut stream = Stream::default();
        let position = stream.position(5_000);
        assert_eq!((position, stream.isn(), stream.payload_acked()), (1, None, None));
        stream.send(position, 100, Flags::default(), HERE);
        let acked = stream.position(5_100);
        stream.acknowledge(acked);
        assert_eq!((stream.payload_acked(), stream.next_seq()), (Some(100), Some(5_100)));
    }

    #[test]
    fn a_segment_seen_elsewhere_too_is_counted_once() {
        let there = ObservationPoint { ifindex: 2, ..HERE };
        let mut stream = Stream::begin(0);
        let novelty = [HERE, there, HERE].map(|point| stream.send(1, 100, Flags::default(), point));
        assert_eq!(novelty, [Novelty::New, Novelty::Nothing, Novelty::Retransmitted]);
    }
}
