//! Reconciliation: after a workload of thousands of connections, the agent's counters are the kernel's, to the last one.
//!
//! `KERNEL_SUITE_SEED=n` plays the workload of that seed alone, `KERNEL_SUITE_SOAK=seconds` one after the other for that
//! long.

use std::{
    env,
    process::Stdio,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use libtest_mimic::Trial;

use crate::{
    actor::ports_of,
    counting::Counting,
    feed::DEADLINE,
    identities::{Faults, Reckoning, check_veth},
    stage::{Side, Stage},
    trial::{self, attempt, trial},
    workload::{self, ACTORS},
};

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[trial::AGENT, trial::WIRE];
    if let Some(seed) = number("KERNEL_SUITE_SEED") {
        return vec![trial(format!("the workload of seed {seed} adds up"), needs, move || reconcile(seed))];
    }
    let mut trials: Vec<_> = (1..=SEEDS)
        .map(|seed| trial(format!("workload {seed} adds up"), needs, move || reconcile(seed)))
        .collect();
    if let Some(seconds) = number("KERNEL_SUITE_SOAK") {
        trials.push(trial("workloads add up for as long as asked", needs, move || soak(seconds)));
    }
    trials
}

fn soak(seconds: u64) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    while Instant::now() < end {
        seed = seed.wrapping_add(1);
        attempt(|| reconcile(seed))?;
    }
    Ok(())
}

fn reconcile(seed: u64) -> Result<()> {
    play(seed).with_context(|| format!("KERNEL_SUITE_SEED={seed} does it again"))
}

fn play(seed: u64) -> Result<()> {
    let stage = Stage::new()?;
    let output = if seed.is_multiple_of(5) { "json" } else { "none" };
    // All ports, or those of the workload.
    let ports = if seed.is_multiple_of(2) { String::new() } else { format!(" --port {}", ports_of(ACTORS)) };
    let start = |side| {
        let arguments = format!("--output {output}{ports}");
        Counting::start(stage.namespace(side), &arguments, Stdio::null())
    };
    let agents = [start(Side::Server)?, start(Side::Client)?];
    let before = [Side::Server, Side::Client].map(|side| stage.namespace(side).tcp_counters());
    let before = before.into_iter().collect::<Result<Vec<_>>>()?;
    let books = workload::play(&stage, seed, |_| Ok(()))?;

    let deadline = Instant::now() + DEADLINE;
    loop {
        let [server, client] = &agents;
        let samples = [server.samples()?, client.samples()?];
        let mut complaints = Vec::new();
        for ((side, samples), before) in Side::BOTH.into_iter().zip(&samples).zip(&before) {
            let mut kernel = stage.namespace(side).tcp_counters()?;
            kernel.iter_mut().for_each(|(name, count)| *count -= before.get(name).copied().unwrap_or(0));
            let books = books.of(side);
            let faults = Reckoning { agent: samples, kernel: &kernel, books: &books }.check()?;
            if let Err(fault) = faults.none() {
                complaints.push(format!("{side:?}: {fault}"));
            }
        }
        let mut veth = Faults::default();
        check_veth(&mut veth, &samples[0], &samples[1]);
        if let Err(fault) = veth.none() {
            complaints.push(fault.to_string());
        }
        if complaints.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            bail!("{}", complaints.join("\n"));
        }
        // The agent finds some seconds later which half-open requests were given up.
        thread::sleep(Duration::from_millis(200));
    }
    for agent in agents {
        agent.stop()?;
    }
    Ok(())
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// How many workloads are tried each time.
const SEEDS: u64 = 10;
