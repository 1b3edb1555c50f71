//! TIME_WAIT, and FIN_WAIT2 with and without a process, from close() until `ss` no longer shows
//! them.
//!
//! The kernel keeps TIME_WAIT for a minute. So that the suite need not wait for it, the first trial
//! brings sockets there and the last checks how they ended. In between a thread polls `ss`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use jiff::{SignedDuration, Timestamp};
use libtest_mimic::Trial;

use crate::support::{
    agent::{Agent, Event, Report, Watch},
    controlled_link::{ControlledLink, Direction, Loss},
    namespace::Namespace,
    peer::{Peer, connected},
    scrape::{Samples, samples},
    scraped_agent::ScrapedAgent,
    state_comparison::{await_agreement, last_states},
    topology::{Network, Topology},
    trial::{self, trial},
};

/// The trial that runs first, and the one that runs last.
pub(crate) fn trials() -> (Trial, Trial) {
    let needs = &[trial::AGENT, trial::TUN];
    let shared = Arc::new(Mutex::new(None));
    let begun = Arc::clone(&shared);
    (
        trial("every state of a close, to TIME_WAIT, is reported as ss shows it", needs, move || {
            let closes = ClosedConnections::begin()?;
            *begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(closes);
            Ok(())
        }),
        trial("TIME_WAIT and FIN_WAIT2 end when ss no longer shows them", needs, move || {
            let begun = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
            begun.map_or_else(ClosedConnections::begin, Ok)?.end()
        }),
    )
}

/// Local and remote address.
type Ends = (SocketAddr, SocketAddr);

/// Connections of which at least one end is closed.
struct ClosedConnections {
    loopback: Side,
    link: Side,
    /// Those whose connections go on.
    _peers: Vec<Peer>,
    _link: ControlledLink,
}

/// One namespace, the agent in it, and the thread that polls its sockets.
struct Side {
    namespace: Arc<Namespace>,
    agent: Agent,
    /// One that was started later.
    late: ScrapedAgent,
    watcher: Watcher,
}

impl ClosedConnections {
    /// Brings sockets to TIME_WAIT and FIN_WAIT2 in every direction there is. Agent and `ss` agree
    /// after each step.
    fn begin() -> Result<Self> {
        let network = Network::new(Topology::LoopbackV4)?;
        let link = ControlledLink::new()?;
        let here = ClosingConnections::begin(&network.server)?;
        let there = ClosingConnections::begin(&link.client)?;
        let mut peers = Vec::new();
        for host in ["127.0.0.1", "[::1]"] {
            let address = |port: u16| format!("{host}:{port}").parse::<SocketAddr>();
            let offset = if host.starts_with('[') { V6 } else { 0 };
            here.by_a_process_that_stays(address(STAYS + offset)?)?;
            here.by_a_process_that_leaves(address(LEAVES + offset)?)?;
            here.by_a_process_that_leaves_later(address(LEAVES_LATER + offset)?)?;
            peers.extend(here.by_one_side_whose_process_left(address(ABANDONED + offset)?)?);
            peers.extend(here.by_one_side_whose_process_stays(address(HALF_OPEN + offset)?)?);
        }
        there.with_acknowledgments_lost(&link)?;
        there.by_both_at_once(&link)?;
        Ok(Self { loopback: here.watch()?, link: there.watch()?, _peers: peers, _link: link })
    }

    /// Waits for the end of every TIME_WAIT, and of FIN_WAIT2 that no process holds.
    fn end(self) -> Result<()> {
        for side in [self.loopback, self.link] {
            side.end()?;
        }
        Ok(())
    }
}

/// Connections of one namespace while they are closed.
struct ClosingConnections {
    namespace: Arc<Namespace>,
    agent: Agent,
}

impl ClosingConnections {
    fn begin(namespace: &Arc<Namespace>) -> Result<Self> {
        let agent = Agent::start(Watch::Inside(namespace), "--port 8801-8899")?;
        Ok(Self { namespace: Arc::clone(namespace), agent })
    }

