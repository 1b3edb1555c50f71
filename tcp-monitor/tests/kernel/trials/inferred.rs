//! What no tracepoint reports is inferred from segments: half-open connections, and forwarded
//! connections.

use std::{collections::BTreeMap, fs, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::support::{
    agent::{Agent, Event, Report, Watch},
    namespace::Namespace,
    peer::Peer,
    socket_table::SocketRow,
    state_comparison::last_states,
    topology::{Network, Topology},
    trial::{self, trial},
    unique_port::unique_port,
};

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[trial::AGENT];
    vec![
        trial("a half-open connection is reported while ss shows it, and then its timeout", needs, half_open),
        trial("of a forwarded connection both ends are reported as ss shows them", needs, || {
            let router = Router::new()?;
            let agent = Agent::start(Watch::Named(&router.router), &format!("--port {PORT}"))?;
            let report = router.follow_connection(agent, PORT)?;
            ensure!(
                report.of_kind("state").all(|event| event["evidence"] == "segment"),
                "the kernel has no socket there: {:#?}",
                report.events
            );
            check_state_sequences(&report, PORT)
        }),
        trial(
            "a connection between two namespaces is not reported a second time by the one that forwards it",
            needs,
            || {
                let router = Router::new()?;
                let port = unique_port();
                let namespaces = [&router.client, &router.router, &router.server];
                let agent = Agent::start(Watch::AllOf(&namespaces), &format!("--port {port}"))?;
                let report = router.follow_connection(agent, port)?;
                let inferred = report.of_kind("state").filter(|event| event["evidence"] == "segment");
                let inferred: Vec<_> =
                    inferred.map(|event| (text(event, "from"), text(event, "to"))).collect();
                ensure!(
                    inferred == [("listen", "syn_recv")],
                    "only the half-open connection may be inferred from segments: {inferred:?}"
                );
                check_state_sequences(&report, port)
            },
        ),
        trial("of a forwarded connection that is refused the client is reported", needs, forwarded_refusal),
    ]
}

/// The client drops the SYN-ACKs, so its connection stays half-open. One SYN-ACK is retransmitted
/// after 1 s, and 2 s later the kernel removes the request socket.
fn half_open() -> Result<()> {
    let network = Network::new(Topology::VethV4)?;
    set(&network.server, "tcp_synack_retries", "1")?;
    let agent = Agent::start(Watch::Named(&network.server), &format!("--port {PORT}"))?;
    let mut server = Peer::spawn(&network.server, "server")?;
    let mut client = Peer::spawn(&network.client, "client")?;
    server.listen(network.listen_address(PORT))?;
    // Before the table of local addresses is consulted.
    network.client.ip("rule add pref 100 lookup local")?;
    network.client.ip(&format!("rule add pref 10 iif {} blackhole", network.interface))?;
    network.client.ip("rule del pref 0")?;
    client.begin_connect(network.connect_address(PORT))?;
    let rows = network
        .server
        .await_sockets(PORT, "a half-open request", |rows| rows.iter().any(|row| row.state == "syn_recv"))?;
    // A retransmitted SYN would make the kernel wait longer.
    client.kill()?;
    await_agreement(&agent, PORT, &rows)?;
    network.server.await_sockets(PORT, "the end of the request", <[SocketRow]>::is_empty)?;
    let handshake = agent.events.wait_for("the end of the handshake", |events| {
        events.iter().find(|event| event["event"] == "handshake").cloned()
    })?;
    await_agreement(&agent, PORT, &[])?;
    let report = agent.stop()?;

    ensure!(
        (text(&handshake, "role"), text(&handshake, "result")) == ("server", "timed_out")
            && handshake["syn_retransmits"] == 1
            && handshake["duration_us"].as_u64().is_some_and(|us| (3_000_000..4_500_000).contains(&us)),
        "timed out after the pause of 2 s expected: {handshake}"
    );
    let states: Vec<_> = report
        .of_kind("state")
        .filter(|event| event["remote"].is_string())
        .map(|event| ["from", "to", "evidence"].map(|name| text(event, name)))
        .collect();
    ensure!(
        states == [["listen", "syn_recv", "segment"], ["syn_recv", "close", "timer"]],
        "not the states of a half-open connection: {states:?}"
    );
    ensure!(report.of_kind("handshake").count() == 1, "one handshake expected: {:#?}", report.events);
    Ok(())
}

fn forwarded_refusal() -> Result<()> {
    let router = Router::new()?;
    let agent = Agent::start(Watch::Named(&router.router), &format!("--port {PORT}"))?;
    let mut client = Peer::spawn(&router.client, "client")?;
    ensure!(client.connect(SocketAddr::new(SERVER.parse()?, PORT)).is_err(), "there is no listener");
    agent.events.wait_for("the end of the handshake", |events| {
        events.iter().any(|event| event["event"] == "handshake").then_some(())
    })?;
    let report = agent.stop()?;
    let reported: Vec<_> = report
        .events
        .iter()
        .filter(|event| event["event"] == "handshake")
        .map(|event| (text(event, "role"), text(event, "result")))
        .collect();
    ensure!(reported == [("client", "refused")], "{:#?}", report.events);
    Ok(())
}

