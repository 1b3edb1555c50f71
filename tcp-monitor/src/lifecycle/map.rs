//! A hash map with a limit. Its entries queue by class; at the limit it evicts the front of the
//! lowest.

use std::hash::{BuildHasher, Hash};
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::lookups;
use super::queues::{Place, Queues};
use super::time::Time;

/// A map from `K` to `V` with `N` classes.
#[derive(Debug)]
pub(super) struct Map<K, V, const N: usize> {
    limit: usize,
    /// Places in `entries`, by the hash of the key.
    places: HashTable<Place>,
    /// Keys come from the network. With a seed of its own in each process it is unknown which of
    /// them collide.
    hasher: RandomState,
    entries: Queues<(K, V), N>,
    evicted: u64,
}

impl<K: Copy + Eq + Hash, V, const N: usize> Map<K, V, N> {
    /// Bytes that an entry takes, when the number of entries is the limit.
    #[cfg(test)]
    pub(super) const ENTRY: usize = Queues::<(K, V), N>::ENTRY + INDEX_ENTRY;

    /// At most `limit` entries.
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.clamp(1, u32::MAX as usize);
        let (places, hasher) = (HashTable::new(), RandomState::default());
        Self { limit, places, hasher, entries: Queues::new(limit), evicted: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many entries had to go because there were too many.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Where `key` is.
    pub(super) fn find(&self, key: &K) -> Option<Place> {
        lookups::count();
        let is_it = |place: &Place| self.entries.get(*place).is_some_and(|(known, _)| known == key);
        self.places.find(self.hasher.hash_one(key), is_it).copied()
    }

    pub(super) fn get(&self, place: Place) -> Option<&V> {
        self.entries.get(place).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut V> {
        self.entries.get_mut(place).map(|(_, value)| value)
    }

    /// Where `key` is, if it is there; else adds it with this value at the back of a class. The
    /// value is handed back if it was not needed.
    pub(super) fn find_or_insert(&mut self, key: K, value: V, class: usize, now: Time) -> (Place, Option<V>) {
        lookups::count();
        if self.places.len() >= self.limit && !self.contains(&key) {
            self.evict();
        }
        let Self { places, hasher, entries, .. } = self;
        let is_it = |place: &Place| entries.get(*place).is_some_and(|(known, _)| *known == key);
        let rehash = |place: &Place| entries.get(*place).map_or(0, |(known, _)| hasher.hash_one(known));
        match places.entry(hasher.hash_one(key), is_it, rehash) {
            Entry::Occupied(entry) => (*entry.get(), Some(value)),
            Entry::Vacant(entry) => {
                let place = entries.insert((key, value), class, now);
                entry.insert(place);
                (place, None)
            }
        }
    }

    /// Sets the value of `key`, at the back of a class.
    pub(super) fn insert(&mut self, key: K, value: V, class: usize, now: Time) {
        let (place, value) = self.find_or_insert(key, value, class, now);
        if let (Some(value), Some(known)) = (value, self.get_mut(place)) {
            *known = value;
            self.entries.queue(place, class, now, Duration::ZERO);
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        lookups::count();
        let Self { places, hasher, entries, .. } = self;
        let is_it = |place: &Place| entries.get(*place).is_some_and(|(known, _)| known == key);
        let (place, _) = places.find_entry(hasher.hash_one(key), is_it).ok()?.remove();
        entries.remove(place).map(|(_, value)| value)
    }

    /// Removes an entry whose value is so.
    pub(super) fn remove_if(&mut self, key: &K, is_so: impl FnOnce(&V) -> bool) -> Option<V> {
        lookups::count();
        let Self { places, hasher, entries, .. } = self;
        let is_it = |place: &Place| entries.get(*place).is_some_and(|(known, _)| known == key);
        let entry = places.find_entry(hasher.hash_one(key), is_it).ok()?;
        if !entries.get(*entry.get()).is_some_and(|(_, value)| is_so(value)) {
            return None;
        }
        let (place, _) = entry.remove();
        entries.remove(place).map(|(_, value)| value)
    }

    /// Moves an entry to the back of a class, see [`Queues::queue`].
    pub(super) fn queue(&mut self, place: Place, class: usize, now: Time, at_least: Duration) {
        self.entries.queue(place, class, now, at_least);
    }

    /// The entry of a class that was queued first, and when.
    pub(super) fn front(&self, class: usize) -> Option<(Time, Place)> {
        self.entries.front(class)
    }
}

impl<K: Copy + Eq + Hash, V, const N: usize> Map<K, V, N> {
    fn contains(&self, key: &K) -> bool {
        let is_it = |place: &Place| self.entries.get(*place).is_some_and(|(known, _)| known == key);
        self.places.find(self.hasher.hash_one(key), is_it).is_some()
    }

    /// Removes the front of the lowest class that has one, and counts it.
    fn evict(&mut self) {
        let Some(place) = self.entries.lowest() else { return };
        self.evicted += 1;
        self.remove_at(place);
    }

    /// Removes what is at a place.
    pub(super) fn remove_at(&mut self, place: Place) -> Option<(K, V)> {
        let hash = self.hasher.hash_one(self.entries.get(place).map(|(key, _)| *key)?);
        lookups::count();
        self.places.find_entry(hash, |known| *known == place).ok()?.remove();
        self.entries.remove(place)
    }
}

/// Bytes that an entry of an index takes: a number of 32 bits and its control byte; at worst 7/16
/// of them are taken.
#[cfg(test)]
pub(super) const INDEX_ENTRY: usize = (size_of::<u32>() + 1) * 16 / 7;
