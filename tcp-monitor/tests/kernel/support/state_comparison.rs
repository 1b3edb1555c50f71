//! Compares the last state that the agent reported of each socket with the one that `ss` shows.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result};

use crate::support::{
    agent::{Agent, Event},
    namespace::Namespace,
};

/// States by local and remote address.
pub(crate) type States = BTreeMap<(SocketAddr, SocketAddr), String>;

/// Waits until `ss` shows sockets of `port` in `states`, in alphabetical order, and the agent the
/// same ones.
pub(crate) fn await_agreement(
    namespace: &Namespace,
    agent: &Agent,
    port: u16,
    states: &[&str],
) -> Result<States> {
    let rows = namespace.await_sockets(port, &states.join(" and "), |rows| {
        let mut shown: Vec<&str> = rows.iter().map(|row| row.state.as_str()).collect();
        shown.sort_unstable();
        shown == states
    })?;
    let shown: States = rows.into_iter().map(|row| ((row.local, row.remote), row.state)).collect();
    agent
        .events
        .wait_for("the states that ss shows", |events| (last_states(events, port) == shown).then_some(()))
        .with_context(|| {
            let reported = agent.events.so_far();
            format!("ss shows {shown:#?}, last reported {:#?} in {reported:#?}", last_states(&reported, port))
        })?;
    Ok(shown)
}

/// The sockets of `port` that are not closed, listeners left out.
pub(crate) fn last_states(events: &[Event], port: u16) -> States {
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
        } else if local.port() != 0 && [local.port(), remote.port()].contains(&port) {
            states.insert((local, remote), to.to_owned());
        }
    }
    states
}
