//! A SYN flood: every count is exact, the agent's memory stays small, and the reset of an
//! established connection is reported.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    support::{
        child_process::ChildProcess,
        deadline::Deadline,
        flood_device::{DEVICE, DeviceCounts, FloodDevice, HERE},
        namespace::Namespace,
        scrape::Samples,
        scraped_agent::ScrapedAgent,
        trial::{self, trial},
    },
    workload::identities::Mismatches,
};

pub(crate) fn trials() -> Vec<Trial> {
    let flood_with = |syncookies| {
        trial(
            format!("a SYN flood is counted exactly, with tcp_syncookies {syncookies}"),
            &[trial::AGENT, trial::TUN],
            move || flood(syncookies),
        )
    };
    vec![flood_with(0), flood_with(1)]
}

fn flood(syncookies: u8) -> Result<()> {
    let namespace = Namespace::new()?;
    namespace.set("net/ipv4/tcp_syncookies", &syncookies.to_string())?;
    // What is dropped past three quarters of this, TCPReqQFullDrop does not have.
    namespace.set("net/ipv4/tcp_max_syn_backlog", &(4 * BACKLOG).to_string())?;
    let device = FloodDevice::new(&namespace)?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("log");
    let arguments = format!("--port {PORT} --output json");
    let started = Instant::now();
    let agent = ScrapedAgent::start(&namespace, &arguments, File::create(&path)?.into())?;

    let listener = namespace.enter(|| {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.bind(&SocketAddr::new(HERE.into(), PORT).into())?;
        listener.listen(BACKLOG)?;
        Ok(listener)
    })?;
    let client = namespace.enter(|| Ok(TcpStream::connect((HERE, PORT))?))?;
    let (server, _) = listener.accept()?;
    let client_address = client.local_addr()?;
    let (sent, usage) = flood_and_reset(&device, client, &agent.process)?;
    drop(server);
    // The half-open connections end with it, and no SYN-ACK is retransmitted any more.
    drop(listener);

    let flood = await_counts(&agent, &namespace, &device, sent)?;
    let peak = peak_memory(&agent.process)?;
    agent.stop()?;
    let log = Log::read(&path, client_address)?;
    log.check_reset()?;
    log.check_losses(&flood, started.elapsed())?;
    ensure!(peak <= MAX_MEMORY, "the agent took {peak} kB");
    ensure!(usage.cpu_time <= usage.elapsed + CPU_TIME_STEPS, "the agent took more than one core: {usage:?}");
    Ok(())
}

/// CPU time that a process used.
#[derive(Debug)]
struct Usage {
    cpu_time: Duration,
    elapsed: Duration,
}

/// Floods the port, and halfway through resets the connection of `client`.
fn flood_and_reset(
    device: &FloodDevice<'_>,
    client: TcpStream,
    agent: &ChildProcess,
) -> Result<(u64, Usage)> {
    let (report_halfway, halfway) = mpsc::channel();
    thread::scope(|scope| {
        let (begin, cpu_time) = (Instant::now(), agent.cpu_time()?);
        let flood = scope.spawn(move || {
            let mut report_halfway = Some(report_halfway);
            device.flood(PORT, |sent| {
                let is_past = |part: u32| sent >= SYNS / u64::from(part) && begin.elapsed() >= LASTS / part;
                if is_past(2)
                    && let Some(sender) = report_halfway.take()
                {
                    // The receiver may have failed.
                    let _ = sender.send(());
                }
                !is_past(1)
            })
        });
        // An error means that the flood ended early. The thread returns why.
        if halfway.recv().is_ok() {
            SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
            drop(client);
        }
        let sent = flood.join().map_err(|_| anyhow!("the flood panicked"))??;
        let usage = Usage { cpu_time: agent.cpu_time()?.saturating_sub(cpu_time), elapsed: begin.elapsed() };
        Ok((sent, usage))
    })
}

