//! The last state that the agent reports of each socket is the one that `ss` shows.

use anyhow::Result;
use libtest_mimic::Trial;

use crate::support::{
    agent::{Agent, Watch},
    state_comparison::await_agreement,
    topology::{Network, Topology},
    traffic::connected_pair,
    trial::{self, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for topology in [Topology::LoopbackV4, Topology::LoopbackV6, Topology::LoopbackMapped] {
        let phrase = topology.phrase();
        trials.push(trial(
            format!("states {phrase} agree with ss while a connection is open, half-closed and closed"),
            &[trial::AGENT],
            move || half_closed_by_shutdown(topology),
        ));
        trials.push(trial(
            format!("FIN_WAIT2 {phrase} of a timewait socket is reported as ss shows it"),
            &[trial::AGENT],
            move || fin_wait2_without_process(topology),
        ));
    }
    trials
}

fn half_closed_by_shutdown(topology: Topology) -> Result<()> {
    let network = Network::new(topology)?;
    let agent = Agent::start(Watch::Named(&network.server), &format!("--port {PORT}"))?;
    let (mut server, mut client) = connected_pair(&network, PORT)?;
    await_agreement(&network.server, &agent, PORT, &["established", "established"])?;

    client.shut_down_write()?;
    await_agreement(&network.server, &agent, PORT, &["close_wait", "fin_wait2"])?;

    server.close()?;
    await_agreement(&network.server, &agent, PORT, &["time_wait"])?;
    client.close()?;
    agent.stop()?;
    Ok(())
}

fn fin_wait2_without_process(topology: Topology) -> Result<()> {
    let network = Network::new(topology)?;
    let agent = Agent::start(Watch::Inside(&network.server), &format!("--port {PORT}"))?;
    let (mut server, mut client) = connected_pair(&network, PORT)?;
    client.close()?;
    await_agreement(&network.server, &agent, PORT, &["close_wait", "fin_wait2"])?;

    server.close()?;
    await_agreement(&network.server, &agent, PORT, &["time_wait"])?;
    agent.stop()?;
    Ok(())
}

const PORT: u16 = 8899;
