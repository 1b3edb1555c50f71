//! Which ports are watched, and that no other is reported or counted.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::support::{
    agent::{Agent, Event, Watch},
    capture::Capture,
    scrape::samples,
    segment_comparison::{Checksum, compare},
    steps::steps,
    topology::{Network, Topology},
    traffic,
    trial::{self, trial},
    tshark_packet::Packet,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "two ports and a range are watched, and no neighbouring port",
        &[trial::AGENT, trial::CAPTURE],
        two_ports_and_a_range,
    )]
}

fn two_ports_and_a_range() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let agent = Agent::start(Watch::Inside(&network.server), "--port 8899 --port 9000 --port 12000-12010")?;
    let capture = Capture::start(&network.client, network.interface, network.address_behind)?;
    for port in WATCHED.into_iter().chain(OTHERS) {
        traffic::greeting(&network, port)?;
        traffic::client_resets(&network, port)?;
        network.await_no_traffic(port)?;
        traffic::refused_port(&network, port)?;
    }
    let packets = capture.finish()?.packets;
    let samples = samples(&network.server)?;
    let report = agent.stop()?;

    let is_watched =
        |packet: &Packet| WATCHED.iter().any(|port| [packet.src.port(), packet.dst.port()].contains(port));
    let watched: Vec<Packet> = packets.iter().filter(|packet| is_watched(packet)).cloned().collect();
    ensure!(watched.len() < packets.len() && !watched.is_empty(), "the traffic is not as intended");
    let steps = steps(&watched);
    compare(&steps, &report.events, Checksum::Same)?;
    for event in &report.events {
        let ports = ports(event);
        ensure!(
            ports.iter().any(|port| WATCHED.contains(port))
                && !ports.iter().any(|port| OTHERS.contains(port)),
            "this is not watched: {event}"
        );
    }

    for port in samples.label_values("port") {
        let number: u16 = port.parse().unwrap_or(0);
        ensure!(
            port == "other" || WATCHED.contains(&number) || (12000..=12010).contains(&number),
            "port {port} is counted"
        );
    }
    for port in WATCHED {
        let handshakes =
            samples.sum("handshakes_total", &[("port", &port.to_string()), ("role", "server")])?;
        ensure!(handshakes == 2, "{handshakes} handshakes on port {port}");
    }
    ensure!(samples.sum_or_zero("handshakes_total", &[("port", "other")]) == 0, "other ports are counted");
    let segments = samples.sum("segments_total", &[("interface", "lo"), ("direction", "egress")])?;
    let is_counted = |name: &str| name != "handshake_ack" && name != "ack_of_fin";
    let captured = steps.iter().filter(|step| is_counted(step.name)).count();
    ensure!(segments == captured as u64, "{segments} segments counted, {captured} captured");
    Ok(())
}

/// The ports of every address in an event.
fn ports(event: &Event) -> Vec<u16> {
    ["local", "remote", "src", "dst"]
        .iter()
        .filter_map(|name| event[*name].as_str()?.rsplit_once(':')?.1.parse().ok())
        .collect()
}

const WATCHED: [u16; 4] = [8899, 9000, 12000, 12010];
const OTHERS: [u16; 4] = [8898, 9001, 11999, 12011];
