//! Unaddressed children: accepted sockets that entered SYN_RECV before the kernel had filled in
//! their own addresses (Linux before 6.18).

use std::time::Duration;

use crate::lifecycle::map::Map;
use crate::lifecycle::time::Time;

/// When they entered SYN_RECV, by network namespace and `sk`.
#[derive(Debug)]
pub(super) struct Unaddressed {
    children: Map<(u32, u64), Time, { Class::ALL.len() }>,
}

#[derive(Clone, Copy, Debug)]
enum Class {
    /// Its next input did not come in time: later events are not held back for it.
    Late,
    /// Its next input comes at once, and has the addresses.
    Expected,
}

impl Class {
    const ALL: [Self; 2] = [Self::Late, Self::Expected];
}

impl Unaddressed {
    pub(super) fn new(limit: usize) -> Self {
        Self { children: Map::new(limit) }
    }

    /// Adds a child that entered SYN_RECV at `now`.
    pub(super) fn insert(&mut self, netns: u32, sk: u64, now: Time) {
        self.children.insert((netns, sk), now, Class::Expected as usize, now);
    }

    /// Removes a child. Returns when it entered SYN_RECV.
    pub(super) fn remove(&mut self, netns: u32, sk: u64) -> Option<Time> {
        self.children.remove(&(netns, sk))
    }

    /// When the first entered SYN_RECV of those that are not late at `now`.
    pub(super) fn first_expected(&self, now: Time) -> Option<Time> {
        let (created, _) = self.children.front(Class::Expected as usize)?;
        Some(created).filter(|created| !is_late(*created, now))
    }

    /// Waits no longer for those that are late at `now`.
    pub(super) fn expire(&mut self, now: Time) {
        while let Some((created, place)) = self.children.front(Class::Expected as usize)
            && is_late(created, now)
        {
            self.children.queue(place, Class::Late as usize, now, Duration::ZERO);
        }
    }

    pub(super) fn evicted(&self) -> u64 {
        self.children.evicted()
    }
}

fn is_late(created: Time, now: Time) -> bool {
    now.since(created) > ADDRESSES_KNOWN_WITHIN
}

/// Many times what lies between SYN_RECV and the transition that follows it. Lines must not wait
/// that long: they come within 100 ms, half of which may pass until the records are read.
const ADDRESSES_KNOWN_WITHIN: Duration = Duration::from_millis(20);
