//! The last state that was told of each socket is the one that `ss` shows.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result};
use libtest_mimic::Trial;

use crate::{
    agent::{Agent, Event, Watch},
    namespace::Namespace,
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
            format!("FIN_WAIT2 {phrase} of a socket without a process is told as ss shows it"),
            &[trial::AGENT],
            move || orphan_in_fin_wait2(topology),
        ));
    }
    trials
}

fn half_closed_by_shutdown(topology: Topology) -> Result<()> {
    let network = Network::new(topology)?;
    let agent = Agent::start(Watch::Named(&network.server), &format!("--port {PORT}"))?;
    let (mut server, mut client) = connected_pair(&network, PORT)?;
    await_agreement(&network.server, &agent, &["established", "established"])?;

    client.shut_down_write()?;
    await_agreement(&network.server, &agent, &["close_wait", "fin_wait2"])?;

    server.close()?;
    await_agreement(&network.server, &agent, &["time_wait"])?;
    client.close()?;
    agent.stop()?;
    Ok(())
}

fn orphan_in_fin_wait2(topology: Topology) -> Result<()> {
    let network = Network::new(topology)?;
    let agent = Agent::start(Watch::Inside(&network.server), &format!("--port {PORT}"))?;
    let (mut server, mut client) = connected_pair(&network, PORT)?;
    client.close()?;
    await_agreement(&network.server, &agent, &["close_wait", "fin_wait2"])?;

    server.close()?;
    await_agreement(&network.server, &agent, &["time_wait"])?;
    agent.stop()?;
    Ok(())
}

const PORT: u16 = 8899;

/// Awaits that `ss` shows sockets in `states`, in alphabetical order, and the agent the same ones.
fn await_agreement(namespace: &Namespace, agent: &Agent, states: &[&str]) -> Result<()> {
    let rows = namespace.await_sockets(PORT, &states.join(" and "), |rows| {
        let mut shown: Vec<&str> = rows.iter().map(|row| row.state.as_str()).collect();
        shown.sort_unstable();
        shown == states
    })?;
    let shown: BTreeMap<_, _> = rows.into_iter().map(|row| ((row.local, row.remote), row.state)).collect();
    agent
        .events
        .wait_for("agreement with ss", |events| (last_states(events) == shown).then_some(()))
        .with_context(|| {
            let told = agent.events.so_far();
            format!("ss shows {shown:#?}, last told {:#?} in {told:#?}", last_states(&told))
        })
}

/// The sockets that are not closed, listeners left out, by local and remote address.
pub(crate) fn last_states(events: &[Event]) -> BTreeMap<(SocketAddr, SocketAddr), String> {
    let mut states = BTreeMap::new();
    for event in events.iter().filter(|event| event["event"] == "state") {
        let address = |name: &str| event[name].as_str()?.parse::<SocketAddr>().ok();
        let (Some(local), Some(remote), Some(to)) =
            (address("local"), address("remote"), event["to"].as_str())
        else {
            continue;
        };
        // A client that has no port yet is in no table: its next event names the port.
        if to == "close" || to == "listen" {
            states.remove(&(local, remote));
        } else if local.port() != 0 {
            states.insert((local, remote), to.to_owned());
        }
    }
    states
}
