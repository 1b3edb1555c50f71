//! A new connection reuses the addresses of one in TIME_WAIT: it ends that one, and is reported as
//! a new connection.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::support::{
    agent::{Agent, Event, Report, Watch},
    capture::Capture,
    peer::Peer,
    read_comparison, scenario_capture,
    scrape::samples,
    segment_comparison::{Checksum, compare},
    state_comparison::await_agreement,
    steps::{lifecycles, steps},
    topology::{Network, Topology},
    trial::{self, Need, UnintendedTraffic, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a client reuses its port that is in TIME_WAIT",
            &[trial::AGENT, trial::CAPTURE, &[Need::Setting(REUSE_DELAY)]],
            || check(&CONNECT),
        ),
        trial(
            "a SYN reuses a port with which the server is in TIME_WAIT",
            &[trial::AGENT, trial::CAPTURE],
            || check(&SYN),
        ),
    ]
}

/// Which end reuses an address.
struct Reuse {
    /// As in the name of the capture.
    file: &'static str,
    topology: Topology,
    /// Who closes first, and so has TIME_WAIT.
    role: &'static str,
    /// The evidence for the end of TIME_WAIT.
    evidence: &'static str,
    lifecycle: &'static str,
}

const CONNECT: Reuse = Reuse {
    file: "port_reused_by_connect",
    topology: Topology::LoopbackV4,
    role: "client",
    evidence: "kernel",
    lifecycle: "c:syn s:syn_ack c:handshake_ack c:fin s:ack_of_fin s:fin c:ack_of_fin",
};
const SYN: Reuse = Reuse {
    file: "port_reused_by_syn",
    topology: Topology::LoopbackV6,
    role: "server",
    evidence: "segment",
    lifecycle: "c:syn s:syn_ack c:handshake_ack s:fin c:ack_of_fin c:fin s:ack_of_fin",
};

fn check(reuse: &Reuse) -> Result<()> {
    let network = Network::new(reuse.topology)?;
    let namespace = &network.server;
    if reuse.role == "client" {
        namespace.set(REUSE_DELAY, "1")?;
    }
    let agent = Agent::start(Watch::Inside(namespace), &format!("--port {PORT}"))?;
    let capture = Capture::start(namespace, network.interface, network.address_behind)?;
    let mut server = Peer::spawn(namespace, "server")?;
    let mut client = Peer::spawn(namespace, "client")?;
    let (remote, local) = (network.connect_address(PORT), network.connect_address(CLIENT_PORT));
    server.listen(remote)?;

    for _ in 0..2 {
        client.begin_connect_from(local, remote)?;
        client.end_connect()?;
        server.accept()?;
        await_agreement(namespace, &agent, PORT, &["established", "established"])?;
        let (first, second) =
            if reuse.role == "client" { (&mut client, &mut server) } else { (&mut server, &mut client) };
        first.close()?;
        await_agreement(namespace, &agent, PORT, &["close_wait", "fin_wait2"])?;
        second.close()?;
        await_agreement(namespace, &agent, PORT, &["time_wait"])?;
    }

    let captured = capture.finish()?;
    scenario_capture::keep(reuse.file, &captured)?;
    let steps = steps(&captured.packets);
    let shown = lifecycles(&steps, PORT);
    ensure!(shown == [reuse.lifecycle; 2], UnintendedTraffic(format!("{shown:#?}")));
    let samples = samples(namespace)?;
    let report = agent.stop()?;
    compare(&steps, &report.events, Checksum::Same)?;

    let ends = if reuse.role == "client" { (local, remote) } else { (remote, local) };
    let reported: Vec<_> = report.of_kind("state").filter(|event| is_of(event, ends)).collect();
    check_state_sequences(reuse, &reported)
        .with_context(|| format!("reported of {ends:?}: {reported:#?}"))?;
    for role in ["client", "server"] {
        for kind in ["handshake", "closed"] {
            let reported = report.of_kind(kind).filter(|event| event["role"] == role).count();
            ensure!(reported == 2, "{reported} times {kind} of the {role}: {:#?}", report.events);
        }
        let counted = samples.sum("handshakes_total", &[("port", &PORT.to_string()), ("role", role)])?;
        ensure!(counted == 2, "{counted} handshakes of the {role} are counted");
    }
    check_numbers(&report)?;
    let retransmissions = report.of_kind("segment").filter(|event| event["retransmission"] == true).count();
    ensure!(retransmissions == 0, "no retransmission expected: {:#?}", report.events);
    read_comparison::check_agreement(&report, &captured.file, &steps, |_| true)
}

/// Both ends of each connection have one number, and the two connections different ones.
fn check_numbers(report: &Report) -> Result<()> {
    let mut ends_by_number: BTreeMap<Option<u64>, usize> = BTreeMap::new();
    for event in report.of_kind("closed") {
        *ends_by_number.entry(event["conn"].as_u64()).or_default() += 1;
    }
    let counts: Vec<_> = ends_by_number.values().copied().collect();
    ensure!(
        !ends_by_number.contains_key(&None) && counts == [2, 2],
        "two ends of each of two connections expected: {ends_by_number:?}"
    );
    Ok(())
}

/// The states of two connections, the first of which ends when the second begins.
fn check_state_sequences(reuse: &Reuse, reported: &[&Event]) -> Result<()> {
    let begins = if reuse.role == "client" { "syn_sent" } else { "syn_recv" };
    let lifecycle = [begins, "established", "fin_wait1", "fin_wait2", "time_wait"];
    let expected = [&lifecycle[..], &["close"], &lifecycle[..]].concat();
    let states: Vec<_> = reported.iter().filter_map(|event| event["to"].as_str()).collect();
    ensure!(states == expected, "states {expected:?} expected, not {states:?}");
    let end = reported[lifecycle.len()];
    ensure!(end["evidence"] == reuse.evidence, "evidence {} expected: {end}", reuse.evidence);
    // A timewait socket has the cookie of the full socket that it replaces.
    let cookie = |events: &[&Event]| events.iter().find_map(|event| event["cookie"].as_u64());
    let (first, second) = reported.split_at(lifecycle.len());
    let [first, second] = [first, &second[1..]].map(cookie);
    ensure!(
        end["cookie"].as_u64() == first && first.is_some() && second.is_some() && first != second,
        "the connections are of one socket, or TIME_WAIT is of another"
    );
    Ok(())
}

fn is_of(event: &Event, (local, remote): (SocketAddr, SocketAddr)) -> bool {
    event["local"] == local.to_string().as_str() && event["remote"] == remote.to_string().as_str()
}

const PORT: u16 = 8899;
/// Below the ephemeral ports.
const CLIENT_PORT: u16 = 10_001;
/// After how many milliseconds of TIME_WAIT a client may reuse its address. Before there was this
/// setting, a second (Linux 6.14).
const REUSE_DELAY: &str = "net/ipv4/tcp_tw_reuse_delay";
