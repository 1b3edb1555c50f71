//! From a snapshot of the counters to metric families, at each scrape.

use std::collections::BTreeMap;

use prometheus::core::{self, Desc};
use prometheus::proto::MetricFamily;
use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::{
    ClosedBy, HandshakeFailure, InterfaceCounters, PortCounters, Scale, SegmentKind, TIMED_STATES, Table,
    TableCounters, reset_reason_label,
};
use tcp_monitor_common::record::{Direction, Kind, ResetPhase, Role, UNKNOWN_REASON};
use thiserror::Error;

use super::exposition::Exposition;
use super::families::{self, Family};
use super::{sockets, zero_series};
use crate::counts::{ProgramRuns, Snapshot};

/// Reads the counters of the kernel programs, or says why it cannot.
pub type ReadSnapshot = Box<dyn Fn() -> Result<Snapshot, String> + Send + Sync>;

/// The labels of `build_info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildInfo {
    /// Version of tcp-monitor.
    pub version: String,
    /// Release of the running kernel, as `uname -r` prints it.
    pub kernel: String,
}

/// Why a scrape has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ScrapeError {
    /// A map, or what else is read, failed to give its numbers.
    #[error("the counters of the kernel programs could not be read: {0}")]
    Unreadable(String),
    /// The encoder refused a metric.
    #[error("the metrics could not be written: {0}")]
    Unwritable(String),
}

/// Every metric of the kernel programs, read when it is asked for.
pub struct Collector {
    read: ReadSnapshot,
    build: BuildInfo,
    descriptions: Vec<Desc>,
}

impl Collector {
    /// A collector that reads with `read`.
    #[must_use]
    pub fn new(read: ReadSnapshot, build: BuildInfo) -> Self {
        let descriptions = families::describe_all().expect("names of metrics are constants, and tested");
        Self { read, build, descriptions }
    }

    /// The labels of `build_info`.
    #[must_use]
    pub fn build(&self) -> &BuildInfo {
        &self.build
    }

    /// Every metric that has samples.
    ///
    /// # Errors
    ///
    /// If the counters cannot be read. They are never made up.
    pub fn gather(&self) -> Result<Vec<MetricFamily>, ScrapeError> {
        let snapshot = (self.read)().map_err(ScrapeError::Unreadable)?;
        let mut families = Vec::new();
        self.visit(&snapshot, usize::MAX, |family| {
            families.push(family);
            Ok(())
        })?;
        Ok(families)
    }

    /// The same as text, in the format of Prometheus. Takes little more memory than that text.
    ///
    /// # Errors
    ///
    /// As [`Self::gather`], or if a metric is none that Prometheus allows.
    pub fn expose(&self) -> Result<String, ScrapeError> {
        let snapshot = (self.read)().map_err(ScrapeError::Unreadable)?;
        let mut exposition = Exposition::with_capacity(snapshot.kernel.ports.len() * TEXT_OF_A_PORT);
        self.visit(&snapshot, PORTS_AT_ONCE, |part| {
            exposition.push(&part).map_err(|error| ScrapeError::Unwritable(error.to_string()))
        })?;
        Ok(exposition.finish())
    }

    /// Gives `take` every metric that has samples, one after the other, in parts of so many ports.
    fn visit(
        &self,
        snapshot: &Snapshot,
        ports_at_once: usize,
        mut take: impl FnMut(MetricFamily) -> Result<(), ScrapeError>,
    ) -> Result<(), ScrapeError> {
        let ports = sorted_ports(snapshot);
        let of_ports: [FamilyOf<'_>; _] = [
            &handshakes,
            &handshake_failures,
            &syn_retransmits,
            &|ports| resets(ports, snapshot.kernel.reasons_known),
            &|ports| state_transitions(ports, snapshot.sockets.is_some()),
            &retransmits,
            &handshake_durations,
            &syn_cookies,
            &accept_queue_overflows,
            &connections_closed,
            &connection_durations,
            &state_durations,
            &bytes,
        ];
        for family in of_ports {
            ports.chunks(ports_at_once).filter_map(family).try_for_each(&mut take)?;
        }
        let with_bpf_stats =
            if snapshot.kernel.bpf_stats { snapshot.kernel.programs.as_slice() } else { &[] };
        let of_the_host = [
            segments(&snapshot.kernel.interfaces),
            records(&families::EVENTS, &snapshot.kernel.records.sent),
            records(&families::EVENTS_LOST, &snapshot.kernel.records.lost),
            records(&families::EVENTS_SUPPRESSED, &snapshot.kernel.records.suppressed),
            tables(&snapshot.kernel.tables),
            tracker(&families::TRACKER_CONNECTIONS, snapshot.tracker.map(|tracker| tracker.connections)),
            tracker(&families::TRACKER_EVICTED, snapshot.tracker.map(|tracker| tracker.evicted)),
            programs(&families::BPF_RUN_SECONDS, with_bpf_stats, |program| program.run_time_ns as f64 / 1e9),
            programs(&families::BPF_RUNS, with_bpf_stats, |program| program.runs as f64),
            build_info(&self.build),
        ];
        of_the_host.into_iter().flatten().try_for_each(&mut take)?;
        let sockets = snapshot.sockets.as_deref().unwrap_or_default();
        for family in sockets::GAUGES {
            sockets.chunks(ports_at_once).filter_map(family).try_for_each(&mut take)?;
        }
        Ok(())
    }
}

