//! Every kind of traffic on every topology: the agent prints the segments that tshark shows, and no
//! others. It reports the states and ends of the sockets, and `tcp-monitor read` reports the same
//! of a capture.

use std::{collections::BTreeMap, env};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::support::{
    agent::{Agent, Event, Report, Watch},
    capture::Capture,
    namespace::Namespace,
    read_comparison, scenario_capture,
    segment_comparison::{Checksum, compare},
    steps::{Step, steps},
    topology::{Network, Topology},
    traffic::{self, End, Traffic},
    trial::{self, trial},
    unique_port::unique_port,
};

/// With this variable set, the agent is not started: the traffic and the capture are tried alone.
const CAPTURE_ONLY: &str = "KERNEL_SUITE_CAPTURE_ONLY";

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for traffic in traffic::ALL {
        for topology in Topology::ALL {
            let name = format!("{} {} is reported as tshark shows it", traffic.phrase, topology.phrase());
            trials.push(trial(name, &[trial::AGENT, trial::CAPTURE], move || check(traffic, topology)));
        }
    }
    trials
}

fn check(traffic: &Traffic, topology: Topology) -> Result<()> {
    let network = Network::new(topology)?;
    // Each way to select a namespace is used. Where all are watched, the port must be unique.
    let both: [&Namespace; 2] = [&network.client, &network.server];
    let (watch, port) = match topology {
        Topology::LoopbackV4 => (Watch::Named(&network.server), traffic.port),
        Topology::LoopbackV6 | Topology::LoopbackMapped => (Watch::Inside(&network.server), traffic.port),
        Topology::VethV4 => (Watch::AllOf(&both), unique_port()),
        Topology::VethV6 => (Watch::Named(&network.server), traffic.port),
    };
    let roles: &[&str] = if topology == Topology::VethV6 { &["server"] } else { &["server", "client"] };

    let agent = match env::var_os(CAPTURE_ONLY) {
        None => Some(Agent::start(watch, &format!("--port {port}"))?),
        Some(_) => None,
    };
    let capture = Capture::start(&network.client, network.interface, network.address_behind)?;
    (traffic.script)(&network, port)?;
    network.await_no_traffic(port)?;
    let captured = capture.finish()?;
    let steps = steps(&captured.packets);
    traffic.check_capture(&steps, port)?;
    if let Some(kind) = topology.file() {
        scenario_capture::keep(&format!("{}_{kind}", traffic.file), &captured)?;
    }

    if let Some(agent) = agent {
        let report = agent.stop()?;
        compare(&steps, &report.events, Checksum::Same)?;
        check_resets(&steps, &report, port, roles)?;
        match traffic.ends {
            Some(ends) => {
                for end in ends.iter().filter(|end| roles.contains(&end.role)) {
                    check_state_sequences(end, traffic.connections, &report, port)
                        .with_context(|| format!("of the {}: {:#?}", end.role, report.events))?;
                }
            }
            None if roles.contains(&"client") => check_refusal(&report)?,
            None => {}
        }
        read_comparison::check_agreement(&report, &captured.file, &steps, |local| {
            roles.contains(if local.port() == port { &"server" } else { &"client" })
        })?;
    }
    Ok(())
}

/// A RST is reported once for the socket that sent it and once for the one that received it.
fn check_resets(steps: &[Step], report: &Report, port: u16, roles: &[&str]) -> Result<()> {
    for role in roles {
        let by_server = |step: &&Step| step.packet.src.port() == port;
        let resets = || steps.iter().filter(|step| step.name == "rst");
        let from_server = resets().filter(by_server).count();
        let from_client = resets().count() - from_server;
        let (sent, received) =
            if *role == "server" { (from_server, from_client) } else { (from_client, from_server) };
        for (direction, count) in [("sent", sent), ("received", received)] {
            let reported = report
                .of_kind("reset")
                .filter(|event| is_of(event, role, port) && event["direction"] == direction)
                .count();
            ensure!(
                reported == count,
                "{role}: {reported} of {count} resets {direction} are reported: {:#?}",
                report.events
            );
        }
    }
    Ok(())
}

fn check_refusal(report: &Report) -> Result<()> {
    let handshakes: Vec<&Event> =
        report.of_kind("handshake").filter(|event| event["role"] == "client").collect();
    ensure!(handshakes.len() == 1 && handshakes[0]["result"] == "refused", "not refused: {handshakes:#?}");
    ensure!(
        report.of_kind("state").any(|event| event["from"] == "syn_sent" && event["to"] == "close"),
        "SYN_SENT was not left: {:#?}",
        report.events
    );
    Ok(())
}

/// `handshake`, `closed` and `state` events of every connection, seen from one side.
fn check_state_sequences(end: &End, connections: usize, report: &Report, port: u16) -> Result<()> {
    let handshakes: Vec<&Event> =
        report.of_kind("handshake").filter(|event| event["role"] == end.role).collect();
    ensure!(
        handshakes.len() == connections && handshakes.iter().all(|event| event["result"] == "completed"),
        "{connections} completed handshakes expected, reported {handshakes:#?}"
    );

    let closed: Vec<&Event> = report.of_kind("closed").filter(|event| event["role"] == end.role).collect();
    ensure!(closed.len() == connections, "{connections} closed connections expected, reported {closed:#?}");
    for event in &closed {
        let by = event["closed_by"].as_str().unwrap_or_default();
        ensure!(end.closed_by.contains(&by), "closed by {:?} expected, not {by:?}", end.closed_by);
        ensure!(
            event["bytes_sent"] == end.sent && event["bytes_received"] == end.received,
            "{} bytes sent and {} received expected: {event}",
            end.sent,
            end.received
        );
    }

    let state_sequences = state_sequences(report, end.role, port)?;
    ensure!(
        state_sequences.len() == connections,
        "{connections} sockets expected, reported {state_sequences:#?}"
    );
    for (socket, states) in &state_sequences {
        let states = states.join(" ");
        let states = states.strip_suffix("close").unwrap_or(&states).trim();
        ensure!(
            states == end.states,
            "{socket}: {:?} expected after ESTABLISHED, not {states:?}",
            end.states
        );
    }
    Ok(())
}

/// The states after ESTABLISHED, by socket; each transition begins where the one before it ended.
fn state_sequences(report: &Report, role: &str, port: u16) -> Result<BTreeMap<String, Vec<String>>> {
    let mut state_sequences: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in report.of_kind("state").filter(|event| is_of(event, role, port)) {
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let socket = format!("{} {}", text("local"), text("remote"));
        if text("to") == "established" {
            ensure!(
                state_sequences.insert(socket.clone(), Vec::new()).is_none(),
                "{socket} is established twice"
            );
        } else if let Some(states) = state_sequences.get_mut(&socket) {
            let before = states.last().map_or("established", String::as_str);
            ensure!(text("from") == before, "{socket} was in {before}: {event}");
            states.push(text("to"));
        }
    }
    Ok(state_sequences)
}

/// Whether the event is of the server's or the client's socket, as `role` says.
fn is_of(event: &Event, role: &str, port: u16) -> bool {
    let is_server = event["local"].as_str().is_some_and(|local| local.ends_with(&format!(":{port}")));
    is_server == (role == "server")
}
