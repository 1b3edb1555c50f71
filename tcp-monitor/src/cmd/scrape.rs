//! Joins what a scrape shows: the counters, the existing sockets, the tracker, and the silent exits
//! that follow from the first two.

use std::sync::{Arc, Mutex, PoisonError};

use tcp_monitor_common::counters::PortCounters;

use crate::counts::{
    EntriesAndExits, Listing, PortLabel, PortSockets, SilentExits, Snapshot, TrackerStats, label_sockets,
};
use crate::kernel::{CounterError, Counters};
use crate::lifecycle::PresentSocket;
use crate::sockets::{Look, SocketDiag};

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
        sockets.count(Box::new(move || Some(EntriesAndExits::of(&of_ports.ports().ok()?))));
        let found = sockets.found();
        let ports = counters.ports()?;
        let silent_exits = sockets.latest().and_then(|look| {
            let (sockets, counted) = (labelled(&look, &ports), look.counted?);
            let listing = Listing { before: &counted[0], sockets: &sockets, after: &counted[1] };
            Some(Mutex::new(SilentExits::since(listing)))
        });
        Ok((Self { counters, sockets, silent_exits, tracker: None }, found))
    }

    /// Adds the size of the tracker.
    pub(super) fn with_tracker(self, tracker: Option<Arc<TrackerStats>>) -> Self {
        Self { tracker, ..self }
    }

    /// Everything now.
    pub(super) fn snapshot(&self) -> Result<Snapshot, CounterError> {
        let look = self.sockets.sockets();
        let mut kernel = self.counters.read()?;
        let sockets = look.as_ref().map(|look| labelled(look, &kernel.ports));
        if let Some(silent_exits) = &self.silent_exits {
            let mut silent_exits = silent_exits.lock().unwrap_or_else(PoisonError::into_inner);
            if let (Some(counted), Some(sockets)) = (look.and_then(|look| look.counted), &sockets) {
                silent_exits.update(Listing { before: &counted[0], sockets, after: &counted[1] });
            }
            silent_exits.add_to(&mut kernel.ports);
        }
        Ok(Snapshot { kernel, sockets, tracker: self.tracker.as_ref().map(|tracker| tracker.read()) })
    }
}

fn labelled(look: &Look, ports: &[(PortLabel, PortCounters)]) -> Vec<(PortLabel, PortSockets)> {
    label_sockets(&look.sockets, ports.iter().map(|(label, _)| *label))
}
