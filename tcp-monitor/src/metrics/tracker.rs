//! The size of the agent's own table, told by the thread that writes the log to whoever scrapes.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the log's thread last published.
#[derive(Debug, Default)]
pub struct TrackerStats {
    connections: AtomicU64,
    evicted: AtomicU64,
}

/// The agent's own table, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrackerCounters {
    /// Sockets known, those in TIME_WAIT included.
    pub connections: u64,
    /// How often something had to be forgotten because a table was full, since the start.
    pub evicted: u64,
}

impl TrackerStats {
    /// Replaces what was published before.
    pub fn publish(&self, counters: TrackerCounters) {
        self.connections.store(counters.connections, Ordering::Relaxed);
        self.evicted.store(counters.evicted, Ordering::Relaxed);
    }

    /// What was published last; zeros before the first time. The two may be of different moments.
    #[must_use]
    pub fn read(&self) -> TrackerCounters {
        TrackerCounters {
            connections: self.connections.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
        }
    }
}