/// Waits until all counts are as expected; some change later.
fn await_counts(
    agent: &ScrapedAgent,
    namespace: &Namespace,
    device: &FloodDevice<'_>,
    sent: u64,
) -> Result<FloodCounts> {
    let mut deadline = Deadline::new();
    loop {
        let flood = FloodCounts {
            sent,
            agent: agent.samples()?,
            kernel: namespace.tcp_counters()?,
            counts: device.counts()?,
        };
        let mismatches = flood.check()?;
        if mismatches.is_empty() {
            return Ok(flood);
        }
        deadline.observe(&mismatches);
        deadline.check().with_context(|| format!("{mismatches:#?}"))?;
        thread::sleep(Duration::from_millis(50));
    }
}

/// All counts of the flood.
struct FloodCounts {
    /// SYNs.
    sent: u64,
    agent: Samples,
    /// `/proc/net/snmp` and `/proc/net/netstat`.
    kernel: BTreeMap<String, u64>,
    counts: DeviceCounts,
}

impl FloodCounts {
    fn check(&self) -> Result<Vec<String>> {
        let mut mismatches = Mismatches::default();
        let on_device = |direction, flags| {
            let labels = [("interface", DEVICE), ("direction", direction), ("flags", flags)];
            self.agent.sum("segments_total", &labels)
        };
        let [syns, syn_acks] = [on_device("ingress", "syn")?, on_device("egress", "syn_ack")?];
        mismatches.equal("SYNs", syns, self.sent);
        mismatches.equal("packets received", syns, self.counts.received);
        mismatches.equal("packets sent", syn_acks, self.counts.sent);

        let [cookies, dropped, retransmitted] =
            ["SyncookiesSent", "TCPReqQFullDrop", "TCPSynRetrans"].map(|name| self.kernel(name));
        let [cookies, dropped, retransmitted] = [cookies?, dropped?, retransmitted?];
        mismatches.equal("SYN-ACKs", syn_acks, self.sent - dropped + retransmitted);
        mismatches.equal(
            "SyncookiesSent",
            self.agent.sum("syn_cookies_total", &[("result", "sent")])?,
            cookies,
        );
        let reason = |reason| [("role", "server"), ("reason", reason)];
        mismatches.equal(
            "TCPReqQFullDrop",
            self.agent.sum("handshake_failures_total", &reason("syn_dropped"))?,
            dropped,
        );
        mismatches.equal("TCPSynRetrans", self.agent.sum("syn_retransmits_total", &[])?, retransmitted);
        let requests = self.agent.sum("state_transitions_total", &[("to", "new_syn_recv")])?;
        mismatches.equal("half-open requests", requests, self.sent + 1 - dropped - cookies);
        for direction in ["sent", "received"] {
            let resets = self.agent.sum("resets_total", &[("direction", direction)])?;
            mismatches.equal(&format!("resets {direction}"), resets, 1);
        }
        mismatches.equal("OutRsts", 1, self.kernel("OutRsts")?);
        mismatches.equal("EstabResets", 2, self.kernel("EstabResets")?);

        // Of the connection: a SYN, its answers, and the RST, which loopback shows twice and the
        // log once; the opening and closing of two ends and of the listener; the RST as it was sent
        // and received.
        mismatches.equal("segment records", self.records("segment")?, syns + syn_acks + 4);
        mismatches.equal("state records", self.records("state")?, 8);
        mismatches.equal("reset records", self.records("reset")?, 2);
        mismatches.equal("retransmit records", self.records("retransmit")?, retransmitted);
        Ok(mismatches.list())
    }

    /// Records of a kind that were made, including lost ones.
    fn records(&self, kind: &str) -> Result<u64> {
        ["events_total", "events_lost_total", "events_suppressed_total"]
            .into_iter()
            .map(|metric| self.agent.sum(metric, &[("kind", kind)]))
            .sum()
    }

    fn missing(&self, kind: &str) -> Result<u64> {
        let [lost, suppressed] = ["events_lost_total", "events_suppressed_total"]
            .map(|metric| self.agent.sum(metric, &[("kind", kind)]));
        Ok(lost? + suppressed?)
    }

