//! Listeners' children whose own addresses the kernel had not filled in when they were born (before 6.18).

use std::time::Duration;

use crate::lifecycle::map::Map;
use crate::lifecycle::time::Time;

/// When they were born, by network namespace and `sk`.
#[derive(Debug)]
pub(super) struct Unaddressed {
    children: Map<(u32, u64), Time, { Class::ALL.len() }>,
}

#[derive(Clone, Copy, Debug)]
enum Class {
    /// Not heard of in time: what comes meanwhile is told.
    Late,
    /// Its next input comes at once, and tells the addresses.
    Expected,
}

impl Class {
    const ALL: [Self; 2] = [Self::Late, Self::Expected];
}

impl Unaddressed {
    pub(super) fn new(limit: usize) -> Self {
        Self { children: Map::new(limit) }
    }

    /// Adds a child that was born at `now`.
    pub(super) fn insert(&mut self, netns: u32, sk: u64, now: Time) {
        self.children.insert((netns, sk), now, Class::Expected as usize, now);
    }

    /// Takes a child out, and says when it was born.
    pub(super) fn remove(&mut self, netns: u32, sk: u64) -> Option<Time> {
        self.children.remove(&(netns, sk))
    }

    /// When the first was born of those that are not late at `now`.
    pub(super) fn first_expected(&self, now: Time) -> Option<Time> {
        let (born, _) = self.children.front(Class::Expected as usize)?;
        Some(born).filter(|born| !is_late(*born, now))
    }

    /// Waits no longer for those that are late at `now`.
    pub(super) fn expire(&mut self, now: Time) {
        while let Some((born, place)) = self.children.front(Class::Expected as usize)
            && is_late(born, now)
        {
            self.children.queue(place, Class::Late as usize, now, Duration::ZERO);
        }
    }

    pub(super) fn evicted(&self) -> u64 {
        self.children.evicted()
    }
}

fn is_late(born: Time, now: Time) -> bool {
    now.since(born) > ADDRESSES_KNOWN_WITHIN
}

/// Many times what lies between the birth and the transition that follows it. Lines must not wait that long: they come within
/// 100 ms, half of which may pass until the records are read.
const ADDRESSES_KNOWN_WITHIN: Duration = Duration::from_millis(20);
