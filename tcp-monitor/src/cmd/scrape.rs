//! What a scrape shows of the kernel: counters, sockets, and the ends that follow from both.

use std::sync::{Arc, Mutex, PoisonError};

use tcp_monitor_common::counters::PortCounters;

use crate::kernel::{CounterError, Counters};
use crate::lifecycle::PresentSocket;
use crate::metrics::{Ends, Flows, Moment, PortLabel, PortSockets, Snapshot, label_sockets};
use crate::sockets::{Look, SocketDiag};

/// Whoever knows what a scrape shows.
pub(super) struct Scrape {
    counters: Arc<Counters>,
    sockets: SocketDiag,
    /// `None` if the kernel does not list sockets.
    ends: Option<Mutex<Ends>>,
}

impl Scrape {
    /// To be called when the programs have just been attached: ends are counted from now on. Returns the connections that there are
    /// already, too.
    pub(super) fn begin(
        counters: Arc<Counters>,
        sockets: SocketDiag,
    ) -> Result<(Self, Vec<PresentSocket>), CounterError> {
        let of_ports = Arc::clone(&counters);
        sockets.count(Box::new(move || Some(Flows::of(&of_ports.ports().ok()?))));
        let found = sockets.found();
        let ports = counters.ports()?;
        let ends = sockets.latest().and_then(|look| {
            let (seen, counted) = (labelled(&look, &ports), look.counted?);
            Some(Mutex::new(Ends::since(Moment { before: &counted[0], sockets: &seen, after: &counted[1] })))
        });
        Ok((Self { counters, sockets, ends }, found))
    }

    /// Everything now.
    pub(super) fn snapshot(&self) -> Result<Snapshot, CounterError> {
        let look = self.sockets.sockets();
        let mut snapshot = self.counters.snapshot()?;
        snapshot.sockets = look.as_ref().map(|look| labelled(look, &snapshot.ports));
        if let Some(ends) = &self.ends {
            let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
            if let (Some(counted), Some(sockets)) = (look.and_then(|look| look.counted), &snapshot.sockets) {
                ends.update(Moment { before: &counted[0], sockets, after: &counted[1] });
            }
            ends.add_to(&mut snapshot.ports);
        }
        Ok(snapshot)
    }
}

fn labelled(look: &Look, ports: &[(PortLabel, PortCounters)]) -> Vec<(PortLabel, PortSockets)> {
    label_sockets(&look.sockets, ports.iter().map(|(label, _)| *label))
}
