//! Values that queue by class in order of their last use, so that the next to time out and the next
//! to evict are found at the front, whatever their number.

use std::num::NonZeroU32;
use std::time::Duration;

use super::time::Time;

/// A slab whose values are in `N` queues, one a class.
///
/// Times are those of inputs, each about as late as the one before or later: where they go back a
/// little, the queues are out of order by as much.
#[derive(Debug)]
pub(super) struct Queues<V, const N: usize> {
    /// No more than this are expected.
    limit: usize,
    slots: Vec<Slot<V>>,
    /// The first empty slot. Each has the next one `after` it.
    free: u32,
    ends: [Ends; N],
    /// How many values are in each class.
    counts: [usize; N],
}

#[derive(Debug)]
struct Slot<V> {
    queued: Time,
    before: u32,
    after: u32,
    class: u8,
    value: Option<V>,
}

/// Where a value is, until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(NonZeroU32);

impl Place {
    /// The place with this index in the slots: one less than the number, so that an `Option<Place>`
    /// takes no more memory.
    const fn of(index: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(index))
    }

    const fn index(self) -> u32 {
        self.0.get() - 1
    }
}

/// The two ends of a queue.
#[derive(Clone, Copy, Debug)]
struct Ends {
    front: u32,
    back: u32,
}

impl<V, const N: usize> Queues<V, N> {
    /// Bytes that a value takes.
    #[cfg(test)]
    pub(super) const ENTRY: usize = size_of::<Slot<V>>();

    /// No memory is kept ready for more than `limit` values.
    pub(super) fn new(limit: usize) -> Self {
        const { assert!(N <= u8::MAX as usize, "the number of a class has to fit into a slot") };
        Self {
            limit,
            slots: Vec::new(),
            free: NONE,
            ends: [Ends { front: NONE, back: NONE }; N],
            counts: [0; N],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.counts.iter().sum()
    }

    /// How many of them are in a class.
    pub(super) fn count(&self, class: usize) -> usize {
        self.counts[class]
    }

    /// All of them, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// What is at a place.
    pub(super) fn get(&self, place: Place) -> Option<&V> {
        self.slots.get(place.index() as usize)?.value.as_ref()
    }

    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut V> {
        self.slots.get_mut(place.index() as usize)?.value.as_mut()
    }

    /// Adds a value at the back of a class.
    pub(super) fn insert(&mut self, value: V, class: usize, now: Time) -> Place {
        let slot = Slot { queued: now, before: NONE, after: NONE, class: class as u8, value: Some(value) };
        let place = self.take_slot(slot);
        self.link(place);
        Place::of(place)
    }

    /// Removes what is at a place.
    pub(super) fn remove(&mut self, place: Place) -> Option<V> {
        let place = place.index();
        let value = self.slots.get_mut(place as usize)?.value.take()?;
        self.unlink(place);
        self.slots[place as usize].after = self.free;
        self.free = place;
        Some(value)
    }

    /// Moves a value to the back of a class. Stays where it is if it is in that class since less
    /// than `at_least`.
    pub(super) fn queue(&mut self, place: Place, class: usize, now: Time, at_least: Duration) {
        let place = place.index();
        let slot = &self.slots[place as usize];
        if usize::from(slot.class) == class && now.since(slot.queued) < at_least {
            return;
        }
        self.unlink(place);
        let slot = &mut self.slots[place as usize];
        (slot.class, slot.queued) = (class as u8, now);
        self.link(place);
    }

    /// The value of a class that was queued first, and when.
    pub(super) fn front(&self, class: usize) -> Option<(Time, Place)> {
        let front = self.ends[class].front;
        self.slots.get(front as usize).map(|slot| (slot.queued, Place::of(front)))
    }

    /// The front of the lowest class that has one.
    pub(super) fn lowest(&self) -> Option<Place> {
        (0..N).find_map(|class| self.front(class)).map(|(_, place)| place)
    }

    fn take_slot(&mut self, slot: Slot<V>) -> u32 {
        if let Some(empty) = self.slots.get_mut(self.free as usize) {
            let place = self.free;
            self.free = empty.after;
            *empty = slot;
            return place;
        }
        if self.slots.len() == self.slots.capacity() {
            // Twice as many, as usual, but no more than there will ever be.
            let more = self.slots.len().max(FIRST_SLOTS).min(self.limit.saturating_sub(self.slots.len()));
            self.slots.reserve_exact(more.max(1));
        }
        self.slots.push(slot);
        u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
    }

    fn link(&mut self, place: u32) {
        let class = usize::from(self.slots[place as usize].class);
        let back = self.ends[class].back;
        (self.slots[place as usize].before, self.slots[place as usize].after) = (back, NONE);
        match self.slots.get_mut(back as usize) {
            Some(last) => last.after = place,
            None => self.ends[class].front = place,
        }
        self.ends[class].back = place;
        self.counts[class] += 1;
    }

    fn unlink(&mut self, place: u32) {
        let Slot { class, before, after, .. } = self.slots[place as usize];
        let class = usize::from(class);
        match self.slots.get_mut(before as usize) {
            Some(slot) => slot.after = after,
            None => self.ends[class].front = after,
        }
        match self.slots.get_mut(after as usize) {
            Some(slot) => slot.before = before,
            None => self.ends[class].back = before,
        }
        self.counts[class] -= 1;
    }
}

/// No slot: there are never that many.
const NONE: u32 = u32::MAX;
const FIRST_SLOTS: usize = 16;

#[cfg(test)]
mod tests {
    use super::{Duration, Queues, Time};

    const fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_value_moves_back_when_it_was_queued_long_enough() {
        let mut queues = Queues::<char, 2>::new(9);
        let a = queues.insert('a', 1, at(1));
        let b = queues.insert('b', 0, at(1));
        let c = queues.insert('c', 0, at(1));
        queues.queue(b, 0, at(2), Duration::from_secs(5));
        assert_eq!(queues.front(0), Some((at(1), b)));
        queues.queue(b, 0, at(6), Duration::from_secs(5));
        assert_eq!((queues.front(0), queues.lowest()), (Some((at(1), c)), Some(c)));
        queues.queue(c, 1, at(6), Duration::from_secs(5));
        assert_eq!((queues.front(0), queues.front(1)), (Some((at(6), b)), Some((at(1), a))));
        assert_eq!([queues.count(0), queues.count(1), queues.len()], [1, 2, 3]);
        assert_eq!((queues.remove(a), queues.remove(a), queues.get(a)), (Some('a'), None, None));
        assert_eq!((queues.front(1), queues.get_mut(b).copied()), (Some((at(6), c)), Some('b')));
        assert_eq!(queues.insert('d', 1, at(7)), a, "the place is free again");
        assert_eq!((queues.lowest(), queues.values().count()), (Some(b), 3));
    }
}
