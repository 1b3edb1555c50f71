//! On a controlled link: FINs that cross, and segments that are lost and retransmitted.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::support::{
    agent::{Agent, Event, Report, Watch},
    capture::Capture,
    controlled_link::{CLIENT, ControlledLink, DEVICE, Direction, FIN, Loss, SERVER, SYN},
    namespace::Namespace,
    peer::{Peer, connected},
    read_comparison, scenario_capture,
    scrape::{Samples, samples},
    segment_comparison::{Checksum, compare},
    steps::{Step, lifecycles, steps},
    trial::{self, UnintendedTraffic, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[trial::AGENT, trial::CAPTURE, trial::TUN];
    vec![
        trial("in a simultaneous close both ends go through CLOSING", needs, simultaneous_close),
        trial("a lost SYN is reported again as a retransmission", needs, lost_syn),
        trial(
            "a SYN-ACK after a lost handshake ACK is reported as a retransmission",
            needs,
            lost_handshake_ack,
        ),
        trial("a lost FIN is reported again as a retransmission", needs, lost_fin),
        trial("retransmitted data is counted, and its segment is not in the log", needs, lost_data),
    ]
}

fn simultaneous_close() -> Result<()> {
    let link = ControlledLink::new()?;
    link.postpone_retransmissions()?;
    let watched = Observation::start("simultaneous_close", &link, Side::Client)?;
    let (mut server, mut client) = connected(&link.server, &link.client, link.address(PORT))?;
    link.hold();
    client.close()?;
    server.close()?;
    for namespace in [&link.client, &link.server] {
        namespace.await_state(PORT, "fin_wait1")?;
    }
    link.release();
    let outcome = watched.finish()?;

    outcome.check_lifecycle("c:syn s:syn_ack c:handshake_ack c:fin s:fin c:ack_of_fin s:ack_of_fin")?;
    let states = outcome.states();
    ensure!(
        states.ends_with("established fin_wait1 closing time_wait")
            || states.ends_with("established fin_wait1 closing time_wait close"),
        "the client went through {states}"
    );
    let closed: Vec<&Event> = outcome.report.of_kind("closed").collect();
    ensure!(closed.len() == 1 && closed[0]["closed_by"] == "both", "closed by both expected: {closed:#?}");
    Ok(())
}

fn lost_syn() -> Result<()> {
    let link = ControlledLink::new()?;
    let watched = Observation::start("lost_syn", &link, Side::Client)?;
    let mut server = Peer::spawn(&link.server, "server")?;
    let mut client = Peer::spawn(&link.client, "client")?;
    server.listen(link.address(PORT))?;
    link.lose(Loss { direction: Direction::ToServer, flags: SYN, data: false });
    client.begin_connect(link.address(PORT))?;
    link.await_loss()?;
    client.end_connect()?;
    server.accept()?;
    client.abort()?;
    let outcome = watched.finish()?;

    outcome.check_lifecycle("c:syn c:syn s:syn_ack c:handshake_ack c:rst")?;
    outcome.check_retransmission("syn", "syn")?;
    outcome.check_counter("syn_retransmits_total", "client", "TCPSynRetrans")?;
    let handshakes: Vec<&Event> = outcome.report.of_kind("handshake").collect();
    ensure!(
        handshakes.len() == 1
            && handshakes[0]["syn_retransmits"] == 1
            && handshakes[0]["duration_us"].as_u64().is_some_and(|us| us >= 900_000),
        "a handshake of a second or so with one retransmission expected: {handshakes:#?}"
    );
    Ok(())
}

fn lost_handshake_ack() -> Result<()> {
    let link = ControlledLink::new()?;
    let watched = Observation::start("lost_handshake_ack", &link, Side::Server)?;
    let mut server = Peer::spawn(&link.server, "server")?;
    let mut client = Peer::spawn(&link.client, "client")?;
    server.listen(link.address(PORT))?;
    link.lose(Loss { direction: Direction::ToServer, flags: 0, data: false });
    client.connect(link.address(PORT))?;
    link.await_loss()?;
    server.accept()?;
    client.abort()?;
    let outcome = watched.finish()?;

    outcome.check_lifecycle("c:syn s:syn_ack s:syn_ack c:handshake_ack c:rst")?;
    outcome.check_retransmission("syn_ack", "syn_ack")?;
    outcome.check_counter("syn_retransmits_total", "server", "TCPSynRetrans")
}

fn lost_fin() -> Result<()> {
    let link = ControlledLink::new()?;
    let watched = Observation::start("lost_fin", &link, Side::Client)?;
    let (mut server, mut client) = connected(&link.server, &link.client, link.address(PORT))?;
    link.lose(Loss { direction: Direction::ToServer, flags: FIN, data: false });
    client.close()?;
    link.await_loss()?;
    link.client.await_state(PORT, "fin_wait2")?;
    server.close()?;
    let outcome = watched.finish()?;

    outcome.check_lifecycle("c:syn s:syn_ack c:handshake_ack c:fin c:fin s:ack_of_fin s:fin c:ack_of_fin")?;
    outcome.check_retransmission("fin", "fin")
}