    fn agree(&self, port: u16, states: &[&str]) -> Result<()> {
        await_agreement(&self.namespace, &self.agent, port, states).map(drop)
    }

    fn connected(&self, address: SocketAddr) -> Result<(Peer, Peer)> {
        let peers = connected(&self.namespace, &self.namespace, address)?;
        self.agree(address.port(), &["established", "established"])?;
        Ok(peers)
    }

    /// FIN_WAIT2 and TIME_WAIT while the application holds the socket.
    fn by_a_process_that_stays(&self, address: SocketAddr) -> Result<()> {
        let (mut server, mut client) = self.connected(address)?;
        client.shut_down_write()?;
        self.agree(address.port(), &["close_wait", "fin_wait2"])?;
        server.close()?;
        self.agree(address.port(), &["time_wait"])?;
        client.close()?;
        self.agree(address.port(), &["time_wait"])
    }

    /// FIN_WAIT2 of a timewait socket.
    fn by_a_process_that_leaves(&self, address: SocketAddr) -> Result<()> {
        let (mut server, mut client) = self.connected(address)?;
        client.close()?;
        self.agree(address.port(), &["close_wait", "fin_wait2"])?;
        server.close()?;
        self.agree(address.port(), &["time_wait"])
    }

    /// FIN_WAIT2 of a full socket, and then of a timewait socket.
    fn by_a_process_that_leaves_later(&self, address: SocketAddr) -> Result<()> {
        let (mut server, mut client) = self.connected(address)?;
        client.shut_down_write()?;
        self.agree(address.port(), &["close_wait", "fin_wait2"])?;
        client.close()?;
        self.agree(address.port(), &["close_wait", "fin_wait2"])?;
        server.close()?;
        self.agree(address.port(), &["time_wait"])
    }

    /// FIN_WAIT2 of a timewait socket whose peer never closes.
    fn by_one_side_whose_process_left(&self, address: SocketAddr) -> Result<[Peer; 2]> {
        let (server, mut client) = self.connected(address)?;
        client.close()?;
        self.agree(address.port(), &["close_wait", "fin_wait2"])?;
        Ok([server, client])
    }

    /// FIN_WAIT2 of a socket whose peer never closes.
    fn by_one_side_whose_process_stays(&self, address: SocketAddr) -> Result<[Peer; 2]> {
        let (server, mut client) = self.connected(address)?;
        client.shut_down_write()?;
        self.agree(address.port(), &["close_wait", "fin_wait2"])?;
        Ok([server, client])
    }

    /// TIME_WAIT that starts anew whenever the peer retransmits its FIN.
    fn with_acknowledgments_lost(&self, link: &ControlledLink) -> Result<()> {
        let (mut server, mut client) =
            connected(&link.server, &link.client, link.address(ACKNOWLEDGMENTS_LOST))?;
        client.close()?;
        self.agree(ACKNOWLEDGMENTS_LOST, &["fin_wait2"])?;
        let handshake_ack = Loss { direction: Direction::ToServer, flags: 0, data: false };
        link.lose(handshake_ack);
        server.close()?;
        link.await_loss()?;
        self.agree(ACKNOWLEDGMENTS_LOST, &["time_wait"])?;
        link.lose(handshake_ack);
        link.await_loss()?;
        link.server.await_no_traffic(ACKNOWLEDGMENTS_LOST)
    }

    fn by_both_at_once(&self, link: &ControlledLink) -> Result<()> {
        let (mut server, mut client) = connected(&link.server, &link.client, link.address(BOTH))?;
        link.hold();
        client.close()?;
        server.close()?;
        link.server.await_state(BOTH, "fin_wait1")?;
        self.agree(BOTH, &["fin_wait1"])?;
        link.release();
        self.agree(BOTH, &["time_wait"])
    }

    /// Polls from now on when sockets end.
    fn watch(self) -> Result<Side> {
        let late = ScrapedAgent::start(&self.namespace, "--port 8801-8899 --output none", Stdio::null())?;
        let watcher = Watcher::start(&self.namespace)?;
        Ok(Side { namespace: self.namespace, agent: self.agent, late, watcher })
    }
}

