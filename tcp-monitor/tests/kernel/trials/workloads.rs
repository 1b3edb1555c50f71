//! Reconciliation: after a workload of thousands of connections, the agent's counters are the kernel's, to the last one.
//!
//! `KERNEL_SUITE_SEED=n` plays the workload of that seed alone, `KERNEL_SUITE_SOAK=seconds` one after the other for that
//! long.

use std::{
    collections::BTreeMap,
    env,
    process::Stdio,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::{
    support::{
        command_line::command_with,
        scrape::Samples,
        scraped_agent::ScrapedAgent,
        testbed::{ExpectedCounts, Side, Testbed},
        trial::{self, attempt, trial},
    },
    workload::{
        identities::{Mismatches, Reckoning, check_veth},
        record_balance::{check_records, records_read},
        run::{self, WORKERS},
        worker::ports_of,
    },
};

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[trial::AGENT, trial::TUN];
    if let Some(seed) = number("KERNEL_SUITE_SEED") {
        return WAYS.iter().map(|way| trial(way.title(seed), needs, move || reconcile(seed, way))).collect();
    }
    if let Some(seconds) = number("KERNEL_SUITE_SOAK") {
        return vec![trial("workloads add up for as long as asked", needs, move || soak(seconds))];
    }
    let seeds = WAYS.iter().flat_map(|way| (1..=way.seeds).map(move |seed| (seed, way)));
    seeds.map(|(seed, way)| trial(way.title(seed), needs, move || reconcile(seed, way))).collect()
}

/// What agents go through while they count.
struct Direction {
    name: &'static str,
    /// How many workloads are tried each time.
    seeds: u64,
    arguments: &'static str,
    /// Standard output is not read, and nothing else runs either, for the second of three parts.
    stopped: bool,
}

const WAYS: [Direction; 4] = [
    Direction { name: "adds up", seeds: 10, arguments: "--output none", stopped: false },
    Direction {
        name: "adds up though the agent is stopped meanwhile",
        seeds: 1,
        arguments: "--output json",
        stopped: true,
    },
    Direction {
        name: "adds up though the ring buffer has 4 KiB",
        seeds: 2,
        arguments: "--output json --ring-size 4096",
        stopped: false,
    },
    Direction {
        name: "adds up though nobody empties a ring buffer of 4 KiB",
        seeds: 1,
        arguments: "--output json --ring-size 4096",
        stopped: true,
    },
];

impl Direction {
    fn title(&self, seed: u64) -> String {
        format!("workload {seed} {}", self.name)
    }

    /// The ring buffer cannot hold what happens meanwhile.
    fn must_lose_records(&self) -> bool {
        self.stopped && self.arguments.contains("4096")
    }
}

fn soak(seconds: u64) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    for way in WAYS.iter().cycle() {
        if Instant::now() >= end {
            break;
        }
        seed = seed.wrapping_add(1);
        attempt(|| reconcile(seed, way))?;
    }
    Ok(())
}

fn reconcile(seed: u64, way: &Direction) -> Result<()> {
    play(seed, way).with_context(|| {
        let variables = vec![("KERNEL_SUITE_SEED".to_owned(), seed.to_string())];
        format!("seed {seed}, which this repeats:\n    {}\n", command_with(variables, &way.title(seed)))
    })
}

fn play(seed: u64, way: &Direction) -> Result<()> {
    let testbed = Testbed::new()?;
    // All ports, or those of the workload.
    let ports = if seed.is_multiple_of(2) { String::new() } else { format!(" --port {}", ports_of(WORKERS)) };
    let arguments = format!("{}{ports}", way.arguments);
    let start = |side| ScrapedAgent::start(testbed.namespace(side), &arguments, Stdio::null());
    let agents = [start(Side::Server)?, start(Side::Client)?];
    let before = Side::BOTH.map(|side| testbed.namespace(side).tcp_counters());
    let before = before.into_iter().collect::<Result<Vec<_>>>()?;
    let books = run::play(&testbed, seed, |part| {
        if way.stopped {
            let signal = if part == 1 { Signal::STOP } else { Signal::CONT };
            agents.iter().try_for_each(|agent| agent.job.signal(signal))?;
        }
        Ok(())
    })?;

    let deadline = Instant::now() + SETTLES;
    let samples = loop {
        let samples = [agents[0].samples()?, agents[1].samples()?];
        let complaints = complaints(&testbed, &before, &books, &samples)?;
        if complaints.is_empty() {
            break samples;
        }
        if Instant::now() > deadline {
            bail!("{}", complaints.join("\n"));
        }
        // The agent finds some seconds later which half-open requests were given up.
        thread::sleep(Duration::from_millis(200));
    };
    for (agent, samples) in agents.into_iter().zip(&samples) {
        let messages = agent.stop()?;
        if !way.arguments.contains("none") {
            check_records(samples, records_read(&messages)?)?;
            let lost = samples.sum("events_lost_total", &[])?;
            ensure!(lost > 0 || !way.must_lose_records() || run::is_partial(), "the ring buffer took it all");
        }
    }
    Ok(())
}

/// What does not add up yet.
fn complaints(
    testbed: &Testbed,
    before: &[BTreeMap<String, u64>],
    books: &ExpectedCounts,
    samples: &[Samples; 2],
) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for ((side, samples), before) in Side::BOTH.into_iter().zip(samples).zip(before) {
        let namespace = testbed.namespace(side);
        let mut kernel = namespace.tcp_counters()?;
        kernel.iter_mut().for_each(|(name, count)| *count -= before.get(name).copied().unwrap_or(0));
        let expected = books.of(side);
        let sockets = namespace.all_sockets()?;
        let mismatches =
            Reckoning { agent: samples, kernel: &kernel, expected: &expected, sockets: &sockets }.check()?;
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

/// A half-open request lasts for three seconds, and the agent finds some two seconds later that it was given up.
const SETTLES: Duration = Duration::from_secs(10);
