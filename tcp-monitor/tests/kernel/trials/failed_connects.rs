//! Connection attempts that fail: the agent reports and counts the error that `connect()` returned.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::support::{
    agent::{Agent, Event, Watch},
    capture::{Capture, Captured},
    controlled_link::{CLIENT, ControlledLink, DEVICE, SERVER},
    namespace::Namespace,
    peer::{FAILED_AFTER, Peer},
    read_comparison, scenario_capture,
    scrape::samples,
    segment_comparison::{Checksum, compare},
    steps::{Step, steps},
    topology::{Network, Topology},
    trial::{self, Need, UnintendedTraffic, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[trial::AGENT, trial::CAPTURE];
    let link = &[trial::AGENT, trial::CAPTURE, trial::TUN];
    let mut trials = vec![
        trial("a client without an answer is reported as timed out", link, timed_out),
        trial("a client that is killed in SYN_SENT is reported as aborted", link, aborted),
        trial("a client without a route is not reported", needs, without_route),
    ];
    for (ip, name) in [(Ip::V4, "IPv4"), (Ip::V6, "IPv6")] {
        trials.push(trial(
            format!("a client refused over {name} is reported as refused"),
            needs,
            move || refused(ip),
        ));
        trials.push(trial(
            format!("a client whose neighbour over {name} does not answer is reported as host_unreachable"),
            needs,
            move || no_neighbour(ip),
        ));
        for (what, failure) in [("host", &HOST_UNREACHABLE), ("network", &NET_UNREACHABLE)] {
            trials.push(trial(
                format!("a client that receives an ICMP error over {name} is reported as {what} unreachable"),
                link,
                move || unreachable_behind_router(ip, failure),
            ));
        }
    }
    trials
}

#[derive(Clone, Copy)]
enum Ip {
    V4,
    V6,
}

impl Ip {
    fn topology(self) -> Topology {
        match self {
            Self::V4 => Topology::VethV4,
            Self::V6 => Topology::VethV6,
        }
    }

    /// One neighbour solicitation, and less than a second for the answer: no SYN is retransmitted
    /// meanwhile.
    fn shorten_neighbour_discovery(self, namespace: &Namespace, interface: &str) -> Result<()> {
        let protocol = match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        };
        let neighbours = format!("net/{protocol}/neigh/{interface}");
        namespace.set(&format!("{neighbours}/mcast_solicit"), "1")?;
        namespace.set(&format!("{neighbours}/retrans_time_ms"), "200")
    }
}

/// How an attempt fails.
struct Failure {
    result: &'static str,
    errno: Option<i32>,
    /// SYNs that a capture shows.
    syns: usize,
}

const REFUSED: Failure = Failure { result: "refused", errno: Some(111), syns: 1 };
const TIMED_OUT: Failure = Failure { result: "timed_out", errno: Some(110), syns: 2 };
const ABORTED: Failure = Failure { result: "aborted", errno: None, syns: 1 };
const HOST_UNREACHABLE: Failure = Failure { result: "host_unreachable", errno: Some(113), syns: 1 };
const NET_UNREACHABLE: Failure = Failure { result: "net_unreachable", errno: Some(101), syns: 1 };
const NO_NEIGHBOUR: Failure = Failure { syns: 0, ..HOST_UNREACHABLE };

fn refused(ip: Ip) -> Result<()> {
    let network = Network::new(ip.topology())?;
    let mut attempt = Attempt::begin_on(&network)?;
    attempt.connect(network.connect_address(PORT))?;
    attempt.fail(network.connect_address(PORT), &REFUSED).map(drop)
}

fn timed_out() -> Result<()> {
    let link = ControlledLink::new()?;
    link.client.set("net/ipv4/tcp_syn_retries", "1")?;
    if Need::Setting(LINEAR_TIMEOUTS).is_met() {
        link.client.set(LINEAR_TIMEOUTS, "0")?;
    }
    link.hold();
    let mut attempt = Attempt::begin(&link.client, Capture::start(&link.client, DEVICE, SERVER)?)?;
    attempt.connect(link.address(PORT))?;
    let outcome = attempt.fail(link.address(PORT), &TIMED_OUT)?;
    scenario_capture::keep("timed_out", &outcome.captured)?;

    // When a capture ends, the client may still wait for an answer.
    let offline = read_comparison::read(&outcome.captured.file)?;
    compare(&outcome.steps, &offline.events, Checksum::Same)?;
    let reported: Vec<_> = offline.events.iter().filter(|event| event["event"] != "segment").collect();
    ensure!(
        reported.len() == 2
            && reported[0]["from"] == "close"
            && reported[0]["to"] == "syn_sent"
            && reported[1]["kind"] == "syn"
            && reported[1]["state"] == "syn_sent",
        "SYN_SENT and a retransmitted SYN expected of the capture, not {reported:#?}"
    );
    Ok(())
}