impl Side {
    fn end(self) -> Result<()> {
        let ended = self.watcher.finish()?;
        let ports: Vec<u16> = ended.keys().map(|(_, remote)| remote.port()).collect();
        for port in ports {
            self.agent
                .events
                .wait_for("the end of all that ended", |events| {
                    let open = last_states(events, port);
                    open.keys().all(|ends| !ended.contains_key(ends)).then_some(())
                })
                .with_context(|| format!("reported of port {port}: {:#?}", self.agent.events.so_far()))?;
        }
        let shown: Vec<_> =
            self.namespace.all_sockets()?.into_iter().filter(|row| row.state != "listen").collect();
        check_counters(&samples(&self.namespace)?, &ended)?;
        check_counters(&self.late.samples()?, &ended).context("the agent that was started later")?;
        self.late.stop()?;
        let report = self.agent.stop()?;
        for row in shown {
            let reported = last_states(&report.events, row.local.port().min(row.remote.port()));
            let reported = reported.get(&(row.local, row.remote));
            ensure!(reported == Some(&row.state), "ss shows {row:?}, last reported was {reported:?}");
        }
        for (ends, end) in ended {
            check_end(&report, ends, end).with_context(|| {
                let reported: Vec<_> = report.events.iter().filter(|event| is_of(event, ends)).collect();
                format!("of {} to {}, for which {reported:#?}", ends.0, ends.1)
            })?;
        }
        Ok(())
    }
}

/// When `ss` showed a socket for the last time, and when it first did not.
#[derive(Clone, Copy, Debug)]
struct End {
    shown: Timestamp,
    missing: Timestamp,
}

/// As many sockets of each port were counted to leave TIME_WAIT and FIN_WAIT2 for CLOSE as `ss` no
/// longer shows.
fn check_counters(samples: &Samples, ended: &BTreeMap<Ends, End>) -> Result<()> {
    let mut expected: BTreeMap<(u16, &str), u64> = BTreeMap::new();
    for (_, remote) in ended.keys() {
        *expected.entry((remote.port(), end_of(remote.port()))).or_default() += 1;
    }
    ensure!(!expected.is_empty(), "nothing has ended");
    for port in 8801..=8899 {
        for from in ["fin_wait2", "time_wait"] {
            let labels = [("port", &*port.to_string()), ("from", from), ("to", "close")];
            let counted = samples.sum("state_transitions_total", &labels)?;
            let expected = expected.get(&(port, from)).copied().unwrap_or(0);
            ensure!(counted == expected, "{from} of port {port} ended {expected} times; counted: {counted}");
        }
    }
    Ok(())
}

/// The last state of a client of this port.
fn end_of(port: u16) -> &'static str {
    if [ABANDONED, ABANDONED + V6].contains(&port) { "fin_wait2" } else { "time_wait" }
}

/// The socket was reported in CLOSE when `ss` no longer showed it, and closed once.
fn check_end(report: &Report, ends: Ends, end: End) -> Result<()> {
    let of_end = |kind| report.of_kind(kind).filter(move |event| is_of(event, ends));
    let last: Vec<_> = of_end("state").filter(|event| event["to"] == "close").collect();
    let [last] = last[..] else { return Err(anyhow!("it entered CLOSE {} times", last.len())) };
    let from = end_of(ends.1.port());
    ensure!(last["from"] == from && last["evidence"] == "timer", "not the end of {from}: {last}");
    let closed = of_end("closed").count();
    ensure!(closed == 1, "it is reported as closed {closed} times");

    let reported = time_of(last)?;
    ensure!(
        reported <= end.missing + CLOCK_STEP && reported >= end.shown - TIMER_SLACK,
        "reported as closed at {reported}, last shown by ss at {}, no longer at {}",
        end.shown,
        end.missing
    );
    if ends.1.port() == ACKNOWLEDGMENTS_LOST {
        let fins: Vec<_> = report
            .of_kind("segment")
            .filter(|event| event["step"] == "fin" && event["src"] == ends.1.to_string().as_str())
            .collect();
        ensure!(fins.len() >= 3, "two retransmitted FINs expected: {fins:#?}");
        let since = reported.duration_since(time_of(fins[fins.len() - 1])?);
        ensure!(since == TIME_WAIT, "TIME_WAIT lasted {since} from the peer's last FIN on");
    }
    Ok(())
}