impl core::Collector for Collector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    /// As [`Collector::gather`]; on an error, which this interface has no place for, no metric at all.
    fn collect(&self) -> Vec<MetricFamily> {
        self.gather().unwrap_or_else(|error| {
            log::error!("{error}");
            Vec::new()
        })
    }
}

/// The counters of a port, after the value of its label.
type Port<'a> = (String, &'a PortCounters);

/// Makes a metric of some ports.
type FamilyOf<'a> = &'a dyn Fn(&[Port<'_>]) -> Option<MetricFamily>;

fn sorted_ports(snapshot: &Snapshot) -> Vec<Port<'_>> {
    let mut ports: Vec<_> = snapshot.kernel.ports.iter().collect();
    ports.sort_by_key(|(label, _)| *label);
    ports.into_iter().map(|(label, counters)| (label.to_string(), counters)).collect()
}

fn handshakes(ports: &[Port<'_>]) -> Option<MetricFamily> {
    let mut samples = families::HANDSHAKES.samples();
    for (port, counters) in ports {
        for (role, &count) in Role::ALL.into_iter().zip(&counters.handshakes) {
            samples.push_count([role.label(), port], count);
        }
    }
    samples.finish()
}

fn handshake_failures(ports: &[Port<'_>]) -> Option<MetricFamily> {
    let mut samples = families::HANDSHAKE_FAILURES.samples();
    for (port, counters) in ports {
        for (role, counts) in Role::ALL.into_iter().zip(&counters.handshake_failures) {
            for (reason, &count) in HandshakeFailure::ALL.into_iter().zip(counts) {
                if count > 0 || zero_series::handshake_failure(role, reason) {
                    samples.push_count([role.label(), port, reason.label()], count);
                }
            }
        }
    }
    samples.finish()
}

fn syn_retransmits(ports: &[Port<'_>]) -> Option<MetricFamily> {
    let mut samples = families::SYN_RETRANSMITS.samples();
    for (port, counters) in ports {
        for (role, &count) in Role::ALL.into_iter().zip(&counters.syn_retransmits) {
            samples.push_count([role.label(), port], count);
        }
    }
    samples.finish()
}

fn resets(ports: &[Port<'_>], reasons_known: bool) -> Option<MetricFamily> {
    const UNKNOWN: &str = reset_reason_label(UNKNOWN_REASON);
    let mut samples = families::RESETS.samples();
    for (port, counters) in ports {
        for (phase, &count) in ResetPhase::ALL.into_iter().zip(&counters.resets_received) {
            samples.push_count(["received", port, phase.label(), UNKNOWN], count);
        }
        for (phase, counts) in ResetPhase::ALL.into_iter().zip(&counters.resets_sent) {
            let mut unknown = 0;
            for (reason, &count) in (0..=u8::MAX).zip(counts) {
                let label = reset_reason_label(reason);
                if label == UNKNOWN {
                    unknown += count;
                } else if count > 0 || reasons_known && zero_series::reset_reason(phase, reason) {
                    samples.push_count(["sent", port, phase.label(), label], count);
                }
            }
            if unknown > 0 || !reasons_known && zero_series::reset_without_reason(phase) {
                samples.push_count(["sent", port, phase.label(), UNKNOWN], unknown);
            }
        }
    }
    samples.finish()
}

fn state_transitions(ports: &[Port<'_>], ends_known: bool) -> Option<MetricFamily> {
    let mut samples = families::STATE_TRANSITIONS.samples();
    for (port, counters) in ports {
        for from in TcpState::ALL {
            for to in TcpState::ALL {
                let count = counters.transitions[from as usize][to as usize];
                let is_known = from != TcpState::TimeWait || ends_known;
                if count > 0 || is_known && zero_series::transition(from, to) {
                    samples.push_count([port, from.label(), to.label()], count);
                }
            }
        }
    }
    samples.finish()
}

fn retransmits(ports: &[Port<'_>]) -> Option<MetricFamily> {
    let mut samples = families::RETRANSMITS.samples();
    for (port, counters) in ports {
        samples.push_count([port], counters.retransmits);
    }
    samples.finish()
}

fn handshake_durations(ports: &[Port<'_>]) -> Option<MetricFamily> {
    let mut samples = families::HANDSHAKE_DURATION.samples();
    for (port, counters) in ports {
        for (role, durations) in Role::ALL.into_iter().zip(&counters.handshake_durations) {
            samples.push_durations([role.label(), port], Scale::HANDSHAKE, durations);
        }
    }
    samples.finish()
}

fn syn_cookies(ports: &[Port<'_>]) -> Option<MetricFamily> {
    let mut samples = families::SYN_COOKIES.samples();
    for (port, counters) in ports {
        for (result, &count) in ["sent", "accepted"].into_iter().zip(&counters.syn_cookies) {
            samples.push_count([port, result], count);
        }
    }
    samples.finish()
}

fn accept_queue_overflows(ports: &[Port<'_>]) -> Option<MetricFamily> {
    let mut samples = families::ACCEPT_QUEUE_OVERFLOWS.samples();
    for (port, counters) in ports {
        samples.push_count([port], counters.accept_queue_overflows);
    }
    samples.finish()
}

fn connections_closed(ports: &[Port<'_>]) -> Option<MetricFamily> {
    let mut samples = families::CONNECTIONS_CLOSED.samples();
    for (port, counters) in ports {
        for (role, counts) in Role::ALL.into_iter().zip(&counters.closed) {
            for (closed_by, &count) in ClosedBy::ALL.into_iter().zip(counts) {
                samples.push_count([port, role.label(), closed_by.label()], count);
            }
        }
    }
    samples.finish()
}

fn connection_durations(ports: &[Port<'_>]) -> Option<MetricFamily> {
    let mut samples = families::CONNECTION_DURATION.samples();
    for (port, counters) in ports {
        for (role, durations) in Role::ALL.into_iter().zip(&counters.connection_durations) {
            samples.push_durations([port, role.label()], Scale::LIFE, durations);
        }
    }
    samples.finish()
}

fn state_durations(ports: &[Port<'_>]) -> Option<MetricFamily> {
    let mut samples = families::STATE_DURATION.samples();
    for (port, counters) in ports {
        for (state, durations) in TIMED_STATES.into_iter().zip(&counters.state_durations) {
            samples.push_durations([port, state.label()], Scale::LIFE, durations);
        }
    }
    samples.finish()
}

fn bytes(ports: &[Port<'_>]) -> Option<MetricFamily> {
    let mut samples = families::BYTES.samples();
    for (port, counters) in ports {
        for (direction, &count) in ["sent", "received"].into_iter().zip(&counters.bytes) {
            samples.push_count([port, direction], count);
        }
    }
    samples.finish()
}

fn segments(interfaces: &[(String, InterfaceCounters)]) -> Option<MetricFamily> {
    // Every container has an eth0: the same series twice would be no valid exposition.
    let mut by_name = BTreeMap::<&str, InterfaceCounters>::new();
    for (name, counters) in interfaces {
        let sums = by_name.entry(name).or_default().segments.as_flattened_mut();
        for (sum, count) in sums.iter_mut().zip(counters.segments.as_flattened()) {
            *sum += count;
        }
    }
    let mut samples = families::SEGMENTS.samples();
    for (interface, counters) in by_name {
        for (direction, counts) in Direction::ALL.into_iter().zip(&counters.segments) {
            for (flags, &count) in SegmentKind::ALL.into_iter().zip(counts) {
                samples.push_count([interface, direction.label(), flags.label()], count);
            }
        }
    }
    samples.finish()
}

fn records(family: &'static Family<1>, counts: &[u64]) -> Option<MetricFamily> {
    let mut samples = family.samples();
    for (kind, &count) in Kind::ALL.into_iter().zip(counts) {
        samples.push_count([kind.label()], count);
    }
    samples.finish()
}

fn tables(counters: &TableCounters) -> Option<MetricFamily> {
    let mut samples = families::TABLE_EVICTIONS.samples();
    for (table, &count) in Table::ALL.into_iter().zip(&counters.forgotten) {
        samples.push_count([table.label()], count);
    }
    samples.finish()
}

fn tracker(family: &'static Family<0>, count: Option<u64>) -> Option<MetricFamily> {
    let mut samples = family.samples();
    if let Some(count) = count {
        samples.push_count([], count);
    }
    samples.finish()
}

fn programs(
    family: &'static Family<1>,
    programs: &[ProgramRuns],
    value: fn(&ProgramRuns) -> f64,
) -> Option<MetricFamily> {
    let mut samples = family.samples();
    for program in programs {
        samples.push([&program.name], value(program));
    }
    samples.finish()
}

fn build_info(build: &BuildInfo) -> Option<MetricFamily> {
    let mut samples = families::BUILD_INFO.samples();
    samples.push([&build.version, &build.kernel], 1.0);
    samples.finish()
}

/// So many that the headings of their parts are cheap, and so few that their samples are small: some 2 MB at most.
const PORTS_AT_ONCE: usize = 64;
/// Bytes that most of its series take. Text that grows is copied, and both copies are in memory meanwhile.
const TEXT_OF_A_PORT: usize = 24 << 10;
