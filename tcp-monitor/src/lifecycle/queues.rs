//! A map that holds a limited number of entries, each in a class. The entries of a class queue in order of their last use,
//! so that the next to time out and the next to let go of are found at the front, whatever the number of entries.

use std::hash::{BuildHasher, Hash};
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::time::Time;

/// A map with a limit and `N` classes. At the limit it lets go of the front of the lowest class that has one.
///
/// Times are those of inputs, each about as late as the one before or later: where they go back a little, the queues are out
/// of order by as much.
#[derive(Debug)]
pub(super) struct Queues<K, V, const N: usize> {
    limit: usize,
    /// Index in `slots`, by the hash of the key.
    places: HashTable<u32>,
    /// Keys come from the network. With a seed of its own in each process nobody knows which of them collide.
    hasher: RandomState,
    slots: Vec<Slot<K, V>>,
    /// The first empty slot. Each has the next one `after` it.
    free: u32,
    ends: [Ends; N],
    /// How many entries are in each class.
    counts: [usize; N],
    evicted: u64,
}

#[derive(Debug)]
struct Slot<K, V> {
    queued: Time,
    before: u32,
    after: u32,
    class: u8,
    entry: Option<(K, V)>,
}

/// Where an entry is, until it is removed.
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
        const { assert!(N <= u8::MAX as usize, "the number of a class has to fit into a slot") };
        Self {
            limit: limit.clamp(1, NONE as usize),
            places: HashTable::new(),
            hasher: RandomState::default(),
            slots: Vec::new(),
            free: NONE,
            ends: [Ends { front: NONE, back: NONE }; N],
            counts: [0; N],
            evicted: 0,
        }
    }

    /// Bytes that an entry takes, when the number of entries is the limit.
    #[cfg(test)]
    pub(super) const ENTRY: usize = {
        // An index and its control byte; at worst 7/16 of them are taken.
        let place = (size_of::<u32>() + 1) * 16 / 7;
        size_of::<Slot<K, V>>() + place
    };

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// How many of them are in a class.
    pub(super) fn count(&self, class: usize) -> usize {
        self.counts[class]
    }

    /// All of them, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.slots.iter().filter_map(|slot| slot.entry.as_ref()).map(|(_, value)| value)
    }

    /// How many entries had to go because there were too many.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Where `key` is.
    pub(super) fn find(&self, key: &K) -> Option<Place> {
        self.find_hashed(self.hasher.hash_one(key), key).map(Place)
    }

    /// What is at a place from [`Self::find`], [`Self::front`] or an insertion, and not removed since.
    pub(super) fn get(&self, Place(place): Place) -> Option<&V> {
        self.slots[place as usize].entry.as_ref().map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, Place(place): Place) -> Option<&mut V> {
        self.slots[place as usize].entry.as_mut().map(|(_, value)| value)
    }

    /// The key of what is at a place.
    pub(super) fn key(&self, Place(place): Place) -> Option<&K> {
        self.slots[place as usize].entry.as_ref().map(|(key, _)| key)
    }

    /// Sets the value of `key`, at the back of a class. Returns its place, and what had to go for it.
    pub(super) fn insert(&mut self, key: K, value: V, class: usize, now: Time) -> (Place, Option<(K, V)>) {
        let hash = self.hasher.hash_one(key);
        if let Some(place) = self.find_hashed(hash, &key) {
            self.slots[place as usize].entry = Some((key, value));
            self.queue(Place(place), class, now, Duration::ZERO);
            return (Place(place), None);
        }
        let evicted = if self.len() >= self.limit { self.evict() } else { None };
        let place = self.take_slot(Slot {
            queued: now,
            before: NONE,
            after: NONE,
            class: class as u8,
            entry: Some((key, value)),
        });
        let Self { places, hasher, slots, .. } = self;
        places.insert_unique(hash, place, |place| match &slots[*place as usize].entry {
            Some((key, _)) => hasher.hash_one(key),
            // Empty slots are not among the places.
            None => 0,
        });
        self.link(place);
        (Place(place), evicted)
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let Self { places, hasher, slots, .. } = self;
        let is_it = |place: &u32| is_of(&slots[*place as usize], key);
        let (place, _) = places.find_entry(hasher.hash_one(key), is_it).ok()?.remove();
        self.vacate(place).map(|(_, value)| value)
    }

    /// Removes what is at a place.
    pub(super) fn remove_at(&mut self, place: Place) -> Option<(K, V)> {
        let hash = self.hasher.hash_one(self.key(place)?);
        let Place(place) = place;
        self.places.find_entry(hash, |known| *known == place).ok()?.remove();
        self.vacate(place)
    }

    /// Removes the front of the lowest class that has one, and counts it.
    pub(super) fn evict(&mut self) -> Option<(K, V)> {
        let class = (0..N).find(|class| self.count(*class) > 0)?;
        self.evict_from(class)
    }

    /// Removes the front of a class, and counts it.
    pub(super) fn evict_from(&mut self, class: usize) -> Option<(K, V)> {
        let (_, place) = self.front(class)?;
        self.evicted += 1;
        self.remove_at(place)
    }

    /// Moves an entry to the back of a class. Stays where it is if it is in that class since less than `at_least`.
    pub(super) fn queue(&mut self, Place(place): Place, class: usize, now: Time, at_least: Duration) {
        let slot = &self.slots[place as usize];
        if usize::from(slot.class) == class && now.since(slot.queued) < at_least {
            return;
        }
        self.unlink(place);
        let slot = &mut self.slots[place as usize];
        (slot.class, slot.queued) = (class as u8, now);
        self.link(place);
    }

    /// The entry of a class that was queued first, and when.
    pub(super) fn front(&self, class: usize) -> Option<(Time, Place)> {
        let front = self.ends[class].front;
        self.slots.get(front as usize).map(|slot| (slot.queued, Place(front)))
    }

    fn find_hashed(&self, hash: u64, key: &K) -> Option<u32> {
        self.places.find(hash, |place| is_of(&self.slots[*place as usize], key)).copied()
    }

    fn take_slot(&mut self, slot: Slot<K, V>) -> u32 {
        if let Some(empty) = self.slots.get_mut(self.free as usize) {
            let place = self.free;
            self.free = empty.after;
            *empty = slot;
            return place;
        }
        if self.slots.len() == self.slots.capacity() {
            // Twice as many, as usual, but no more than there will ever be.
            let more = self.slots.len().max(FIRST_SLOTS).min(self.limit - self.slots.len());
            self.slots.reserve_exact(more);
        }
        self.slots.push(slot);
        // The limit keeps it below `NONE`.
        u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
    }

    fn vacate(&mut self, place: u32) -> Option<(K, V)> {
        self.unlink(place);
        let slot = &mut self.slots[place as usize];
        slot.after = self.free;
        self.free = place;
        slot.entry.take()
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

fn is_of<K: Eq, V>(slot: &Slot<K, V>, key: &K) -> bool {
    slot.entry.as_ref().is_some_and(|(known, _)| known == key)
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

    fn front<const N: usize>(queues: &Queues<char, u8, N>, class: usize) -> Option<(Time, char)> {
        let (queued, place) = queues.front(class)?;
        Some((queued, *queues.key(place)?))
    }

    #[test]
    fn the_lowest_class_goes_first_and_in_it_the_oldest() {
        let mut queues = Queues::<char, u8, 2>::new(3);
        queues.insert('a', 1, 1, at(1));
        let (b, _) = queues.insert('b', 2, 0, at(2));
        queues.insert('c', 3, 0, at(3));
        queues.queue(b, 0, at(4), Duration::ZERO);
        let (_, evicted) = queues.insert('d', 4, 1, at(5));
        assert_eq!((evicted, queues.find(&'c'), queues.evicted()), (Some(('c', 3)), None, 1));
        queues.insert('e', 5, 1, at(6));
        queues.insert('f', 6, 1, at(7));
        assert_eq!((queues.find(&'b'), queues.find(&'a'), queues.len()), (None, None, 3));
        assert_eq!((front(&queues, 0), front(&queues, 1)), (None, Some((at(5), 'd'))));
    }

    #[test]
    fn entries_are_counted_by_class_wherever_they_go() {
        let mut queues = Queues::<char, u8, 2>::new(3);
        let (a, _) = queues.insert('a', 1, 0, at(1));
        queues.insert('b', 2, 0, at(2));
        queues.insert('c', 3, 1, at(3));
        assert_eq!([queues.count(0), queues.count(1)], [2, 1]);
        queues.queue(a, 1, at(4), Duration::ZERO);
        queues.insert('c', 3, 0, at(5));
        assert_eq!([queues.count(0), queues.count(1)], [2, 1]);
        assert_eq!(queues.evict_from(1), Some(('a', 1)));
        queues.remove(&'c');
        assert_eq!(([queues.count(0), queues.count(1)], queues.evict_from(1)), ([1, 0], None));
    }

    #[test]
    fn an_entry_moves_back_when_it_was_queued_long_enough() {
        let mut queues = Queues::<char, u8, 2>::new(9);
        let (a, _) = queues.insert('a', 1, 0, at(1));
        let (b, _) = queues.insert('b', 2, 0, at(1));
        queues.queue(a, 0, at(2), Duration::from_secs(5));
        assert_eq!(front(&queues, 0), Some((at(1), 'a')));
        queues.queue(a, 0, at(6), Duration::from_secs(5));
        assert_eq!(front(&queues, 0), Some((at(1), 'b')));
        queues.queue(b, 1, at(6), Duration::from_secs(5));
        assert_eq!((front(&queues, 0), front(&queues, 1)), (Some((at(6), 'a')), Some((at(6), 'b'))));
        assert_eq!((queues.remove(&'a'), queues.remove(&'a'), front(&queues, 0)), (Some(1), None, None));
        assert_eq!((queues.get_mut(b).copied(), queues.get(b)), (Some(2), Some(&2)));
        assert_eq!(queues.insert('a', 7, 1, at(7)), (a, None), "the place is free again");
    }
}
