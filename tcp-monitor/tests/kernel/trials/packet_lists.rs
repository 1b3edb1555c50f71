//! Counts are exact where a driver hands the kernel several segments at a time, and the classifier sees a whole list of them
//! before the first takes effect.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::ErrorKind,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::{
    support::{
        burst_device::{BurstDevice, list_len},
        line_reader::DEADLINE,
        namespace::Namespace,
        outside_host::{INSIDE_V4, OutsideHost},
        packet_builder::{ACK, RST, SYN, Segment},
        scrape::Samples,
        scraped_agent::ScrapedAgent,
        trial::{self, Need, trial},
    },
    workload::identities::Mismatches,
};

pub(crate) fn trials() -> Vec<Trial> {
    [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
        .into_iter()
        .map(|(syncookies, abort)| {
            trial(
                format!(
                    "lists of segments are counted exactly, with tcp_syncookies {syncookies} and \
                     tcp_abort_on_overflow {abort}"
                ),
                &[trial::AGENT, &[Need::PacketLists]],
                move || lists(syncookies, abort),
            )
        })
        .collect()
}

fn lists(syncookies: u8, abort: u8) -> Result<()> {
    let namespace = Namespace::new()?;
    namespace.set("net/ipv4/tcp_syncookies", &syncookies.to_string())?;
    namespace.set("net/ipv4/tcp_abort_on_overflow", &abort.to_string())?;
    // What is dropped past three quarters of this, TCPReqQFullDrop does not have.
    namespace.set("net/ipv4/tcp_max_syn_backlog", "4096")?;
    // Nothing is to end by itself while it is counted.
    namespace.set("net/ipv4/tcp_synack_retries", "5")?;
    let bursts = BurstDevice::new(&namespace)?;
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    let ports = format!("--port {CLOSED},{PORT},{OTHER} --output json");
    let agent = ScrapedAgent::start(&namespace, &ports, File::create(&log)?.into())?;

    let mut play = Exchange { bursts: &bursts, namespace: &namespace, books: Books::default() };
    for backlog in [2, 5, 128] {
        for ports in [&[PORT][..], &[PORT, OTHER]] {
            play.handshakes(ports, backlog)?;
            play.interleaved(ports, backlog)?;
            play.repeated(ports, backlog)?;
        }
    }
    play.resets_after_handshake_acks()?;
    play.nobody_listens()?;
    play.resets_in_time_wait()?;
    let books = play.books;
    let deadline = Instant::now() + DEADLINE;
    loop {
        match check(&agent.samples()?, &namespace.tcp_counters()?, &books)?.none() {
            Ok(()) => break,
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
    agent.stop()?;
    check_lists(&fs::read_to_string(log)?)
}

/// What was sent, and what came of it, as the strangers know it.
#[derive(Debug, Default)]
struct Books {
    closed: u64,
    no_socket: u64,
    time_wait: u64,
    rsts: u64,
}

struct Exchange<'a> {
    bursts: &'a BurstDevice,
    namespace: &'a Namespace,
    books: Books,
}

impl<'a> Exchange<'a> {
    /// SYNs, then the last ACKs of those that were answered, then other SYNs.
    fn handshakes(&mut self, ports: &[u16], backlog: i32) -> Result<()> {
        let listeners = self.listen(ports, backlog)?;
        for _ in 0..2 {
            let mut outside = self.new_host(ports, BURST);
            self.send(outside.iter().map(syn).collect())?;
            outside.retain_mut(OutsideHost::has_syn_ack);
            self.send(outside.iter().map(handshake_ack).collect())?;
        }
        drop(listeners);
        Ok(())
    }

    /// Last ACKs and SYNs by turns.
    fn interleaved(&mut self, ports: &[u16], backlog: i32) -> Result<()> {
        let listeners = self.listen(ports, backlog)?;
        let mut opened: Vec<OutsideHost<'_>> = Vec::new();
        for _ in 0..4 {
            let mut outside = self.new_host(ports, BURST / 2);
            let mut packets = Vec::new();
            for (i, host) in outside.iter().enumerate() {
                packets.push(syn(host));
                packets.extend(opened.get(i).map(handshake_ack));
            }
            self.send(packets)?;
            outside.retain_mut(OutsideHost::has_syn_ack);
            opened = outside;
        }
        drop(listeners);
        Ok(())
    }

    /// SYNs that come twice.
    fn repeated(&mut self, ports: &[u16], backlog: i32) -> Result<()> {
        let listeners = self.listen(ports, backlog)?;
        let outside = self.new_host(ports, BURST / 2);
        self.send(outside.iter().flat_map(|host| [syn(host), syn(host)]).collect())?;
        drop(listeners);
        Ok(())
    }

    /// Clients that leave as soon as they are connected.
    fn resets_after_handshake_acks(&mut self) -> Result<()> {
        let listeners = self.listen(&[PORT], 128)?;
        let mut outside = self.new_host(&[PORT], BURST / 2);
        self.send(outside.iter().map(syn).collect())?;
        outside.retain_mut(OutsideHost::has_syn_ack);
        self.send(outside.iter().flat_map(|host| [handshake_ack(host), rst(host)]).collect())?;
        self.books.rsts += outside.len() as u64;
        drop(listeners);
        Ok(())
    }

    fn nobody_listens(&mut self) -> Result<()> {
        let outside = self.new_host(&[CLOSED], BURST);
        self.send(outside.iter().map(syn).collect())?;
        self.send(outside.iter().map(rst).collect())?;
        self.books.closed += outside.len() as u64;
        self.books.no_socket += outside.len() as u64;
        self.books.rsts += outside.len() as u64;
        Ok(())
    }

    fn resets_in_time_wait(&mut self) -> Result<()> {
        let listeners = self.listen(&[PORT], 128)?;
        let mut outside = self.new_host(&[PORT], BURST);
        for host in &mut outside {
            host.open()?;
            host.acknowledge();
            drop(listeners[0].accept()?);
            host.await_fin()?;
            host.fin();
            host.await_acknowledgement()?;
        }
        self.send(outside.iter().map(rst).collect())?;
        self.books.time_wait += outside.len() as u64;
        self.books.rsts += outside.len() as u64;
        Ok(())
    }

    fn listen(&self, ports: &[u16], backlog: i32) -> Result<Vec<Socket>> {
        let listen = |port| {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            listener.set_reuse_address(true)?;
            let address = SocketAddr::new(INSIDE_V4.into(), port).into();
            let deadline = Instant::now() + DEADLINE;
            // A process that another trial starts has the listener before, too, until it executes its program.
            while let Err(error) = listener.bind(&address) {
                ensure!(error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline, error);
                thread::sleep(Duration::from_millis(1));
            }
            listener.listen(backlog)?;
            Ok(listener)
        };
        self.namespace.enter(|| ports.iter().map(|port| listen(*port)).collect())
    }

    fn new_host(&self, ports: &[u16], count: usize) -> Vec<OutsideHost<'a>> {
        let new_host = |port: &u16| self.bursts.outside.new_host(SocketAddr::new(INSIDE_V4.into(), *port), 7);
        ports.iter().cycle().take(count).map(new_host).collect()
    }

    /// Sends a burst, and awaits that all of it has taken effect.
    fn send(&mut self, mut packets: Vec<Vec<u8>>) -> Result<()> {
        // Whoever is refused after the rest knows that the rest is done.
        let last = self.bursts.outside.new_host(SocketAddr::new(INSIDE_V4.into(), CLOSED), 7);
        packets.push(syn(&last));
        self.bursts.send(&packets)?;
        last.await_rst()?;
        self.books.closed += 1;
        Ok(())
    }
}

fn syn(host: &OutsideHost<'_>) -> Vec<u8> {
    host.packet(Segment::new(SYN, host.seq, 0))
}

fn handshake_ack(host: &OutsideHost<'_>) -> Vec<u8> {
    host.packet(Segment::new(ACK, host.seq, host.ack))
}

fn rst(host: &OutsideHost<'_>) -> Vec<u8> {
    host.packet(Segment::new(RST | ACK, host.seq, host.ack))
}

fn check(agent: &Samples, kernel: &BTreeMap<String, u64>, books: &Books) -> Result<Mismatches> {
    let mut mismatches = Mismatches::default();
    let sum = |metric, labels: &[(&str, &str)]| agent.sum_or_zero(metric, labels);
    let failures = |reason| sum("handshake_failures_total", &[("role", "server"), ("reason", reason)]);
    let transitions = |from, to| sum("state_transitions_total", &[("from", from), ("to", to)]);
    let received = |phase| sum("resets_total", &[("direction", "received"), ("phase", phase)]);
    let kernel =
        |name: &str| kernel.get(name).copied().with_context(|| format!("the kernel has no counter {name}"));

    mismatches.equal("no listener", failures("no_listener"), books.closed);
    mismatches.equal("ListenOverflows", sum("accept_queue_overflows_total", &[]), kernel("ListenOverflows")?);
    mismatches.equal("TCPReqQFullDrop", failures("syn_dropped"), kernel("TCPReqQFullDrop")?);
    let cookies = kernel("SyncookiesSent")?;
    mismatches.equal("SyncookiesSent", sum("syn_cookies_total", &[("result", "sent")]), cookies);
    mismatches.equal("PassiveOpens", transitions("listen", "syn_recv"), kernel("PassiveOpens")?);
    mismatches.equal(
        "handshakes",
        sum("handshakes_total", &[("role", "server")]) + transitions("syn_recv", "close"),
        kernel("PassiveOpens")?,
    );
    let syn_acks = sum("segments_total", &[("direction", "egress"), ("flags", "syn_ack")]);
    let requests = syn_acks - cookies - kernel("TCPSynRetrans")?;
    mismatches.equal("half-open requests", transitions("listen", "new_syn_recv"), requests);
    mismatches.equal(
        "EstabResets",
        transitions("established", "close") + transitions("close_wait", "close"),
        kernel("EstabResets")?,
    );
    mismatches.equal("OutRsts", sum("resets_total", &[("direction", "sent")]), kernel("OutRsts")?);
    mismatches.equal("RSTs to nobody", received("no_socket"), books.no_socket);
    mismatches.equal("RSTs in TIME_WAIT", received("time_wait"), books.time_wait);
    mismatches.equal("RSTs", sum("resets_total", &[("direction", "received")]), books.rsts);
    mismatches.equal("AttemptFails", received("handshake"), kernel("AttemptFails")?);
    mismatches.equal("requests that were reset", failures("reset"), received("handshake"));
    Ok(mismatches)
}

/// The agent's own log shows how many segments came in between a SYN and its SYN-ACK.
fn check_lists(log: &str) -> Result<()> {
    let mut waiting = HashMap::new();
    let mut overtaken = BTreeMap::<usize, usize>::new();
    let mut came_in = 0;
    for line in log.lines() {
        let event: Value = serde_json::from_str(line)?;
        if event["event"] != "segment" {
            continue;
        }
        let end = |name: &str| event[name].as_str().map(str::to_owned);
        if event["direction"] == "ingress" {
            came_in += 1;
            if event["step"] == "syn" {
                waiting.insert(end("src"), came_in);
            }
        } else if event["step"] == "syn_ack"
            && let Some(at) = waiting.remove(&end("dst"))
        {
            *overtaken.entry(came_in - at).or_default() += 1;
        }
    }
    // The first of a list waits for all others to pass.
    let others = list_len()? - 1;
    let whole = overtaken.get(&others).copied().unwrap_or(0);
    let longest = overtaken.keys().max().copied().unwrap_or(0);
    ensure!(whole >= LISTS && longest == others, "how many segments came in before a SYN-ACK: {overtaken:?}");
    Ok(())
}

const CLOSED: u16 = 8898;
const PORT: u16 = 8899;
const OTHER: u16 = 8900;
const BURST: usize = 30;
/// How many lists are whole at least; of which nothing is answered, nothing is known.
const LISTS: usize = 30;
