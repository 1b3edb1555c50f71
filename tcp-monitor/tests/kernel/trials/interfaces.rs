//! Interfaces that appear and disappear while the agent runs.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;

use crate::support::{
    agent::{Agent, Watch},
    namespace::Namespace,
    peer::Peer,
    topology::{Network, Topology},
    traffic,
    trial::{self, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "an interface that appears is watched, and the agent continues when one disappears",
            &[trial::AGENT],
            interface_comes_and_goes,
        ),
        trial("with --interface only that interface is watched", &[trial::AGENT], only_the_named_interface),
    ]
}

fn interface_comes_and_goes() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let far = Namespace::new()?;
    let agent = Agent::start(Watch::Inside(&network.server), &format!("--port {PORT}"))?;
    network.server.ip(&format!("link add {LATE} type veth peer name far0 netns {}", far.name()))?;
    network.server.ip(&format!("addr add 192.0.2.1/24 dev {LATE}"))?;
    network.server.ip(&format!("link set {LATE} up"))?;
    far.ip("addr add 192.0.2.2/24 dev far0")?;
    far.ip("link set far0 up")?;

    await_segment_on_late_interface(&agent, &network.server, &far)?;

    network.server.ip(&format!("link del {LATE}"))?;
    traffic::greeting(&network, PORT)?;
    network.await_no_traffic(PORT)?;
    let report = agent.stop()?;
    let on_loopback = report.of_kind("segment").filter(|event| event["interface"] == "lo").count();
    ensure!(on_loopback >= 6, "{on_loopback} segments on lo afterwards: {:#?}", report.events);
    Ok(())
}

/// The agent attaches to the interface some time after it is up, and reports nothing then. So
/// connections are made until one is reported.
fn await_segment_on_late_interface(agent: &Agent, near: &Namespace, far: &Namespace) -> Result<()> {
    let mut server = Peer::spawn(near, "server")?;
    let mut client = Peer::spawn(far, "client")?;
    let address = "192.0.2.1:8899".parse()?;
    server.listen(address)?;
    for _ in 0..30 {
        client.connect(address)?;
        server.accept()?;
        client.abort()?;
        server.close()?;
        let seen = agent.events.find_within(Duration::from_millis(300), |events| {
            events.iter().any(|event| event["event"] == "segment" && event["interface"] == LATE).then_some(())
        });
        if seen.is_some() {
            return Ok(());
        }
    }
    bail!("no segment is reported of {LATE}: {:#?} {:#?}", agent.events.so_far(), agent.messages.so_far());
}

fn only_the_named_interface() -> Result<()> {
    let network = Network::new(Topology::VethV4)?;
    let agent =
        Agent::start(Watch::Inside(&network.server), &format!("--port {PORT} --interface veth-server"))?;
    traffic::greeting(&network, PORT)?;
    network.await_no_traffic(PORT)?;
    let mut local = Peer::spawn(&network.server, "local")?;
    ensure!(local.connect(format!("127.0.0.1:{PORT}").parse()?).is_err(), "no listener on loopback");
    let report = agent.stop()?;
    let mut interfaces: Vec<_> = report.of_kind("segment").map(|event| event["interface"].as_str()).collect();
    interfaces.dedup();
    ensure!(interfaces == [Some("veth-server")], "segments on {interfaces:?}: {:#?}", report.events);
    Ok(())
}

const PORT: u16 = 8899;
/// The interface that appears later.
const LATE: &str = "late0";