fn aborted() -> Result<()> {
    let link = ControlledLink::new()?;
    link.hold();
    let mut attempt = Attempt::begin(&link.client, Capture::start(&link.client, DEVICE, SERVER)?)?;
    attempt.connect(link.address(PORT))?;
    link.client.await_state(PORT, "syn_sent")?;
    attempt.client.kill()?;
    let outcome = attempt.end()?;
    let handshake = outcome.check(link.address(PORT), &ABORTED)?;
    ensure!(handshake["local"].as_str().is_some_and(|local| local.starts_with(&CLIENT.to_string())));
    Ok(())
}

/// connect() fails before the socket enters SYN_SENT.
fn without_route() -> Result<()> {
    let network = Network::new(Topology::VethV4)?;
    let mut attempt = Attempt::begin_on(&network)?;
    let error =
        attempt.client.connect(UNASSIGNED_V4.parse()?).err().context("a connection without a route")?;
    ensure!(errno(&error) == Some(101), "ENETUNREACH expected: {error:#}");
    let outcome = attempt.end()?;
    ensure!(outcome.events.is_empty(), "no event expected: {:#?}", outcome.events);
    ensure!(
        outcome.failures == 0 && outcome.attempt_fails == 0,
        "{} failures are counted, {} by the kernel",
        outcome.failures,
        outcome.attempt_fails
    );
    Ok(())
}

fn no_neighbour(ip: Ip) -> Result<()> {
    let network = Network::new(ip.topology())?;
    let address = match ip {
        Ip::V4 => "192.0.2.99:8899",
        Ip::V6 => "[2001:db8::99]:8899",
    };
    ip.shorten_neighbour_discovery(&network.client, network.interface)?;
    let address = address.parse()?;
    let mut attempt = Attempt::begin_on(&network)?;
    attempt.connect(address)?;
    attempt.fail(address, &NO_NEIGHBOUR).map(drop)
}

fn unreachable_behind_router(ip: Ip, failure: &Failure) -> Result<()> {
    let link = ControlledLink::new()?;
    let (forwarding, option, remote) = match ip {
        Ip::V4 => ("net/ipv4/ip_forward", "-4", UNASSIGNED_V4),
        Ip::V6 => ("net/ipv6/conf/all/forwarding", "-6", UNASSIGNED_V6),
    };
    let remote: SocketAddr = remote.parse()?;
    for (namespace, host) in [(&link.client, 1), (&link.server, 2)] {
        namespace.ip(&format!("addr add 2001:db8::{host}/64 dev {DEVICE} nodad"))?;
    }
    link.client.ip(&format!("{option} route add default dev {DEVICE}"))?;
    link.server.set(forwarding, "1")?;
    // Without a route, the network is unreachable; with one, the host that does not answer.
    if failure.result == "host_unreachable" {
        link.server.ip("link add near type veth peer name far")?;
        link.server.ip("link set near up")?;
        link.server.ip("link set far up")?;
        link.server.ip(&format!("{option} route add {} dev near", remote.ip()))?;
        ip.shorten_neighbour_discovery(&link.server, "near")?;
    }
    let mut attempt = Attempt::begin(&link.client, Capture::start(&link.client, DEVICE, SERVER)?)?;
    // An ICMP error that arrives before connect() waits would take effect only when it is received
    // again.
    link.hold();
    attempt.connect(remote)?;
    link.client.await_state(PORT, "syn_sent")?;
    link.release();
    attempt.fail(remote, failure).map(drop)
}

/// A client, the agent and a capture.
struct Attempt<'a> {
    namespace: &'a Namespace,
    agent: Agent,
    capture: Capture,
    client: Peer,
    begun: Instant,
    /// How long connect() took, if it returned.
    took: Option<Duration>,
}

/// The results.
struct Outcome {
    /// How long connect() took, at most.
    took: Duration,
    captured: Captured,
    steps: Vec<Step>,
    events: Vec<Event>,
    failures: u64,
    failures_by_reason: Vec<(&'static str, u64)>,
    /// `AttemptFails` of the kernel.
    attempt_fails: u64,
}

impl<'a> Attempt<'a> {
    fn begin_on(network: &'a Network) -> Result<Self> {
        Self::begin(
            &network.client,
            Capture::start(&network.client, network.interface, network.address_behind)?,
        )
    }

    fn begin(namespace: &'a Namespace, capture: Capture) -> Result<Self> {
        let agent = Agent::start(Watch::Inside(namespace), &format!("--port {PORT}"))?;
        let client = Peer::spawn(namespace, "client")?;
        Ok(Self { namespace, agent, capture, client, begun: Instant::now(), took: None })
    }

    fn connect(&mut self, address: SocketAddr) -> Result<()> {
        self.begun = Instant::now();
        self.client.begin_connect(address)
    }

    /// Checks that connect() fails as expected, and that the agent reports it.
    fn fail(mut self, address: SocketAddr, failure: &Failure) -> Result<Outcome> {
        let error = self.client.end_connect().err().with_context(|| format!("{address} was connected to"))?;
        ensure!(errno(&error) == failure.errno, "errno {:?} expected: {error:#}", failure.errno);
        self.took = Some(duration(&error)?);
        let outcome = self.end()?;
        outcome.check(address, failure)?;
        Ok(outcome)
    }

