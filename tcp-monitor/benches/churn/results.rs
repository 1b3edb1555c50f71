//! The results: medians, and between what the runs lie.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::measure::{Accounts, Run};
use crate::monitors::Monitor;

/// What a monitor costs. What does not apply to it is absent.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) installed: bool,
    /// Connections a second without a monitor.
    pub(crate) connections_per_second: Option<Spread>,
    /// Connections a second with the monitor to without.
    pub(crate) throughput: Option<Spread>,
    /// Time of all CPUs a connection, with the monitor to without.
    pub(crate) total_cpu: Option<Spread>,
    /// Seconds that the monitor computes for 100,000 connections.
    pub(crate) own_cpu: Option<Spread>,
    pub(crate) lines_per_connection: Option<Spread>,
    /// Connections that are reported with every event, to all.
    pub(crate) whole: Option<Spread>,
    /// Records lost for each connection.
    pub(crate) lost: Option<Spread>,
    /// Megabytes.
    pub(crate) resident_mb: Option<Spread>,
    pub(crate) kernel: Option<Kernel>,
}

/// What its programs cost.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Kernel {
    /// Nanoseconds a connection, as accounted.
    pub(crate) gross: Spread,
    /// The same without what empty programs are accounted with.
    pub(crate) net: Spread,
    /// Nanoseconds a run of the empty tracepoint program: the same work in each run, so its spread
    /// is that of the machine.
    pub(crate) empty: Spread,
    pub(crate) programs: Vec<Program>,
}

/// What one program costs.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) runs_per_connection: Spread,
    /// Nanoseconds a run, as accounted.
    pub(crate) ns_per_run: Spread,
}

/// The median, and the lowest and the highest.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Of values that are there, if any is.
    fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, low, high })
    }

    /// The same in another unit.
    pub(crate) fn scaled(self, factor: f64) -> Self {
        Self { median: self.median * factor, low: self.low * factor, high: self.high * factor }
    }

    /// How far the highest is from the lowest, to the median.
    pub(crate) fn relative_width(self) -> f64 {
        (self.high - self.low) / self.median
    }
}

impl Row {
    pub(crate) fn not_installed(monitor: &Monitor) -> Self {
        Self {
            name: monitor.name.to_owned(),
            title: monitor.title.to_owned(),
            installed: false,
            connections_per_second: None,
            throughput: None,
            total_cpu: None,
            own_cpu: None,
            lines_per_connection: None,
            whole: None,
            lost: None,
            resident_mb: None,
            kernel: None,
        }
    }

    /// From pairs of runs, without and with it, and from runs in which its programs were accounted
    /// for.
    pub(crate) fn new(monitor: &Monitor, pairs: &[(Run, Run)], accounted: &[Run]) -> Result<Self> {
        let with = || pairs.iter().map(|(_, with)| with);
        let own = |run: &Run| run.report.resident.is_some() || run.own_cpu.as_nanos() > 0;
        let per_connection =
            |run: &Run, value: Option<u64>| Some(value? as f64 / run.traffic.connections as f64);
        Ok(Self {
            installed: true,
            connections_per_second: Spread::of(pairs.iter().map(|(without, _)| rate(without))),
            throughput: Spread::of(pairs.iter().map(|(without, with)| rate(with) / rate(without))),
            total_cpu: Spread::of(pairs.iter().map(|(without, with)| cpu(with) / cpu(without))),
            own_cpu: Spread::of(
                with()
                    .filter(|run| own(run))
                    .map(|run| run.own_cpu.as_secs_f64() * 100_000.0 / run.traffic.connections as f64),
            ),
            lines_per_connection: Spread::of(with().filter_map(|run| per_connection(run, run.report.lines))),
            whole: Spread::of(with().filter_map(|run| per_connection(run, run.report.whole))),
            lost: Spread::of(with().filter_map(|run| per_connection(run, run.report.lost))),
            resident_mb: Spread::of(with().filter_map(|run| Some(run.report.resident? as f64 / 1e6))),
            kernel: Kernel::new(accounted)?,
            ..Self::not_installed(monitor)
        })
    }
}

/// Connections a second.
fn rate(run: &Run) -> f64 {
    run.traffic.connections as f64 / run.traffic.elapsed.as_secs_f64()
}

/// Seconds of all CPUs for a connection.
fn cpu(run: &Run) -> f64 {
    run.total_cpu.as_secs_f64() / run.traffic.connections as f64
}

impl Kernel {
    /// `None` if there are no programs.
    fn new(runs: &[Run]) -> Result<Option<Self>> {
        let accounts: Vec<(&Accounts, f64)> = runs
            .iter()
            .filter_map(|run| Some((run.accounts.as_ref()?, run.traffic.connections as f64)))
            .filter(|(accounts, _)| !accounts.programs.is_empty())
            .collect();
        let Some(gross) =
            Spread::of(accounts.iter().map(|(accounts, connections)| gross(accounts) / connections))
        else {
            return Ok(None);
        };
        let net = Spread::of(accounts.iter().map(|(accounts, connections)| net(accounts) / connections));
        let empty = Spread::of(accounts.iter().map(|(accounts, _)| accounts.empty.tracepoint));
        let mut programs: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
        for (accounts, connections) in &accounts {
            for program in &accounts.programs {
                let values = (program.runs as f64 / connections, program.ns as f64 / program.runs as f64);
                programs.entry(&program.name).or_default().push(values);
            }
        }
        let programs = programs.into_iter().map(|(name, values)| {
            Some(Program {
                name: name.to_owned(),
                runs_per_connection: Spread::of(values.iter().map(|(runs, _)| *runs))?,
                ns_per_run: Spread::of(values.iter().map(|(_, ns)| *ns))?,
            })
        });
        Ok(Some(Self {
            gross,
            net: net.context("no run")?,
            empty: empty.context("no run")?,
            programs: programs.collect::<Option<_>>().context("no run")?,
        }))
    }
}

fn gross(accounts: &Accounts) -> f64 {
    accounts.programs.iter().map(|program| program.ns as f64).sum()
}

fn net(accounts: &Accounts) -> f64 {
    let empty = accounts.programs.iter().map(|program| {
        let ns = if program.is_classifier { accounts.empty.classifier } else { accounts.empty.tracepoint };
        program.runs as f64 * ns
    });
    gross(accounts) - empty.sum::<f64>()
}
