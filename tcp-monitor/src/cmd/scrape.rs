//! Joins what a scrape shows: the counters, the existing sockets, the tracker, and the silent exits that follow from the
//! first two.
//!
//! A scrape reads each map once. Only a dump of the sockets needs the counters of ports as of before it, too: they are read
//! by the thread that makes it, and the scrape's own reading is the one after it. One reading would not do. A socket that
//! entered TIME_WAIT while the kernel walked its table, behind the place that it had reached, is counted and not listed: it
//! would pass for one that has left. A reading before alone would count the sockets that left meanwhile by a segment twice.

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
    /// To be called when the programs have just been attached: silent exits are counted from now on. Also returns the
    /// connections that exist already.
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