    /// The attempt is over.
    fn end(self) -> Result<Outcome> {
        let took = self.took.unwrap_or_else(|| self.begun.elapsed());
        let captured = self.capture.finish()?;
        let steps = steps(&captured.packets);
        let attempt_fails = *self.namespace.tcp_counters()?.get("AttemptFails").context("no AttemptFails")?;
        let samples = samples(self.namespace)?;
        let port = PORT.to_string();
        let count = |labels: &[(&str, &str)]| {
            samples.sum_or_zero("handshake_failures_total", &[labels, &[("port", port.as_str())]].concat())
        };
        let events = self.agent.stop()?.events;
        compare(&steps, &events, Checksum::CompletedBetween)?;
        Ok(Outcome {
            took,
            captured,
            steps,
            events,
            failures: count(&[]),
            failures_by_reason: REASONS
                .map(|reason| (reason, count(&[("role", "client"), ("reason", reason)])))
                .into(),
            attempt_fails,
        })
    }
}

impl Outcome {
    /// One attempt was made and failed like this. Returns its `handshake`.
    fn check(&self, remote: SocketAddr, failure: &Failure) -> Result<&Event> {
        let syns = self.steps.iter().filter(|step| step.name == "syn").count();
        ensure!(syns == failure.syns, UnintendedTraffic(format!("{:#?}", self.steps)));
        let of_kind = |kind| self.events.iter().filter(move |event| event["event"] == kind);

        let handshakes: Vec<_> = of_kind("handshake").collect();
        let [handshake] = handshakes[..] else { anyhow::bail!("one handshake expected: {:#?}", self.events) };
        ensure!(
            handshake["result"] == failure.result
                && handshake["role"] == "client"
                && handshake["remote"] == remote.to_string().as_str()
                && handshake["syn_retransmits"] == failure.syns.saturating_sub(1),
            "{} of a client expected, with {} SYNs: {handshake}",
            failure.result,
            failure.syns
        );
        let duration = Duration::from_micros(handshake["duration_us"].as_u64().context("no duration_us")?);
        ensure!(
            duration <= self.took && self.took - duration < DELAY,
            "connect() took {:?}: {handshake}",
            self.took
        );

        let states: Vec<_> = of_kind("state").map(|event| (&event["from"], &event["to"])).collect();
        ensure!(
            states.len() == 2
                && (states[0].0 == "close" && states[0].1 == "syn_sent")
                && (states[1].0 == "syn_sent" && states[1].1 == "close"),
            "through SYN_SENT expected: {:#?}",
            self.events
        );
        let retransmitted = of_kind("retransmit").filter(|event| event["kind"] == "syn").count();
        ensure!(retransmitted == failure.syns.saturating_sub(1), "SYNs retransmitted: {:#?}", self.events);
        ensure!(of_kind("closed").count() == 0, "it was never open: {:#?}", self.events);

        for (reason, count) in &self.failures_by_reason {
            let expected = u64::from(*reason == failure.result);
            ensure!(*count == expected, "{count} failures are counted as {reason}");
        }
        ensure!(self.failures == 1, "{} failures are counted", self.failures);
        // The kernel does not count attempts that the application aborted.
        let attempt_fails = u64::from(failure.errno.is_some());
        ensure!(self.attempt_fails == attempt_fails, "AttemptFails is {}", self.attempt_fails);
        Ok(handshake)
    }
}

/// How long a connect() took that failed, as the peer measured it: what this process measures
/// includes the time until the peer's answer is read, which is long on a busy machine.
fn duration(error: &anyhow::Error) -> Result<Duration> {
    let text = format!("{error:#}");
    let (_, duration) = text.split_once(FAILED_AFTER).with_context(|| text.clone())?;
    let (microseconds, _) = duration.split_once(' ').context("a unit")?;
    Ok(Duration::from_micros(microseconds.parse()?))
}

/// The errno that a peer reports.
fn errno(error: &anyhow::Error) -> Option<i32> {
    format!("{error:#}").rsplit_once("(os error ")?.1.split_once(')')?.0.parse().ok()
}

const PORT: u16 = 8899;
/// RFC 5737 and RFC 3849: addresses that are not assigned.
const UNASSIGNED_V4: &str = "203.0.113.7:8899";
const UNASSIGNED_V6: &str = "[2001:db8:ffff::7]:8899";
const REASONS: [&str; 5] = ["refused", "timed_out", "host_unreachable", "net_unreachable", "aborted"];
/// How many SYNs go out without doubling the time between them (Linux 6.5 and later).
const LINEAR_TIMEOUTS: &str = "net/ipv4/tcp_syn_linear_timeouts";
/// How long the process may wait for a CPU when connect() has failed.
const DELAY: Duration = Duration::from_millis(500);