const PORT: u16 = 8899;
const CLIENT: &str = "203.0.113.10";
const SERVER: &str = "203.0.113.130";

/// Two namespaces, and a third between them that forwards.
struct Router {
    client: Namespace,
    router: Namespace,
    server: Namespace,
}

impl Router {
    fn new() -> Result<Self> {
        let (client, router, server) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
        for (side, near, address, gateway) in
            [(&client, "inside", CLIENT, "203.0.113.1"), (&server, "outside", SERVER, "203.0.113.129")]
        {
            router.ip(&format!("link add {near} type veth peer name eth0 netns {}", side.name()))?;
            router.ip(&format!("addr add {gateway}/25 dev {near}"))?;
            router.ip(&format!("link set {near} up"))?;
            side.ip(&format!("addr add {address}/25 dev eth0"))?;
            side.ip("link set eth0 up")?;
            side.ip(&format!("route add default via {gateway}"))?;
        }
        set(&router, "ip_forward", "1")?;
        Ok(Self { client, router, server })
    }

    /// A connection from its beginning to TIME_WAIT, in which the agent reports the states that
    /// `ss` shows on both sides.
    fn follow_connection(&self, agent: Agent, port: u16) -> Result<Report> {
        let mut server = Peer::spawn(&self.server, "server")?;
        let mut client = Peer::spawn(&self.client, "client")?;
        let address = SocketAddr::new(SERVER.parse()?, port);
        server.listen(address)?;
        client.connect(address)?;
        server.accept()?;
        self.await_agreement(&agent, port, "established", "established")?;
        client.send(1000)?;
        server.read(1000)?;
        client.shut_down_write()?;
        self.await_agreement(&agent, port, "fin_wait2", "close_wait")?;
        server.send(70_000)?;
        client.read(70_000)?;
        server.close()?;
        self.await_agreement(&agent, port, "time_wait", "")?;
        client.close()?;
        agent.stop()
    }

    fn await_agreement(&self, agent: &Agent, port: u16, client: &str, server: &str) -> Result<()> {
        let mut shown = Vec::new();
        for (namespace, state) in [(&self.client, client), (&self.server, server)] {
            shown.extend(namespace.await_sockets(port, state, |rows| match rows {
                [] => state.is_empty(),
                [row] => row.state == state,
                _ => false,
            })?);
        }
        await_agreement(agent, port, &shown)
    }
}

/// Each end went through its states once: none was skipped, and none reported twice.
fn check_state_sequences(report: &Report, port: u16) -> Result<()> {
    let mut state_sequences: BTreeMap<bool, Vec<&str>> = BTreeMap::new();
    for event in report.of_kind("state").filter(|event| event["remote"].is_string()) {
        let is_server = text(event, "local").ends_with(&format!(":{port}"));
        let life = state_sequences.entry(is_server).or_insert_with(|| vec![text(event, "from")]);
        ensure!(life.last() == Some(&text(event, "from")), "{life:?} does not lead to {event}");
        life.push(text(event, "to"));
    }
    let state_sequences: Vec<String> = state_sequences.into_values().map(|life| life.join(" ")).collect();
    ensure!(
        state_sequences
            == [
                "close syn_sent established fin_wait1 fin_wait2 time_wait",
                "listen syn_recv established close_wait last_ack close"
            ],
        "{state_sequences:#?}"
    );
    let ended: Vec<_> =
        report.of_kind("closed").map(|event| (text(event, "role"), text(event, "closed_by"))).collect();
    ensure!(
        ended.len() == 2 && ended.contains(&("client", "local")) && ended.contains(&("server", "remote")),
        "{ended:?}"
    );
    let completed = report.of_kind("handshake").filter(|event| event["result"] == "completed").count();
    ensure!(completed == 2 && report.of_kind("handshake").count() == 2, "{:#?}", report.events);
    Ok(())
}

/// Waits until the last reported states are those of these rows of `ss`, and no others.
fn await_agreement(agent: &Agent, port: u16, rows: &[SocketRow]) -> Result<()> {
    let shown: BTreeMap<_, _> = rows.iter().map(|row| ((row.local, row.remote), row.state.clone())).collect();
    agent
        .events
        .wait_for("the states that ss shows", |events| (last_states(events, port) == shown).then_some(()))
        .with_context(|| {
            let reported = agent.events.so_far();
            format!("ss shows {shown:#?}, last reported {:#?} in {reported:#?}", last_states(&reported, port))
        })
}

fn text<'a>(event: &'a Event, name: &str) -> &'a str {
    event[name].as_str().unwrap_or_default()
}

/// Sets a parameter in /proc/sys/net/ipv4.
fn set(namespace: &Namespace, name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/{name}");
    namespace.enter(|| fs::write(&path, value).with_context(|| format!("cannot write {path}")))
}
