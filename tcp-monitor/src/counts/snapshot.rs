//! Everything that is counted, at one moment.

use std::fmt;

use tcp_monitor_common::counters::{InterfaceCounters, PortCounters, RecordCounters, TableCounters};

use super::sockets::PortSockets;
use super::tracker::TrackerCounts;

/// What one scrape shows.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The counters of the kernel programs; those of ports with the silent exits added.
    pub kernel: KernelCounts,
    /// The existing sockets by service port, each label at most once; `None` if the kernel does not
    /// list them.
    pub sockets: Option<Vec<(PortLabel, PortSockets)>>,
    /// The table of tracked connections; `None` where no log is written, which alone needs it.
    pub tracker: Option<TrackerCounts>,
}

/// The counters of all kernel programs since they were loaded, added up over the CPUs.
#[derive(Clone, Debug, Default)]
pub struct KernelCounts {
    /// By service port, each at most once.
    pub ports: Vec<(PortLabel, PortCounters)>,
    /// By interface name. Interfaces of different network namespaces may share a name; they are
    /// then one series.
    pub interfaces: Vec<(String, InterfaceCounters)>,
    /// Records sent to the agent, and lost.
    pub records: RecordCounters,
    /// Entries that the programs' tables evicted or did not take.
    pub tables: TableCounters,
    /// Every kernel program, each at most once; may be empty if their cost is not known.
    pub programs: Vec<ProgramRuns>,
    /// The kernel says why it sends a RST, and reports those that no full socket sends (6.12 and
    /// later).
    pub reasons_known: bool,
    /// The kernel measures runs and run times of programs, so that those of [`Self::programs`] mean
    /// something.
    pub bpf_stats: bool,
}

/// What counters are kept for: the labels that all families of ports have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortLabel {
    /// One service port.
    Port(u16),
    /// All ports that have no counters of their own.
    Other,
}

impl PortLabel {
    /// Names and values of the labels. A label more for all families of ports is added here.
    #[must_use]
    pub fn labels(self) -> [(&'static str, String); 1] {
        [("port", self.to_string())]
    }
}

/// The value of the label `port`.
impl fmt::Display for PortLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => port.fmt(f),
            Self::Other => f.write_str("other"),
        }
    }
}

/// The cost of one kernel program, from `bpf_prog_info`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramRuns {
    /// The program's name.
    pub name: String,
    /// How often it ran; counted only while [`KernelCounts::bpf_stats`] is on.
    pub runs: u64,
    /// How long in all, nanoseconds; measured only while [`KernelCounts::bpf_stats`] is on.
    pub run_time_ns: u64,
}
