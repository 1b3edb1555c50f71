//! Reconciliation: after a workload of thousands of connections the agent's counters equal the
//! kernel's exactly.
//!
//! `KERNEL_SUITE_SEED=n` runs only the workload of that seed, `KERNEL_SUITE_SOAK=seconds` one after
//! the other for that long.

use std::{
    collections::BTreeMap,
    env,
    process::Stdio,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::{
    support::{
        command_line::command_with,
        deadline::Deadline,
        scrape::Samples,
        scraped_agent::ScrapedAgent,
        testbed::{ExpectedCounts, Side, Testbed},
        trial::{self, attempt, trial},
    },
    workload::{
        identities::{Mismatches, Observed, check_veth},
        record_balance::{check_records, records_read},
        run::{self, WORKERS},
        worker::ports_of,
    },
};

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[trial::AGENT, trial::TUN];
    if let Some(seed) = number("KERNEL_SUITE_SEED") {
        return MODES
            .iter()
            .map(|mode| trial(mode.title(seed), needs, move || reconcile(seed, mode)))
            .collect();
    }
    if let Some(seconds) = number("KERNEL_SUITE_SOAK") {
        return vec![trial("workloads add up for KERNEL_SUITE_SOAK seconds", needs, move || soak(seconds))];
    }
    let seeds = MODES.iter().flat_map(|mode| (1..=mode.seeds).map(move |seed| (seed, mode)));
    seeds.map(|(seed, mode)| trial(mode.title(seed), needs, move || reconcile(seed, mode))).collect()
}

/// How agents run while they count.
struct Mode {
    name: &'static str,
    /// How many workloads are tried each time.
    seeds: u64,
    arguments: &'static str,
    /// The agent is stopped for the second of three parts.
    stopped: bool,
}

const MODES: [Mode; 4] = [
    Mode { name: "adds up", seeds: 10, arguments: "--output none", stopped: false },
    Mode {
        name: "adds up with an agent that is stopped meanwhile",
        seeds: 1,
        arguments: "--output json",
        stopped: true,
    },
    Mode {
        name: "adds up with a ring buffer of 4 KiB",
        seeds: 2,
        arguments: "--output json --ring-size 4096",
        stopped: false,
    },
    Mode {
        name: "adds up with a ring buffer of 4 KiB that is not read",
        seeds: 1,
        arguments: "--output json --ring-size 4096",
        stopped: true,
    },
];

impl Mode {
    fn title(&self, seed: u64) -> String {
        format!("workload {seed} {}", self.name)
    }

    /// Whether the ring buffer is too small for the records made meanwhile.
    fn must_lose_records(&self) -> bool {
        self.stopped && self.arguments.contains("4096")
    }
}

fn soak(seconds: u64) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    for mode in MODES.iter().cycle() {
        if Instant::now() >= end {
            break;
        }
        seed = seed.wrapping_add(1);
        attempt(|| reconcile(seed, mode)).with_context(|| {
            let variables = vec![("KERNEL_SUITE_SEED".to_owned(), seed.to_string())];
            format!("seed {seed}; to run it again:\n    {}\n", command_with(variables, &mode.title(seed)))
        })?;
    }
    Ok(())
}

fn reconcile(seed: u64, mode: &Mode) -> Result<()> {
    let testbed = Testbed::new()?;
    // All ports, or those of the workload.
    let ports = if seed.is_multiple_of(2) { String::new() } else { format!(" --port {}", ports_of(WORKERS)) };
    let arguments = format!("{}{ports}", mode.arguments);
    let start = |side| ScrapedAgent::start(testbed.namespace(side), &arguments, Stdio::null());
    let agents = [start(Side::Server)?, start(Side::Client)?];
    let before = Side::BOTH.map(|side| testbed.namespace(side).tcp_counters());
    let before = before.into_iter().collect::<Result<Vec<_>>>()?;
    let expected_counts = run::run(&testbed, seed, |part| {
        if mode.stopped {
            let signal = if part == 1 { Signal::STOP } else { Signal::CONT };
            agents.iter().try_for_each(|agent| agent.process.signal(signal))?;
        }
        Ok(())
    })?;

    // The agent finds some seconds later which half-open requests were given up.
    let mut deadline = Deadline::new().with_patience(NEXT_DUMP);
    let samples = loop {
        let samples = [agents[0].samples()?, agents[1].samples()?];
        let complaints = complaints(&testbed, &before, &expected_counts, &samples)?;
        if complaints.is_empty() {
            break samples;
        }
        deadline.observe(&complaints);
        deadline.check().with_context(|| complaints.join("\n"))?;
        thread::sleep(Duration::from_millis(200));
    };
    for (agent, samples) in agents.into_iter().zip(&samples) {
        let messages = agent.stop()?;
        if !mode.arguments.contains("none") {
            check_records(samples, records_read(&messages)?)?;
            let lost = samples.sum("events_lost_total", &[])?;
            ensure!(lost > 0 || !mode.must_lose_records() || run::is_partial(), "no record was lost");
        }
    }
    Ok(())
}

/// The counts that do not add up yet.
fn complaints(
    testbed: &Testbed,
    before: &[BTreeMap<String, u64>],
    expected_counts: &ExpectedCounts,
    samples: &[Samples; 2],
) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for ((side, samples), before) in Side::BOTH.into_iter().zip(samples).zip(before) {
        let namespace = testbed.namespace(side);
        let mut kernel = namespace.tcp_counters()?;
        kernel.iter_mut().for_each(|(name, count)| *count -= before.get(name).copied().unwrap_or(0));
        let expected = expected_counts.of(side);
        let sockets = namespace.all_sockets()?;
        let mismatches =
            Observed { agent: samples, kernel: &kernel, expected: &expected, sockets: &sockets }.check()?;
        if let Err(fault) = mismatches.none() {
            complaints.push(format!("{side:?}: {fault}"));
        }
    }
    let mut veth = Mismatches::default();
    check_veth(&mut veth, &samples[0], &samples[1]);
    if let Err(fault) = veth.none() {
        complaints.push(fault.to_string());
    }
    Ok(complaints)
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// Long enough for the agent's next dump of sockets on a busy machine; on a quiet one there is one
/// every two seconds.
const NEXT_DUMP: Duration = Duration::from_secs(20);
