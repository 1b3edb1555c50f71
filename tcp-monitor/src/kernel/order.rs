//! Sorts the records of all CPUs by time.
//!
//! A program takes the time before it reserves room in the ring buffer, and may be interrupted
//! between the two: records lie in the ring nearly, but not quite, in order. Young records are
//! therefore held back until no older one can follow.

use std::mem;

use tcp_monitor_common::record::Header;

use crate::lifecycle::Time;

/// Records that wait for older ones.
#[derive(Debug, Default)]
pub(super) struct Reorder {
    bytes: Vec<u8>,
    waiting: Vec<BufferedRecord>,
    /// How many of the bytes are those of `waiting`.
    waiting_bytes: usize,
    newest: u64,
    /// Memory to move what is left to.
    spare: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct BufferedRecord {
    time: u64,
    start: usize,
    len: usize,
}

/// A record that has no [`Header`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooShort;

impl Reorder {
    /// Adds a record, as read from the ring buffer.
    pub(super) fn push(&mut self, record: &[u8]) -> Result<(), TooShort> {
        if record.len() < size_of::<Header>() {
            return Err(TooShort);
        }
        let Some((time, _)) = record.split_first_chunk() else { return Err(TooShort) };
        let time = u64::from_ne_bytes(*time);
        self.waiting.push(BufferedRecord { time, start: self.bytes.len(), len: record.len() });
        self.bytes.extend_from_slice(record);
        self.waiting_bytes += record.len();
        self.newest = self.newest.max(time);
        Ok(())
    }

    /// The time of the newest record ever added; 0 before the first.
    pub(super) fn newest(&self) -> Time {
        Time::from_nanos(self.newest)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The records from before `until`, or all; [`Self::discard`] then removes them.
    pub(super) fn ready(&mut self, until: Option<Time>) -> Ready<'_> {
        // A stable sort: records of the same time stay in the order of arrival.
        self.waiting.sort_by_key(|entry| entry.time);
        let count = match until {
            Some(until) => self.waiting.partition_point(|entry| entry.time < until.as_nanos()),
            None => self.waiting.len(),
        };
        Ready { bytes: &self.bytes, entries: self.waiting.get(..count).unwrap_or_default() }
    }

    /// Removes the first `count` records in order.
    pub(super) fn discard(&mut self, count: usize) {
        let removed = self.waiting.drain(..count.min(self.waiting.len()));
        self.waiting_bytes -= removed.map(|entry| entry.len).sum::<usize>();
        // No more is moved than was removed.
        if self.waiting_bytes <= self.bytes.len() / 2 {
            self.spare.clear();
            for entry in &mut self.waiting {
                let record = self.bytes.get(entry.start..entry.start + entry.len).unwrap_or_default();
                entry.start = self.spare.len();
                self.spare.extend_from_slice(record);
            }
            mem::swap(&mut self.bytes, &mut self.spare);
        }
    }
}

/// Records in the order of their time, as bytes that begin with a [`Header`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ready<'a> {
    bytes: &'a [u8],
    entries: &'a [BufferedRecord],
}

impl<'a> Ready<'a> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Each record, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let Self { bytes, entries } = *self;
        entries.iter().filter_map(|entry| bytes.get(entry.start..entry.start + entry.len))
    }
}

#[cfg(test)]
mod tests {
    use super::{Reorder, Time, TooShort};

    fn record(time: u64, mark: u8) -> Vec<u8> {
        let mut bytes = time.to_ne_bytes().to_vec();
        bytes.resize(24, mark);
        bytes
    }

    fn take(order: &mut Reorder, until: Option<u64>) -> Vec<(u64, u8)> {
        let ready = order.ready(until.map(Time::from_nanos));
        let taken = ready
            .iter()
            .map(|bytes| (u64::from_ne_bytes(*bytes.first_chunk().expect("a time")), bytes[23]))
            .collect::<Vec<_>>();
        assert_eq!(taken.len(), ready.len());
        order.discard(taken.len());
        taken
    }

    #[test]
    fn records_come_out_in_the_order_of_their_time() {
        let mut order = Reorder::default();
        for (time, mark) in [(30, 1), (10, 2), (20, 3), (10, 4)] {
            order.push(&record(time, mark)).expect("long enough");
        }
        assert_eq!(take(&mut order, None), [(10, 2), (10, 4), (20, 3), (30, 1)]);
        assert!(order.is_empty());
    }

    #[test]
    fn young_records_wait_for_older_ones_of_the_next_drain() {
        let mut order = Reorder::default();
        for (time, mark) in [(100, 1), (205, 2), (101, 3)] {
            order.push(&record(time, mark)).expect("long enough");
        }
        assert_eq!(take(&mut order, Some(200)), [(100, 1), (101, 3)]);
        assert!(!order.is_empty());
        order.push(&record(203, 4)).expect("long enough");
        assert_eq!(take(&mut order, Some(205)), [(203, 4)]);
        assert_eq!(take(&mut order, None), [(205, 2)]);
        assert_eq!(take(&mut order, None), []);
    }

    #[test]
    fn records_of_different_lengths_stay_whole() {
        let mut order = Reorder::default();
        let long = [record(2, 7), vec![9; 100]].concat();
        order.push(&long).expect("long enough");
        order.push(&record(1, 8)).expect("long enough");
        assert_eq!(order.ready(Some(Time::from_nanos(2))).len(), 1);
        order.discard(1);
        assert_eq!(order.ready(None).iter().collect::<Vec<_>>(), [long.as_slice()]);
    }

    #[test]
    fn a_record_without_a_header_is_refused() {
        let mut order = Reorder::default();
        for len in 0..16 {
            assert_eq!(order.push(&vec![0; len]), Err(TooShort), "{len} bytes");
        }
        assert!(order.is_empty());
        assert_eq!(order.push(&[0; 16]), Ok(()));
    }
}