    fn kernel(&self, name: &str) -> Result<u64> {
        self.kernel.get(name).copied().with_context(|| format!("the kernel has no counter {name}"))
    }
}

/// What the agent printed, without the segments of the flood.
#[derive(Default)]
struct Log {
    /// The times of the first and of the last SYN of the flood.
    flood: Option<[String; 2]>,
    /// Events of the established connection but its segments.
    connection: Vec<Value>,
    lost: Vec<Value>,
}

impl Log {
    fn read(path: &std::path::Path, client: SocketAddr) -> Result<Self> {
        let mut log = Self::default();
        let source = "\"src\":\"198.19.";
        let client = format!("\"{client}\"");
        for line in BufReader::new(File::open(path)?).lines() {
            let line = line?;
            if line.contains("\"event\":\"lost\"") {
                log.lost.push(serde_json::from_str(&line)?);
            } else if line.contains("\"event\":\"segment\"") {
                if line.contains(source) {
                    let time = line.split('"').nth(5).context("a segment has no time")?.to_owned();
                    match &mut log.flood {
                        Some([_, last]) => *last = time,
                        None => log.flood = Some([time.clone(), time]),
                    }
                }
            } else if line.contains(&client) {
                log.connection.push(serde_json::from_str(&line)?);
            }
        }
        Ok(log)
    }

    /// Both ends of the connection were reset during the flood, with evidence from the kernel.
    fn check_reset(&self) -> Result<()> {
        let [first, last] = self.flood.as_ref().context("no SYN of the flood is reported")?;
        for (kind, field, values) in [
            ("reset", "direction", ["sent", "received"]),
            ("closed", "closed_by", ["local_reset", "remote_reset"]),
        ] {
            for value in values {
                let found: Vec<_> = self
                    .connection
                    .iter()
                    .filter(|event| event["event"] == kind && event[field] == value)
                    .collect();
                let [event] = found[..] else { bail!("{} {kind} with {value}: {found:#?}", found.len()) };
                let time = event["time"].as_str().context("no time")?;
                ensure!(
                    first.as_str() < time && time < last.as_str(),
                    "{event} is not between {first} and {last}"
                );
                ensure!(event.get("partial").is_none(), "{event}: it is partial");
            }
        }
        let closings: Vec<_> = self
            .connection
            .iter()
            .filter(|event| event["event"] == "state" && event["to"] == "close")
            .map(|event| &event["evidence"])
            .collect();
        ensure!(closings == ["kernel"; 2], "{closings:?}");
        Ok(())
    }

    /// Lost records are reported, about once a second.
    fn check_losses(&self, flood: &FloodCounts, lived: Duration) -> Result<()> {
        for kind in ["segment", "state", "reset", "retransmit"] {
            let lost = self.lost.iter().filter(|event| event["kind"] == kind);
            let counts: Vec<u64> = lost.filter_map(|event| event["count"].as_u64()).collect();
            let missing = flood.missing(kind)?;
            ensure!(counts.iter().sum::<u64>() == missing, "{counts:?} {kind} records of {missing} lost");
            // And one at the end.
            ensure!(
                counts.len() as u64 <= lived.as_secs() + 1,
                "{counts:?} {kind} records lost in {lived:?}"
            );
        }
        Ok(())
    }
}

/// The most memory a process ever had, kB.
fn peak_memory(process: &ChildProcess) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    Ok(peak.context("no VmHWM")?.parse()?)
}

const PORT: u16 = 8899;
/// The default of `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// The flood sends so many at least, and lasts so long at least.
const SYNS: u64 = 300_000;
const LASTS: Duration = Duration::from_secs(4);
/// kB.
const MAX_MEMORY: u64 = 64 << 10;
/// User and system time are each counted in steps of 10 ms, at both ends.
const CPU_TIME_STEPS: Duration = Duration::from_millis(40);
