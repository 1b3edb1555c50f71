//! Prometheus metrics: the counters of the kernel programs, read at each scrape, the sockets there are, and the HTTP endpoint.
//!
//! [`Collector`] turns a [`Snapshot`] of the counters into metric families; [`http`] serves them. Nothing is kept
//! between scrapes but [`Ends`].

mod collector;
mod ends;
mod families;
pub mod http;
mod possible;
mod snapshot;
mod sockets;
mod tracker;

pub use collector::{BuildInfo, Collector, ReadSnapshot, ScrapeError};
pub use ends::{Ends, Moment};
pub use snapshot::{PortLabel, ProgramRuns, Snapshot};
pub use sockets::{AcceptQueue, PortSockets, label_sockets};
pub use tracker::{TrackerCounters, TrackerStats};
