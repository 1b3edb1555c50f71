//! Counts are exact when the kernel receives segments in lists, and the classifier sees a whole
//! list before TCP processes its first segment.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::ErrorKind,
    net::SocketAddr,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::{
    support::{
        burst_device::{BurstDevice, list_len},
        deadline::{Deadline, poll_until},
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
    // So that no half-open connection times out during the trial.
    namespace.set("net/ipv4/tcp_synack_retries", "5")?;
    let bursts = BurstDevice::new(&namespace)?;
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    let ports = format!("--port {CLOSED},{PORT},{OTHER} --output json");
    let agent = ScrapedAgent::start(&namespace, &ports, File::create(&log)?.into())?;

    let mut exchange = Exchange { bursts: &bursts, namespace: &namespace, expected: Expected::default() };
    for backlog in [2, 5, 128] {
        for ports in [&[PORT][..], &[PORT, OTHER]] {
            exchange.handshakes(ports, backlog)?;
            exchange.interleaved(ports, backlog)?;
            exchange.repeated(ports, backlog)?;
        }
    }
    exchange.resets_after_handshake_acks()?;
    exchange.no_listener()?;
    exchange.resets_in_time_wait()?;
    let expected = exchange.expected;
    poll_until(
        "counts that are equal",
        || Ok(check(&agent.samples()?, &namespace.tcp_counters()?, &expected)?.list()),
        Vec::is_empty,
    )?;
    agent.stop()?;
    check_lists(&fs::read_to_string(log)?)
}

/// Expected counts, from what the outside hosts sent.
#[derive(Debug, Default)]
struct Expected {
    closed: u64,
    no_socket: u64,
    time_wait: u64,
    rsts: u64,
}

struct Exchange<'a> {
    bursts: &'a BurstDevice,
    namespace: &'a Namespace,
    expected: Expected,
}

impl<'a> Exchange<'a> {
    /// SYNs, then the handshake ACKs of those that were answered, then other SYNs.
    fn handshakes(&mut self, ports: &[u16], backlog: i32) -> Result<()> {
        let listeners = self.listen(ports, backlog)?;
        for _ in 0..2 {
            let mut hosts = self.new_hosts(ports, BURST);
            self.send(hosts.iter().map(syn).collect())?;
            hosts.retain_mut(OutsideHost::has_syn_ack);
            self.send(hosts.iter().map(handshake_ack).collect())?;
        }
        drop(listeners);
        Ok(())
    }

    /// Handshake ACKs and SYNs in turn.
    fn interleaved(&mut self, ports: &[u16], backlog: i32) -> Result<()> {
        let listeners = self.listen(ports, backlog)?;
        let mut opened: Vec<OutsideHost<'_>> = Vec::new();
        for _ in 0..4 {
            let mut hosts = self.new_hosts(ports, BURST / 2);
            let mut packets = Vec::new();
            for (i, host) in hosts.iter().enumerate() {
                packets.push(syn(host));
                packets.extend(opened.get(i).map(handshake_ack));
            }
            self.send(packets)?;
            hosts.retain_mut(OutsideHost::has_syn_ack);
            opened = hosts;
        }
        drop(listeners);
        Ok(())
    }

    /// SYNs that are received twice.
    fn repeated(&mut self, ports: &[u16], backlog: i32) -> Result<()> {
        let listeners = self.listen(ports, backlog)?;
        let hosts = self.new_hosts(ports, BURST / 2);
        self.send(hosts.iter().flat_map(|host| [syn(host), syn(host)]).collect())?;
        drop(listeners);
        Ok(())
    }

    /// Clients that reset as soon as they are connected.
    fn resets_after_handshake_acks(&mut self) -> Result<()> {
        let listeners = self.listen(&[PORT], 128)?;
        let mut hosts = self.new_hosts(&[PORT], BURST / 2);
        self.send(hosts.iter().map(syn).collect())?;
        hosts.retain_mut(OutsideHost::has_syn_ack);
        self.send(hosts.iter().flat_map(|host| [handshake_ack(host), rst(host)]).collect())?;
        self.expected.rsts += hosts.len() as u64;
        drop(listeners);
        Ok(())
    }

