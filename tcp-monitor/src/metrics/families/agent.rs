//! Families without a port: of interfaces, and of the agent and its kernel programs themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};
use tcp_monitor_common::counters::{InterfaceCounters, SegmentKind, Table};
use tcp_monitor_common::record::{Direction, Kind};

use super::super::exporter::BuildInfo;
use super::super::family::{Family, Samples};
use crate::counts::{KernelCounts, ProgramRuns, Snapshot};

/// The snapshot that samples are collected from; `None` between scrapes.
pub(in super::super) type Current = RwLock<Option<Snapshot>>;

/// Collects the families.
pub(in super::super) struct AgentCollector {
    build: BuildInfo,
    current: Arc<Current>,
    descriptions: Vec<Desc>,
}

impl AgentCollector {
    /// A collector of the samples in `current`.
    ///
    /// # Errors
    ///
    /// If a name or a label is none that Prometheus allows.
    pub(in super::super) fn new(build: BuildInfo, current: Arc<Current>) -> prometheus::Result<Self> {
        let descriptions = FAMILIES.iter().map(Family::describe).collect::<prometheus::Result<_>>()?;
        Ok(Self { build, current, descriptions })
    }
}

impl Collector for AgentCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let Some(snapshot) = &*current else { return Vec::new() };
        let collect =
            |family| Samples::collect(family, |read: &Read, samples| read(snapshot, &self.build, samples));
        FAMILIES.iter().filter_map(collect).collect()
    }
}

/// Adds the samples.
type Read = fn(&Snapshot, &BuildInfo, &mut Samples);

pub(super) static FAMILIES: [Family<Read>; 10] = [
    Family {
        name: "tcp_monitor_segments_total",
        kind: MetricType::COUNTER,
        labels: &["interface", "direction", "flags"],
        help: "SYN, SYN-ACK, FIN and RST segments of watched ports that passed the traffic \
               control hook of the interface. A packet counts on each interface it passes: on a \
               bridge and its port, on a bond and its member.",
        read: segments,
    },
    Family {
        name: "tcp_monitor_events_total",
        kind: MetricType::COUNTER,
        labels: &["kind"],
        help: "Records that the kernel programs sent to the agent for the live log.",
        read: |snapshot, _, samples| records(&snapshot.kernel.records.sent, samples),
    },
    Family {
        name: "tcp_monitor_events_lost_total",
        kind: MetricType::COUNTER,
        labels: &["kind"],
        help: "Records that the live log lacks because the ring buffer was full. All other \
               metrics are unaffected.",
        read: |snapshot, _, samples| records(&snapshot.kernel.records.lost, samples),
    },
    Family {
        name: "tcp_monitor_events_suppressed_total",
        kind: MetricType::COUNTER,
        labels: &["kind"],
        help: "Records that the live log lacks because the rest of the ring buffer is reserved \
               for others. Records of segments, and of RSTs and SYN-ACKs sent without a full \
               socket, leave half of it free, those of state transitions an eighth. All other \
               metrics are unaffected.",
        read: |snapshot, _, samples| records(&snapshot.kernel.records.suppressed, samples),
    },
    Family {
        name: "tcp_monitor_table_evictions_total",
        kind: MetricType::COUNTER,
        labels: &["table"],
        help: "Entries that a full table of the kernel programs evicted or did not take. acks: an \
               ACK may be missing in the log, or one that met a full accept queue in the \
               counters. socket_times: durations of a socket are not counted. requests: a half-open \
               connection that is reset or times out is not counted. fin_wait2_timewait: the exit of a \
               timewait socket from FIN_WAIT2 is not counted.",
        read: |snapshot, _, samples| {
            for (table, &count) in Table::ALL.into_iter().zip(&snapshot.kernel.tables.evictions) {
                samples.counter(&[table.label()], count as f64);
            }
        },
    },
    Family {
        name: "tcp_monitor_tracker_connections",
        kind: MetricType::GAUGE,
        labels: &[],
        help: "Sockets that the live log follows now, those in TIME_WAIT included. Counted in the \
               agent.",
        read: |snapshot, _, samples| {
            if let Some(tracker) = snapshot.tracker {
                samples.gauge(&[], tracker.connections as f64);
            }
        },
    },
    Family {
        name: "tcp_monitor_tracker_evicted_total",
        kind: MetricType::COUNTER,
        labels: &[],
        help: "Entries that the live log evicted because one of its tables was full. Lines on \
               that connection may lack fields, or be missing. Counted in the agent. All other \
               metrics are unaffected.",
        read: |snapshot, _, samples| {
            if let Some(tracker) = snapshot.tracker {
                samples.counter(&[], tracker.evicted as f64);
            }
        },
    },
    Family {
        name: "tcp_monitor_bpf_run_seconds_total",
        kind: MetricType::COUNTER,
        labels: &["program"],
        help: "CPU time of the kernel program, while the kernel measures it (--bpf-stats).",
        read: |snapshot, _, samples| {
            for program in measured_programs(&snapshot.kernel) {
                samples.counter(&[&program.name], program.run_time_ns as f64 / 1e9);
            }
        },
    },
    Family {
        name: "tcp_monitor_bpf_runs_total",
        kind: MetricType::COUNTER,
        labels: &["program"],
        help: "Runs of the kernel program, while the kernel counts them (--bpf-stats).",
        read: |snapshot, _, samples| {
            for program in measured_programs(&snapshot.kernel) {
                samples.counter(&[&program.name], program.runs as f64);
            }
        },
    },
    Family {
        name: "tcp_monitor_build_info",
        kind: MetricType::GAUGE,
        labels: &["version", "kernel"],
        help: "Always 1: the version of tcp-monitor and the release of the kernel it runs on.",
        read: |_, build, samples| samples.gauge(&[&build.version, &build.kernel], 1.0),
    },
];

fn segments(snapshot: &Snapshot, _: &BuildInfo, samples: &mut Samples) {
    // Every container has an eth0: the same series twice would be no valid exposition.
    let mut by_name = BTreeMap::<&str, InterfaceCounters>::new();
    for (name, counters) in &snapshot.kernel.interfaces {
        let sums = by_name.entry(name).or_default().segments.as_flattened_mut();
        for (sum, count) in sums.iter_mut().zip(counters.segments.as_flattened()) {
            *sum += count;
        }
    }
    for (interface, counters) in by_name {
        for (direction, counts) in Direction::ALL.into_iter().zip(&counters.segments) {
            for (flags, &count) in SegmentKind::ALL.into_iter().zip(counts) {
                samples.counter(&[interface, direction.label(), flags.label()], count as f64);
            }
        }
    }
}

fn records(counts: &[u64], samples: &mut Samples) {
    for (kind, &count) in Kind::ALL.into_iter().zip(counts) {
        samples.counter(&[kind.label()], count as f64);
    }
}

/// None while the kernel does not measure them.
fn measured_programs(kernel: &KernelCounts) -> &[ProgramRuns] {
    if kernel.bpf_stats { &kernel.programs } else { &[] }
}
