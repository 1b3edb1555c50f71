//! In a time namespace the agent's monotonic clock is another one than that of the kernel programs.

use std::{
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use libtest_mimic::Trial;

use crate::support::{
    agent::{Agent, agent_path, await_attached},
    topology::{Network, Topology},
    traffic::connected_pair,
    trial::{self, Need, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "in a time namespace the agent shows the time of day and the right durations",
        &[trial::AGENT, &[Need::Tool("unshare")]],
        times_and_durations,
    )]
}

fn times_and_durations() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    // A day ahead; and the connection that exists already is dated by the other clock, too.
    let existing = connected_pair(&network, PORT)?;
    let mut command = Command::new("unshare");
    command.args(["--time", "--monotonic", "86400", "--boottime", "86400"]).arg(agent_path());
    command.args(["--netns", network.server.name(), "--listen", "none", "--output", "json"]);
    let agent = Agent::spawn(&mut command)?;
    await_attached(&agent.process, &agent.messages)?;

    let begin = now();
    let (mut server, mut client) = connected_pair(&network, PORT + 1)?;
    client.close()?;
    server.close()?;
    agent.events.wait_for("the end of the connection", |events| {
        events.iter().any(|event| event["event"] == "closed" && event["role"] == "server").then_some(())
    })?;
    let end = now();
    drop(existing);
    let report = agent.stop()?;

    ensure!(!report.events.is_empty(), "no events");
    let (earliest, latest) = (begin - TOLERANCE, end + TOLERANCE);
    for event in report.events.iter().filter(|event| event.to_string().contains(&format!(":{}", PORT + 1))) {
        let time: Timestamp = event["time"].as_str().context("no time")?.parse()?;
        let time = Duration::try_from(time.duration_since(Timestamp::UNIX_EPOCH))?;
        ensure!((earliest..=latest).contains(&time), "not from {earliest:?} to {latest:?}: {event}");
        for field in ["duration_us", "state_duration_us"] {
            let duration = event[field].as_u64().map(Duration::from_micros);
            ensure!(duration.is_none_or(|duration| duration <= end - begin), "it is too long: {event}");
        }
    }
    let closed = report.of_kind("closed").filter(|event| event["duration_us"].is_u64()).count();
    ensure!(closed >= 2, "both ends report how long the connection lasted: {:#?}", report.events);
    Ok(())
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

const PORT: u16 = 8899;
const TOLERANCE: Duration = Duration::from_secs(1);