    fn no_listener(&mut self) -> Result<()> {
        let hosts = self.new_hosts(&[CLOSED], BURST);
        self.send(hosts.iter().map(syn).collect())?;
        self.send(hosts.iter().map(rst).collect())?;
        self.expected.closed += hosts.len() as u64;
        self.expected.no_socket += hosts.len() as u64;
        self.expected.rsts += hosts.len() as u64;
        Ok(())
    }

    fn resets_in_time_wait(&mut self) -> Result<()> {
        let listeners = self.listen(&[PORT], 128)?;
        let mut hosts = self.new_hosts(&[PORT], BURST);
        for host in &mut hosts {
            host.open()?;
            host.acknowledge();
            drop(listeners[0].accept()?);
            host.await_fin()?;
            host.fin();
            host.await_acknowledgement()?;
        }
        self.send(hosts.iter().map(rst).collect())?;
        self.expected.time_wait += hosts.len() as u64;
        self.expected.rsts += hosts.len() as u64;
        Ok(())
    }

    fn listen(&self, ports: &[u16], backlog: i32) -> Result<Vec<Socket>> {
        let listen = |port| {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            listener.set_reuse_address(true)?;
            let address = SocketAddr::new(INSIDE_V4.into(), port).into();
            let deadline = Deadline::new();
            // A child process that another trial starts also has the previous listener, until it
            // executes its program.
            while let Err(error) = listener.bind(&address) {
                ensure!(error.kind() == ErrorKind::AddrInUse && deadline.check().is_ok(), error);
                thread::sleep(Duration::from_millis(1));
            }
            listener.listen(backlog)?;
            Ok(listener)
        };
        self.namespace.enter(|| ports.iter().map(|port| listen(*port)).collect())
    }

    fn new_hosts(&self, ports: &[u16], count: usize) -> Vec<OutsideHost<'a>> {
        let host = |port: &u16| self.bursts.outside.new_host(SocketAddr::new(INSIDE_V4.into(), *port), 7);
        ports.iter().cycle().take(count).map(host).collect()
    }

    /// Sends a burst, and waits until all of it was processed.
    fn send(&mut self, mut packets: Vec<Vec<u8>>) -> Result<()> {
        // When this host is refused, all packets before its SYN were processed.
        let last = self.bursts.outside.new_host(SocketAddr::new(INSIDE_V4.into(), CLOSED), 7);
        packets.push(syn(&last));
        self.bursts.send(&packets)?;
        last.await_rst()?;
        self.expected.closed += 1;
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

fn check(agent: &Samples, kernel: &BTreeMap<String, u64>, expected: &Expected) -> Result<Mismatches> {
    let mut mismatches = Mismatches::default();
    let sum = |metric, labels: &[(&str, &str)]| agent.sum_or_zero(metric, labels);
    let failures = |reason| sum("handshake_failures_total", &[("role", "server"), ("reason", reason)]);
    let transitions = |from, to| sum("state_transitions_total", &[("from", from), ("to", to)]);
    let received = |phase| sum("resets_total", &[("direction", "received"), ("phase", phase)]);
    let kernel =
        |name: &str| kernel.get(name).copied().with_context(|| format!("the kernel has no counter {name}"));

    mismatches.equal("no listener", failures("no_listener"), expected.closed);
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
    mismatches.equal("RSTs without a socket", received("no_socket"), expected.no_socket);
    mismatches.equal("RSTs in TIME_WAIT", received("time_wait"), expected.time_wait);
    mismatches.equal("RSTs", sum("resets_total", &[("direction", "received")]), expected.rsts);
    mismatches.equal("AttemptFails", received("handshake"), kernel("AttemptFails")?);
    mismatches.equal("requests that were reset", failures("reset"), received("handshake"));
    Ok(mismatches)
}

/// The agent's log shows how many segments were received between a SYN and its SYN-ACK.
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
    // The first segment of a list is processed after the classifier saw all others.
    let others = list_len()? - 1;
    let whole = overtaken.get(&others).copied().unwrap_or(0);
    let longest = overtaken.keys().max().copied().unwrap_or(0);
    ensure!(
        whole >= LISTS && longest == others,
        "how many segments were received before a SYN-ACK: {overtaken:?}"
    );
    Ok(())
}

const CLOSED: u16 = 8898;
const PORT: u16 = 8899;
const OTHER: u16 = 8900;
const BURST: usize = 30;
/// At least so many lists are complete. Of lists without an answer, the length is not known.
const LISTS: usize = 30;