fn is_of(event: &Event, (local, remote): Ends) -> bool {
    event["local"] == local.to_string().as_str() && event["remote"] == remote.to_string().as_str()
}

fn time_of(event: &Event) -> Result<Timestamp> {
    Ok(event["time"].as_str().context("no time")?.parse()?)
}

/// Polls `ss` until it shows none of the sockets that only the kernel holds.
struct Watcher {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Result<BTreeMap<Ends, End>>>,
}

impl Watcher {
    fn start(namespace: &Arc<Namespace>) -> Result<Self> {
        let mut kept = BTreeMap::new();
        for row in namespace.all_sockets()? {
            if row.state == "time_wait" || row.state == "fin_wait2" && end_of(row.remote.port()) == row.state
            {
                kept.insert((row.local, row.remote), Timestamp::now());
            }
        }
        let namespace = Arc::clone(namespace);
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || watch(&namespace, kept, &stopped));
        Ok(Self { stop, thread })
    }

    fn finish(self) -> Result<BTreeMap<Ends, End>> {
        // It must not be stopped before it is through.
        let Self { stop, thread } = self;
        let ended = thread.join().map_err(|_| anyhow!("the thread that watches ss panicked"))?;
        drop(stop);
        ended
    }
}

fn watch(
    namespace: &Namespace,
    mut kept: BTreeMap<Ends, Timestamp>,
    stopped: &mpsc::Receiver<()>,
) -> Result<BTreeMap<Ends, End>> {
    let begun = Instant::now();
    let mut ended = BTreeMap::new();
    while !kept.is_empty() {
        ensure!(begun.elapsed() < TOO_LONG, "still there after {TOO_LONG:?}: {kept:?}");
        // The kernel does not notify when a timewait socket ends. Until the first of them can end,
        // few polls are enough.
        let pause =
            if begun.elapsed() < SETTLED { Duration::from_secs(1) } else { Duration::from_millis(100) };
        if stopped.recv_timeout(pause) != Err(mpsc::RecvTimeoutError::Timeout) {
            break;
        }
        let before = Timestamp::now();
        let rows = namespace.all_sockets()?;
        let shown: Vec<Ends> = rows.iter().map(|row| (row.local, row.remote)).collect();
        let missing = Timestamp::now();
        for (ends, last_shown) in &mut kept {
            if shown.contains(ends) {
                *last_shown = before;
            } else {
                ended.insert(*ends, End { shown: *last_shown, missing });
            }
        }
        kept.retain(|ends, _| !ended.contains_key(ends));
    }
    Ok(ended)
}

const STAYS: u16 = 8801;
const LEAVES: u16 = 8802;
const LEAVES_LATER: u16 = 8803;
const ABANDONED: u16 = 8804;
const HALF_OPEN: u16 = 8805;
/// What is added to these for IPv6.
const V6: u16 = 10;
const ACKNOWLEDGMENTS_LOST: u16 = 8821;
const BOTH: u16 = 8822;

/// Kernel: `TCP_TIMEWAIT_LEN`.
const TIME_WAIT: SignedDuration = SignedDuration::from_secs(60);
/// How late the kernel's timers are at worst: of a minute, 512 jiffies of 10 ms
/// (kernel/time/timer.c); and a moment for the softirq.
const TIMER_SLACK: SignedDuration = SignedDuration::from_millis(5_620);
/// How far the wall clock may be slewed between two readings by the agent.
const CLOCK_STEP: SignedDuration = SignedDuration::from_millis(20);
/// No timewait socket ends before.
const SETTLED: Duration = Duration::from_secs(50);
const TOO_LONG: Duration = Duration::from_secs(90);
