//! Two clients that connect to each other at once (RFC 9293, section 3.5, figure 8), over a link
//! that holds their SYNs.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::support::{
    agent::{Agent, Event, Report, Watch},
    capture::Capture,
    controlled_link::{CLIENT, ControlledLink, DEVICE, SERVER},
    namespace::Namespace,
    peer::Peer,
    read_comparison, scenario_capture,
    scrape::samples,
    segment_comparison::{Checksum, compare},
    state_comparison::await_agreement,
    steps::{Step, steps},
    trial::{self, UnintendedTraffic, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "a simultaneous open is reported as one handshake at each end",
        &[trial::AGENT, trial::CAPTURE, trial::TUN],
        simultaneous_open,
    )]
}

fn simultaneous_open() -> Result<()> {
    let link = ControlledLink::new()?;
    link.postpone_retransmissions()?;
    let (near, far) = (SocketAddr::new(CLIENT.into(), NEAR_PORT), SocketAddr::new(SERVER.into(), FAR_PORT));
    let mut sides = [Side::begin(&link.client, near)?, Side::begin(&link.server, far)?];
    let capture = Capture::start(&link.client, DEVICE, SERVER)?;

    link.hold();
    sides[0].peer.begin_connect_from(near, far)?;
    sides[1].peer.begin_connect_from(far, near)?;
    agree(&sides, "syn_sent")?;
    link.deliver_held();
    agree(&sides, "syn_recv")?;
    link.release();
    for side in &mut sides {
        side.peer.end_connect()?;
    }
    agree(&sides, "established")?;
    sides[0].peer.close()?;
    link.client.await_state(FAR_PORT, "fin_wait2")?;
    sides[1].peer.close()?;
    link.client.await_no_traffic(FAR_PORT)?;
    link.server.await_no_traffic(FAR_PORT)?;

    let captured = capture.finish()?;
    scenario_capture::keep("simultaneous_open", &captured)?;
    let mut steps = steps(&captured.packets);
    allow_syn_ack_after_syn(&mut steps);
    let [near_side, far_side] = sides;
    let near_report = near_side.end(&["fin_wait1", "fin_wait2", "time_wait"], "local")?;
    far_side.end(&["close_wait", "last_ack", "close"], "remote")?;
    compare(&steps, &near_report.events, Checksum::CompletedBetween)?;
    read_comparison::check_agreement(&near_report, &captured.file, &steps, |local| local == near)
}

/// A host that answers a SYN in SYN_SENT sends its own SYN once more, with an ACK. Wireshark marks
/// this as a retransmission; the kernel counts it neither in TCPSynRetrans nor in RetransSegs.
fn allow_syn_ack_after_syn(steps: &mut [Step]) {
    for step in steps.iter_mut().filter(|step| step.name == "syn_ack") {
        step.packet.retransmission = false;
    }
}

/// Waits until `ss` shows both sockets in `state`, and the agents reported it.
fn agree(sides: &[Side], state: &str) -> Result<()> {
    for side in sides {
        await_agreement(&side.namespace, &side.agent, FAR_PORT, &[state])
            .with_context(|| format!("at {}", side.address))?;
    }
    Ok(())
}

/// One end, and the agent there.
struct Side {
    namespace: Arc<Namespace>,
    address: SocketAddr,
    agent: Agent,
    peer: Peer,
}

impl Side {
    fn begin(namespace: &Arc<Namespace>, address: SocketAddr) -> Result<Self> {
        let agent = Agent::start(Watch::Inside(namespace), &format!("--port {FAR_PORT}"))?;
        let peer = Peer::spawn(namespace, "peer")?;
        Ok(Self { namespace: Arc::clone(namespace), address, agent, peer })
    }

    /// Checks that one handshake and one close were reported and counted.
    fn end(self, closing: &[&str], closed_by: &str) -> Result<Report> {
        let samples = samples(&self.namespace)?;
        let kernel = self.namespace.tcp_counters()?;
        let report = self.agent.stop()?;
        let context = || format!("at {}: {:#?}", self.address, report.events);
        let retransmitted = ["TCPSynRetrans", "RetransSegs"].map(|name| kernel.get(name).copied());
        let counters = || UnintendedTraffic(format!("TCPSynRetrans and RetransSegs are {retransmitted:?}"));
        ensure!(retransmitted == [Some(0); 2], counters());

        let states: Vec<_> = report.of_kind("state").filter_map(|event| event["to"].as_str()).collect();
        let expected = [&["syn_sent", "syn_recv", "established"][..], closing].concat();
        ensure!(states == expected, "states {expected:?} expected, not {states:?}, {}", context());
        let handshakes: Vec<&Event> = report.of_kind("handshake").collect();
        ensure!(
            handshakes.len() == 1
                && handshakes[0]["result"] == "completed"
                && handshakes[0]["role"] == "client"
                && handshakes[0]["syn_retransmits"] == 0,
            "one completed handshake of a client expected, {}",
            context()
        );
        let closed: Vec<&Event> = report.of_kind("closed").collect();
        ensure!(
            closed.len() == 1 && closed[0]["closed_by"] == closed_by,
            "closed by {closed_by} once expected, {}",
            context()
        );
        let retransmitted = report.of_kind("retransmit").count();
        ensure!(retransmitted == 0, "no retransmission expected, {}", context());

        let count = |name, labels: &[(&str, &str)]| samples.sum_or_zero(name, labels);
        for (role, expected) in [("client", 1), ("server", 0)] {
            let counted = count("handshakes_total", &[("role", role)]);
            ensure!(counted == expected, "{counted} handshakes of the {role} are counted, {}", context());
        }
        let opens = ["ActiveOpens", "PassiveOpens"].map(|name| kernel.get(name).copied().unwrap_or(0));
        // The scrape is TCP too: one connection over loopback.
        ensure!(opens == [2, 1], "ActiveOpens and PassiveOpens are {opens:?}");
        Ok(report)
    }
}

/// The only watched port, so that the port does not show which end is the server.
const FAR_PORT: u16 = 8899;
const NEAR_PORT: u16 = 8898;
