//! What a scrape shows of the kernel: counters, sockets, and the ends that follow from both.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tcp_monitor_common::counters::PortCounters;

use crate::metrics::{Ends, Moment, PortLabel, PortSockets, Snapshot, label_sockets};
use crate::source::diag::{Found, Look, SocketDiag};
use crate::source::kernel::{CounterError, Counters};

/// Whoever knows what a scrape shows.
pub(super) struct Scrape {
    counters: Arc<Counters>,
    sockets: Arc<SocketDiag>,
    /// `None` if the kernel does not list sockets.
    ends: Option<Mutex<Ends>>,
}

impl Scrape {
    /// To be called when the programs have just been attached: ends are counted from now on. Returns the connections that there are
    /// already, too.
    pub(super) fn begin(
        counters: Arc<Counters>,
        sockets: Arc<SocketDiag>,
    ) -> Result<(Self, Vec<Found>), CounterError> {
        let before = counters.ports()?;
        let found = sockets.found();
        let look = sockets.latest();
        let after = counters.ports()?;
        let ends = look.map(|look| {
            let sockets = labelled(&look, &after);
            Mutex::new(Ends::since(Moment { before: &before, sockets: &sockets, after: &after }))
        });
        Ok((Self { counters, sockets, ends }, found))
    }

    /// Everything now.
    pub(super) fn snapshot(&self) -> Result<Snapshot, CounterError> {
        let before = self.counters.ports()?;
        let read = Instant::now();
        let look = self.sockets.sockets();
        let mut snapshot = self.counters.snapshot()?;
        snapshot.sockets = look.as_ref().map(|look| labelled(look, &snapshot.ports));
        if let Some(ends) = &self.ends {
            let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
            if let (Some(look), Some(sockets)) = (look, &snapshot.sockets)
                && look.began >= read
            {
                ends.update(Moment { before: &before, sockets, after: &snapshot.ports });
            }
            ends.add_to(&mut snapshot.ports);
        }
        Ok(snapshot)
    }
}

fn labelled(look: &Look, ports: &[(PortLabel, PortCounters)]) -> Vec<(PortLabel, PortSockets)> {
    label_sockets(&look.sockets, ports.iter().map(|(label, _)| *label))
}
