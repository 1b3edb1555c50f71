//! A map that holds a limited number of entries. At the limit it lets go of the one unused for longest.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use super::time::Time;

/// A map with a limit. `Time` is that of the last use.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    limit: usize,
    entries: HashMap<K, Entry<V>>,
    by_use: BTreeMap<Use, K>,
    uses: u64,
    evicted: u64,
}

#[derive(Debug)]
struct Entry<V> {
    used: Use,
    value: V,
}

/// A use: its time, and a number that makes it unique.
type Use = (Time, u64);

impl<K: Copy + Eq + Hash, V> Table<K, V> {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, entries: HashMap::new(), by_use: BTreeMap::new(), uses: 0, evicted: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many entries had to go because the table was full.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// The value of `key`, used now.
    pub(super) fn touch(&mut self, key: &K, now: Time) -> Option<&mut V> {
        let entry = self.entries.get_mut(key)?;
        // Most uses follow others closely, and the order matters in the long run only.
        let (used, _) = entry.used;
        if now < used || now.since(used) >= ORDERED_TO {
            self.by_use.remove(&entry.used);
            self.uses += 1;
            entry.used = (now, self.uses);
            self.by_use.insert(entry.used, *key);
        }
        Some(&mut entry.value)
    }

    /// Sets the value of `key`. Returns the entry that had to go for it, if the table was full.
    pub(super) fn insert(&mut self, key: K, value: V, now: Time) -> Option<(K, V)> {
        self.remove(&key);
        let evicted = if self.entries.len() >= self.limit { self.pop_oldest() } else { None };
        self.evicted += u64::from(evicted.is_some());
        self.uses += 1;
        let used = (now, self.uses);
        self.by_use.insert(used, key);
        self.entries.insert(key, Entry { used, value });
        evicted
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.by_use.remove(&entry.used);
        Some(entry.value)
    }

    /// The entry unused for longest, and when it was last used.
    pub(super) fn oldest(&self) -> Option<(Time, K)> {
        self.by_use.first_key_value().map(|((time, _), key)| (*time, *key))
    }

    /// When the first of the entries used at `time` or later was last used.
    pub(super) fn oldest_since(&self, time: Time) -> Option<Time> {
        self.by_use.range((time, 0)..).next().map(|((used, _), _)| *used)
    }

    fn pop_oldest(&mut self) -> Option<(K, V)> {
        let (_, key) = self.by_use.pop_first()?;
        self.entries.remove(&key).map(|entry| (key, entry.value))
    }
}

/// Uses that follow each other within this time may count as one.
const ORDERED_TO: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::{Table, Time};

    #[test]
    fn a_full_table_lets_go_of_the_entry_unused_for_longest() {
        let at = |seconds: u64| Time::from_unix_nanos(seconds * 1_000_000_000);
        let mut table = Table::new(2);
        assert_eq!(table.insert('a', 1, at(1)), None);
        assert_eq!(table.insert('b', 2, at(2)), None);
        assert_eq!(table.touch(&'a', at(3)), Some(&mut 1));
        assert_eq!(table.insert('b', 3, at(2)), None, "a new value is no new entry");
        assert_eq!(table.insert('c', 4, at(4)), Some(('b', 3)));
        assert_eq!((table.len(), table.evicted(), table.oldest()), (2, 1, Some((at(3), 'a'))));
        assert_eq!(
            (table.remove(&'a'), table.get(&'a'), table.oldest()),
            (Some(1), None, Some((at(4), 'c')))
        );
    }
}
