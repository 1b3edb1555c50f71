//! A map that holds a limited number of entries, each in a class. The entries of a class queue in order of their last use,
//! so that the next to time out and the next to let go of are found at the front, whatever the number of entries.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use super::time::Time;

/// A map with a limit and `N` classes. At the limit it lets go of the front of the lowest class that has one.
#[derive(Debug)]
pub(super) struct Queues<K, V, const N: usize> {
    limit: usize,
    places: HashMap<K, u32>,
    slots: Vec<Slot<K, V>>,
    /// Slots that are empty.
    free: Vec<u32>,
    ends: [Ends; N],
    evicted: u64,
}

#[derive(Debug)]
struct Slot<K, V> {
    entry: Option<(K, V)>,
    class: usize,
    queued: Time,
    before: u32,
    after: u32,
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

/// The two ends of a queue.
#[derive(Clone, Copy, Debug)]
struct Ends {
    front: u32,
    back: u32,
}

impl<K: Copy + Eq + Hash, V, const N: usize> Queues<K, V, N> {
    /// At most `limit` entries, and never more than 2³² − 1.
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.clamp(1, NONE as usize);
        let ends = [Ends { front: NONE, back: NONE }; N];
        Self { limit, places: HashMap::new(), slots: Vec::new(), free: Vec::new(), ends, evicted: 0 }
    }

    /// Bytes of one slot.
    #[cfg(test)]
    pub(super) const SLOT: usize = size_of::<Slot<K, V>>();

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// All of them, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.slots.iter().filter_map(|slot| slot.entry.as_ref()).map(|(_, value)| value)
    }

    /// How many entries had to go because there were too many.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Where `key` is, until it is removed.
    pub(super) fn find(&self, key: &K) -> Option<Place> {
        self.places.get(key).copied().map(Place)
    }

    pub(super) fn get(&self, Place(place): Place) -> Option<&V> {
        self.slots[place as usize].entry.as_ref().map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, Place(place): Place) -> Option<&mut V> {
        self.slots[place as usize].entry.as_mut().map(|(_, value)| value)
    }

    /// Sets the value of `key`, at the back of a class.
    pub(super) fn insert(&mut self, key: K, value: V, class: usize, now: Time) -> Place {
        self.remove(&key);
        if self.places.len() >= self.limit
            && let Some((_, key)) = (0..N).find_map(|class| self.front(class))
        {
            self.remove(&key);
            self.evicted += 1;
        }
        let slot = Slot { entry: Some((key, value)), class, queued: now, before: NONE, after: NONE };
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place as usize] = slot;
                place
            }
            None => {
                self.slots.push(slot);
                // The limit keeps it below `NONE`.
                u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
            }
        };
        self.places.insert(key, place);
        self.link(place);
        Place(place)
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.places.remove(key)?;
        self.unlink(place);
        self.free.push(place);
        self.slots[place as usize].entry.take().map(|(_, value)| value)
    }

    /// Moves an entry to the back of a class; `now` is never before that of an earlier call. Stays where it is if it is in that class
    /// since less than `at_least`.
    pub(super) fn queue(&mut self, Place(place): Place, class: usize, now: Time, at_least: Duration) {
        let slot = &self.slots[place as usize];
        if slot.class == class && now.since(slot.queued) < at_least {
            return;
        }
        self.unlink(place);
        let slot = &mut self.slots[place as usize];
        (slot.class, slot.queued) = (class, now);
        self.link(place);
    }

    /// The entry of a class that was queued first, and when.
    pub(super) fn front(&self, class: usize) -> Option<(Time, K)> {
        let slot = self.slots.get(self.ends[class].front as usize)?;
        slot.entry.as_ref().map(|(key, _)| (slot.queued, *key))
    }

    fn link(&mut self, place: u32) {
        let class = self.slots[place as usize].class;
        let back = self.ends[class].back;
        (self.slots[place as usize].before, self.slots[place as usize].after) = (back, NONE);
        match self.slots.get_mut(back as usize) {
            Some(last) => last.after = place,
            None => self.ends[class].front = place,
        }
        self.ends[class].back = place;
    }

    fn unlink(&mut self, place: u32) {
        let Slot { class, before, after, .. } = self.slots[place as usize];
        match self.slots.get_mut(before as usize) {
            Some(slot) => slot.after = after,
            None => self.ends[class].front = after,
        }
        match self.slots.get_mut(after as usize) {
            Some(slot) => slot.before = before,
            None => self.ends[class].back = before,
        }
    }
}

/// No slot: there are never that many.
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::{Duration, Queues, Time};

    const fn at(seconds: u64) -> Time {
        Time::from_unix_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn the_lowest_class_goes_first_and_in_it_the_oldest() {
        let mut queues = Queues::<char, u8, 2>::new(3);
        queues.insert('a', 1, 1, at(1));
        let b = queues.insert('b', 2, 0, at(2));
        queues.insert('c', 3, 0, at(3));
        queues.queue(b, 0, at(4), Duration::ZERO);
        queues.insert('d', 4, 1, at(5));
        assert_eq!((queues.find(&'c'), queues.evicted()), (None, 1));
        queues.insert('e', 5, 1, at(6));
        queues.insert('f', 6, 1, at(7));
        assert_eq!((queues.find(&'b'), queues.find(&'a'), queues.len()), (None, None, 3));
        assert_eq!((queues.front(0), queues.front(1)), (None, Some((at(5), 'd'))));
    }

    #[test]
    fn an_entry_moves_back_when_it_was_queued_long_enough() {
        let mut queues = Queues::<char, u8, 2>::new(9);
        let a = queues.insert('a', 1, 0, at(1));
        let b = queues.insert('b', 2, 0, at(1));
        queues.queue(a, 0, at(2), Duration::from_secs(5));
        assert_eq!(queues.front(0), Some((at(1), 'a')));
        queues.queue(a, 0, at(6), Duration::from_secs(5));
        assert_eq!(queues.front(0), Some((at(1), 'b')));
        queues.queue(b, 1, at(6), Duration::from_secs(5));
        assert_eq!((queues.front(0), queues.front(1)), (Some((at(6), 'a')), Some((at(6), 'b'))));
        assert_eq!((queues.remove(&'a'), queues.remove(&'a'), queues.front(0)), (Some(1), None, None));
        assert_eq!((queues.get_mut(b).copied(), queues.get(b)), (Some(2), Some(&2)));
        assert_eq!(queues.insert('a', 7, 1, at(7)), a, "the place is free again");
    }
}
