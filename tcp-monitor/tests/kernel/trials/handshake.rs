//! A completed handshake is reported once by each end. CONTRIBUTING.md explains this file line by
//! line.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::support::{
    agent::{Agent, Watch},
    topology::{Network, Topology},
    traffic,
    trial::{self, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("a handshake is reported once by each end", &[trial::AGENT], once_by_each_end)]
}

fn once_by_each_end() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let agent = Agent::start(Watch::Inside(&network.server), "--port 8899")?;
    traffic::greeting(&network, 8899)?;
    network.await_no_traffic(8899)?;
    let report = agent.stop()?;
    let mut roles: Vec<_> = report.of_kind("handshake").map(|event| event["role"].as_str()).collect();
    roles.sort_unstable();
    ensure!(roles == [Some("client"), Some("server")], "{:#?}", report.events);
    Ok(())
}
