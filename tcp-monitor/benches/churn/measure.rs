//! One run: a monitor, the traffic, and what both have used when the monitor has read all.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::baseline::BaselineRuns;
use crate::machine::{self, Cpus};
use crate::monitors::{Monitor, Report, Running};
use crate::options::Conditions;
use crate::programs::{self, Accounting, ProgramCost, Programs};
use crate::site::Site;
use crate::traffic::{self, Traffic};

/// What a run has shown.
pub(crate) struct Run {
    pub(crate) traffic: Traffic,
    /// Time of all CPUs, whatever used it.
    pub(crate) total_cpu: Duration,
    /// Time that the monitor's process computed.
    pub(crate) own_cpu: Duration,
    pub(crate) report: Report,
    pub(crate) accounts: Option<Accounts>,
}

/// What the programs cost, by the kernel's accounting.
pub(crate) struct Accounts {
    pub(crate) programs: Vec<ProgramCost>,
    /// What an empty program is accounted with.
    pub(crate) empty: BaselineRuns,
}

/// Runs the traffic under a monitor, in fresh namespaces.
pub(crate) fn measure(conditions: &Conditions, monitor: &Monitor, account: bool) -> Result<Run> {
    if !conditions.force {
        machine::await_idle()?;
    }
    let site = Site::new(conditions.network)?;
    let listener = traffic::listen(&site)?;
    let running = monitor.start(&site, &listener)?;
    let programs = running.pid().map_or(Ok(Programs::default()), Programs::of)?;
    let accounting = if account { Some(Accounting::start(&site)?) } else { None };

    let costs_before = programs.costs()?;
    let own_before = running.cpu_time()?;
    let cpus = Cpus::now()?;
    let traffic = traffic::run(&site, &listener, conditions)?;
    await_drained(&running)?;
    let total_cpu = cpus.used()?;
    let own_cpu = running.cpu_time()? - own_before;
    let accounts = match &accounting {
        Some(accounting) => Some(Accounts {
            programs: programs::since(&costs_before, programs.costs()?),
            empty: accounting.empty()?,
        }),
        None => None,
    };
    let report = monitor.stop(running, &site, conditions.network)?;
    ensure!(traffic.connections > 0, "no connection was made");
    Ok(Run { traffic, total_cpu, own_cpu, report, accounts })
}

/// Waits until the monitor has nothing more to read: it computes no more than when it is idle.
fn await_drained(running: &Running) -> Result<()> {
    let begun = Instant::now();
    let mut before = running.cpu_time()?;
    loop {
        thread::sleep(OBSERVED);
        let now = running.cpu_time()?;
        if now - before < IDLE {
            return Ok(());
        }
        before = now;
        ensure!(begun.elapsed() < PATIENCE, "the monitor is not done {PATIENCE:?} after the traffic");
    }
}

const OBSERVED: Duration = Duration::from_millis(150);
/// What an idle monitor computes meanwhile, at most.
const IDLE: Duration = Duration::from_millis(3);
const PATIENCE: Duration = Duration::from_secs(120);
