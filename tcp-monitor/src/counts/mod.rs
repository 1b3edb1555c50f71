//! What was counted, and what follows from it: plain numbers, with no Prometheus in them.
//!
//! `kernel` and `sockets` fill these types, `cmd::scrape` joins them into one [`Snapshot`], and
//! `metrics` renders it.

mod silent_exits;
mod snapshot;
mod sockets;
mod tracker;

pub use silent_exits::{EntriesAndExits, SilentExits, SocketDump};
pub use snapshot::{KernelCounts, PortLabel, ProgramRuns, Snapshot};
pub use sockets::{AcceptQueue, PortSockets, UNKNOWN_PROCESS, label_sockets};
pub use tracker::{TrackerCounts, TrackerStats};