fn lost_data() -> Result<()> {
    let link = ControlledLink::new()?;
    let watched = Observation::start("lost_data", &link, Side::Client)?;
    let (mut server, mut client) = connected(&link.server, &link.client, link.address(PORT))?;
    link.lose(Loss { direction: Direction::ToServer, flags: 0, data: true });
    client.send(10)?;
    link.await_loss()?;
    server.read(10)?;
    link.client
        .await_sockets(PORT, "the acknowledgement", |rows| rows.iter().all(|row| row.unacknowledged == 0))?;
    client.abort()?;
    let outcome = watched.finish()?;

    outcome.check_lifecycle("c:syn s:syn_ack c:handshake_ack c:rst")?;
    let reported: Vec<&Event> = outcome.report.of_kind("retransmit").collect();
    ensure!(
        reported.len() == 1 && reported[0]["kind"] == "data",
        "one retransmission of data expected: {reported:#?}"
    );
    outcome.check_counter("retransmits_total", "", "RetransSegs")
}

const PORT: u16 = 8899;

/// At which end of the link agent and tcpdump run.
#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}

/// A link, with the agent and tcpdump at one end.
struct Observation<'a> {
    /// Part of the name of its capture.
    scenario: &'static str,
    link: &'a ControlledLink,
    side: Side,
    agent: Agent,
    capture: Capture,
}

/// The results, after the comparison of segments.
struct Outcome {
    steps: Vec<Step>,
    report: Report,
    samples: Samples,
    kernel: std::collections::BTreeMap<String, u64>,
}

impl<'a> Observation<'a> {
    fn start(scenario: &'static str, link: &'a ControlledLink, side: Side) -> Result<Self> {
        let (namespace, address_behind) = match side {
            Side::Client => (&link.client, SERVER),
            Side::Server => (&link.server, CLIENT),
        };
        let agent = Agent::start(Watch::Inside(namespace), &format!("--port {PORT}"))?;
        let capture = Capture::start(namespace, DEVICE, address_behind)?;
        Ok(Self { scenario, link, side, agent, capture })
    }

    fn finish(self) -> Result<Outcome> {
        self.link.await_no_traffic(PORT)?;
        let namespace: &Namespace = match self.side {
            Side::Client => &self.link.client,
            Side::Server => &self.link.server,
        };
        let captured = self.capture.finish()?;
        let steps = steps(&captured.packets);
        // Before the scrape, which is TCP in this namespace too.
        let kernel = namespace.tcp_counters()?;
        let samples = samples(namespace)?;
        let report = self.agent.stop()?;
        compare(&steps, &report.events, Checksum::CompletedBetween)?;
        scenario_capture::keep(self.scenario, &captured)?;
        let address = match self.side {
            Side::Client => CLIENT,
            Side::Server => SERVER,
        };
        read_comparison::check_agreement(&report, &captured.file, &steps, |local| local.ip() == address)?;
        Ok(Outcome { steps, report, samples, kernel })
    }
}

impl Outcome {
    fn check_lifecycle(&self, expected: &str) -> Result<()> {
        let seen = lifecycles(&self.steps, PORT);
        ensure!(seen == [expected], UnintendedTraffic(format!("{seen:?}")));
        Ok(())
    }

    /// Only the second segment of `step` is marked, and there is one `retransmit` event.
    fn check_retransmission(&self, step: &str, kind: &str) -> Result<()> {
        let marks: Vec<bool> = self
            .report
            .of_kind("segment")
            .filter(|event| event["step"] == step)
            .map(|event| event["retransmission"] == true)
            .collect();
        ensure!(marks.starts_with(&[false, true]), "marks of {step}: {marks:?}");
        let reported: Vec<&Event> = self.report.of_kind("retransmit").collect();
        ensure!(
            reported.len() == 1 && reported[0]["kind"] == kind,
            "one retransmission of {kind} expected: {reported:#?}"
        );
        Ok(())
    }

    /// One is counted, by the agent as by the kernel.
    fn check_counter(&self, metric: &str, role: &str, kernel: &str) -> Result<()> {
        let port = PORT.to_string();
        let mut labels = vec![("port", port.as_str())];
        if !role.is_empty() {
            labels.push(("role", role));
        }
        let ours = self.samples.sum(metric, &labels)?;
        let theirs = self.kernel.get(kernel).copied();
        ensure!(ours == 1 && theirs == Some(1), "{metric} is {ours}, {kernel} is {theirs:?}");
        Ok(())
    }

    /// Every state that was entered.
    fn states(&self) -> String {
        let states = self.report.of_kind("state").filter_map(|event| event["to"].as_str());
        states.collect::<Vec<_>>().join(" ")
    }
}
