//! Joins what a scrape shows: the counters, the existing sockets, the tracker, and the silent exits
//! that follow from the first two.
//!
//! A scrape reads each map once. Before each dump of the sockets, the thread that makes it reads
//! the counters of ports once more, and keeps the entries and exits of two states. The scrape's own
//! reading is the one after the dump. With one of the two alone an exit would be found that was
//! none:
//!
//! - Without the reading before, for a socket that enters TIME_WAIT during the dump, in a part of
//!   the kernel's table that was already dumped. It is counted and not listed.
//! - Without the reading after, for a socket that leaves by a segment during the dump, before its
//!   part of the table is dumped. It is not listed, and its exit is counted later as well.

use std::sync::{Arc, Mutex, PoisonError};

use tcp_monitor_common::counters::PortCounters;

use crate::counts::{
    EntriesAndExits, PortLabel, PortSockets, SilentExits, Snapshot, SocketDump, TrackerStats, label_sockets,
};
use crate::kernel::{CounterError, Counters};
use crate::lifecycle::PresentSocket;
use crate::sockets::{Dump, SocketDiag};

/// The sources of a [`Snapshot`].
pub(super) struct Scrape {
    counters: Arc<Counters>,
    sockets: SocketDiag,
    /// `None` if the kernel does not list sockets.
    silent_exits: Option<Mutex<SilentExits>>,
    /// `None` if no log is written.
    tracker: Option<Arc<TrackerStats>>,
}

impl Scrape {
    /// To be called when the programs have just been attached: silent exits are counted from now
    /// on. Also returns the connections that exist already.
    pub(super) fn begin(
        counters: Arc<Counters>,
        sockets: SocketDiag,
    ) -> Result<(Self, Vec<PresentSocket>), CounterError> {
        let of_ports = Arc::clone(&counters);
        sockets.read_before_dumps(Box::new(move || Some(EntriesAndExits::of(&of_ports.ports().ok()?))));
        let existing = sockets.existing();
        let ports = counters.ports()?;
        let silent_exits = sockets.latest().and_then(|dump| {
            let (sockets, after) = (labelled(&dump, &ports), EntriesAndExits::of(&ports));
            let dump = SocketDump { before: &*dump.counted_before?, sockets: &sockets, after: &after };
            Some(Mutex::new(SilentExits::since(dump)))
        });
        Ok((Self { counters, sockets, silent_exits, tracker: None }, existing))
    }

    /// Adds the size of the tracker.
    pub(super) fn with_tracker(self, tracker: Option<Arc<TrackerStats>>) -> Self {
        Self { tracker, ..self }
    }

    /// Everything now.
    pub(super) fn snapshot(&self) -> Result<Snapshot, CounterError> {
        let dump = self.sockets.sockets();
        let mut kernel = self.counters.read()?;
        let sockets = dump.as_ref().map(|dump| labelled(dump, &kernel.ports));
        if let Some(silent_exits) = &self.silent_exits {
            let mut silent_exits = silent_exits.lock().unwrap_or_else(PoisonError::into_inner);
            if let (Some(before), Some(sockets)) = (dump.and_then(|dump| dump.counted_before), &sockets) {
                let after = EntriesAndExits::of(&kernel.ports);
                silent_exits.update(SocketDump { before: &before, sockets, after: &after });
            }
            silent_exits.add_to(&mut kernel.ports);
        }
        Ok(Snapshot { kernel, sockets, tracker: self.tracker.as_ref().map(|tracker| tracker.read()) })
    }
}

fn labelled(dump: &Dump, ports: &[(PortLabel, PortCounters)]) -> Vec<(PortLabel, PortSockets)> {
    label_sockets(&dump.sockets, ports.iter().map(|(label, _)| *label))
}
