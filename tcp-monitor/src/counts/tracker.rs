//! The size of the tracker, published by the thread that writes the log and read at each scrape.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the log's thread published last.
#[derive(Debug, Default)]
pub struct TrackerStats {
    connections: AtomicU64,
    evicted: AtomicU64,
}

/// The tracker, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrackerCounts {
    /// Sockets known, those in TIME_WAIT included.
    pub connections: u64,
    /// Entries evicted because a table was full, since the start.
    pub evicted: u64,
}

impl TrackerStats {
    /// Replaces what was published before.
    pub fn publish(&self, counts: TrackerCounts) {
        self.connections.store(counts.connections, Ordering::Relaxed);
        self.evicted.store(counts.evicted, Ordering::Relaxed);
    }

    /// What was published last; zeros before the first time. The two may be of different moments.
    #[must_use]
    pub fn read(&self) -> TrackerCounts {
        TrackerCounts {
            connections: self.connections.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
        }
    }
}
