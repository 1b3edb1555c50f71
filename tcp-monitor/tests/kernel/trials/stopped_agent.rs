//! Counters do not depend on the ring buffer: an agent that is stopped loses records, and no count.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::support::{
    agent::{Agent, Watch},
    peer::Peer,
    scrape::samples,
    topology::{Network, Topology},
    trial::{self, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "an agent that was stopped has counted everything and reports what it lost",
            &[trial::AGENT],
            stopped,
        ),
        trial(
            "records of new connections leave room for the record of another connection's reset",
            &[trial::AGENT],
            suppressed_records,
        ),
        trial(
            "the option --bpf-stats counts the runs of the kernel programs",
            &[trial::AGENT],
            program_costs,
        ),
    ]
}

fn stopped() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let agent = Agent::start(Watch::Inside(&network.server), &format!("--port {PORT} --ring-size 4096"))?;
    agent.process.signal(Signal::STOP)?;
    connect_often(&network)?;
    let kernel = network.server.tcp_counters()?;
    agent.process.signal(Signal::CONT)?;

    let samples = samples(&network.server)?;
    for role in ["server", "client"] {
        let handshakes = samples.sum("handshakes_total", &[("role", role)])?;
        ensure!(handshakes == CONNECTIONS, "{handshakes} handshakes of the {role}");
    }
    let resets = samples.sum("resets_total", &[("direction", "sent")])?;
    ensure!(
        Some(&resets) == kernel.get("OutRsts"),
        "{resets} resets, the kernel: {:?}",
        kernel.get("OutRsts")
    );
    let lost = samples.sum("events_lost_total", &[])?;
    let suppressed = samples.sum("events_suppressed_total", &[])?;
    ensure!(lost > 0 && suppressed > 0, "{lost} lost, {suppressed} suppressed: no record was lost");

    let report = agent.stop()?;
    let reported: u64 = report.of_kind("lost").filter_map(|event| event["count"].as_u64()).sum();
    ensure!(reported == lost + suppressed, "{reported} of {lost} and {suppressed} lost records are reported");
    Ok(())
}

fn suppressed_records() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let agent = Agent::start(Watch::Inside(&network.server), &format!("--port {PORT} --ring-size 65536"))?;
    let mut server = Peer::spawn(&network.server, "server")?;
    server.listen(network.listen_address(PORT))?;
    let mut other = Peer::spawn(&network.client, "other")?;
    let ends = other.connect(network.connect_address(PORT))?;

    agent.process.signal(Signal::STOP)?;
    let mut client = Peer::spawn(&network.client, "client")?;
    for _ in 0..4 * CONNECTIONS {
        client.connect(network.connect_address(PORT))?;
        client.close()?;
    }
    other.abort()?;
    agent.process.signal(Signal::CONT)?;

    let samples = samples(&network.server)?;
    for kind in ["state", "segment"] {
        let suppressed = samples.sum("events_suppressed_total", &[("kind", kind)])?;
        ensure!(suppressed > 0, "the ring buffer had room for every {kind} record");
    }
    let lost = samples.sum("events_lost_total", &[])?;
    ensure!(lost == 0, "{lost} records found the ring buffer full");
    let report = agent.stop()?;
    for (direction, local) in [("sent", ends.local), ("received", ends.remote)] {
        let local = local.to_string();
        let reported = report
            .of_kind("reset")
            .filter(|event| event["direction"] == direction && event["local"] == local.as_str())
            .count();
        ensure!(reported == 1, "the RST {direction} by {local} is reported {reported} times");
    }
    Ok(())
}

fn program_costs() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let agent = Agent::start(Watch::Inside(&network.server), &format!("--port {PORT} --bpf-stats"))?;
    connect_often(&network)?;
    let samples = samples(&network.server)?;
    for program in ["inet_sock_set_state", "tcp_monitor_egress"] {
        let runs = samples.sum("bpf_runs_total", &[("program", program)])?;
        ensure!(runs >= CONNECTIONS, "{program} ran {runs} times");
    }
    agent.stop()?;
    Ok(())
}

fn connect_often(network: &Network) -> Result<()> {
    let mut server = Peer::spawn(&network.server, "server")?;
    let mut client = Peer::spawn(&network.client, "client")?;
    server.listen(network.listen_address(PORT))?;
    for _ in 0..CONNECTIONS {
        client.connect(network.connect_address(PORT))?;
        server.accept()?;
        client.abort()?;
        server.close()?;
    }
    network.await_no_traffic(PORT)
}

const PORT: u16 = 8899;
const CONNECTIONS: u64 = 20;
