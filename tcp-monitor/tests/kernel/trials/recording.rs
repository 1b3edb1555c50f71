//! `--write`: the file has the segments of handshakes and teardowns that tcpdump captured, with the
//! agent's comments, and tshark reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    agent::{Agent, Event, Report, Watch, agent_path, await_attached},
    capture::{Capture, packets},
    child_process::{ChildProcess, output},
    line_reader::LineReader,
    namespace::Namespace,
    steps::steps,
    topology::{Network, Topology},
    traffic::{self, End, Traffic},
    trial::{self, Need, trial},
    tshark_packet::Packet,
    unique_port::unique_port,
};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (index, traffic) in traffic::ALL.iter().enumerate() {
        // Each traffic once, each topology at least once.
        let topology = Topology::ALL[index % Topology::ALL.len()];
        let name = format!("{} {} is recorded as tcpdump captured it", traffic.phrase, topology.phrase());
        trials.push(trial(name, &[trial::AGENT, trial::CAPTURE], move || is_recorded(traffic, topology)));
    }
    let tshark = &[Need::Tool("tshark")];
    trials.extend([
        trial("tshark follows a recording on standard output", &[trial::AGENT, tshark], follows),
        trial(
            "a full disk ends the recording, and the agent continues",
            &[trial::AGENT, tshark, &[Need::Tool("mount")]],
            full_disk,
        ),
    ]);
    trials
}

fn is_recorded(traffic: &Traffic, topology: Topology) -> Result<()> {
    let network = Network::new(topology)?;
    // As in the traffic matrix: both ends of a veth are watched only if all namespaces are, and
    // then the port must be unique.
    let both: [&Namespace; 2] = [&network.client, &network.server];
    let (watch, port) = match topology {
        Topology::LoopbackV4 | Topology::LoopbackV6 | Topology::LoopbackMapped => {
            (Watch::Inside(&network.server), traffic.port)
        }
        Topology::VethV4 | Topology::VethV6 => (Watch::AllOf(&both), unique_port()),
    };
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("recording.pcapng");
    let agent = Agent::start(watch, &format!("--port {port} --write {}", file.display()))?;
    let capture = Capture::start(&network.client, network.interface, network.address_behind)?;
    (traffic.script)(&network, port)?;
    network.await_no_traffic(port)?;
    let seen: Vec<Packet> = steps(&capture.finish()?.packets).into_iter().map(|step| step.packet).collect();
    let report = agent.stop()?;

    let recorded = packets(&file)?;
    ensure!(
        sorted(&recorded) == sorted(&seen),
        "recorded: {:#?}\nseen by tcpdump: {:#?}",
        sorted(&recorded),
        sorted(&seen)
    );
    check_soundness(&file)?;
    check_comments(&file, &report).with_context(|| format!("of {:#?}", report.events))?;
    check_reading(&file, &report, traffic)
}

/// What must be equal in a recording and a capture, sorted: all but Wireshark's numbers of streams,
/// and its analysis, which lacks the data that is not recorded.
fn sorted(packets: &[Packet]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for packet in packets {
        let Packet { src, dst, flags, seq, ack, seq_rel, ack_rel, len, header, options, .. } = packet;
        let line =
            format!("{src} {dst} {flags:x} {seq} {ack} {seq_rel} {ack_rel} {len} {header:?} {options:?}");
        *counts.entry(line).or_default() += 1;
    }
    counts
}

/// No packet is malformed or otherwise wrong in itself.
fn check_soundness(file: &Path) -> Result<()> {
    let mismatches = "_ws.malformed || _ws.expert.severity == error || ip.checksum.status != 1";
    let checks = ["-o", "ip.check_checksum:TRUE", "-Y", mismatches];
    let table = output(Command::new("tshark").args(["-n", "-r"]).arg(file).args(checks))?;
    ensure!(table.is_empty(), "{table}");
    Ok(())
}

/// Every handshake and every closed connection has one comment, on a packet of that connection: for
/// a completed handshake and an orderly end on a packet that the socket received.
fn check_comments(file: &Path, report: &Report) -> Result<()> {
    let table = output(
        Command::new("tshark")
            .args(["-n", "-r"])
            .arg(file)
            .args(["-T", "fields", "-E", "separator=/t", "-E", "aggregator=|"])
            .args(
                ["ip.dst", "ipv6.dst", "tcp.dstport", "frame.comment"].iter().flat_map(|field| ["-e", field]),
            ),
    )?;
    let mut comments = Vec::new();
    for line in table.lines() {
        let cells: Vec<&str> = line.splitn(4, '\t').collect();
        let &[v4, v6, port, text] = cells.as_slice() else { continue };
        let receiver = if v6.is_empty() { format!("{v4}:{port}") } else { format!("[{v6}]:{port}") };
        comments.extend(text.split('|').map(|comment| (receiver.clone(), comment.to_owned())));
    }
    for event in report.of_kind("handshake").chain(report.of_kind("closed")) {
        let is_reset = event["closed_by"].as_str().is_some_and(|by| by.ends_with("_reset"));
        let (label, received) = match (event["event"].as_str(), event["result"].as_str()) {
            (Some("closed"), _) => ("CLOSED", !is_reset),
            (_, Some("completed")) => ("OPEN", true),
            // Known from the RST that the closed port sends.
            (_, Some("no_listener")) => ("FAILED", false),
            _ => ("FAILED", true),
        };
        let arrow = if event["role"] == "server" { "←" } else { "→" };
        let text = |name: &str| event[name].as_str().unwrap_or_default();
        let (local, remote) = (text("local"), text("remote"));
        let start = format!("{label} {local} {arrow} {remote} ");
        let receivers: Vec<&str> = comments
            .iter()
            .filter(|(_, comment)| comment.starts_with(&start))
            .map(|(receiver, _)| receiver.as_str())
            .collect();
        ensure!(
            matches!(receivers[..], [receiver] if receiver == local || (!received && receiver == remote)),
            "{start:?} is on packets to {receivers:?}: {comments:#?}"
        );
    }
    Ok(())
}

/// `tcp-monitor read` of the recording reports the same handshakes, and the same `closed_by`, as
/// the agent.
fn check_reading(file: &Path, report: &Report, traffic: &Traffic) -> Result<()> {
    // Data is not recorded. After data, the sequence number of a RST is not the one that the reader
    // expects next, so the reader cannot know that the RST was accepted (RFC 5961, section 3.2).
    let resets_after_data = |end: &End| end.closed_by.contains(&"local_reset") && end.sent > 0;
    let resets_after_data = traffic.ends.is_some_and(|ends| ends.iter().any(resets_after_data));
    let text = output(Command::new(agent_path()).args(["read", "--output", "json"]).arg(file))?;
    let read: Vec<Event> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    for (kind, outcome) in [("handshake", "result"), ("closed", "closed_by")] {
        if kind == "closed" && resets_after_data {
            continue;
        }
        let summary = |events: &[Event]| -> BTreeSet<String> {
            let reported = events.iter().filter(|event| event["event"] == kind);
            reported
                .map(|event| {
                    let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
                    [text("role"), text("local"), text("remote"), text(outcome)].join(" ")
                })
                .collect()
        };
        let (live, read) = (summary(&report.events), summary(&read));
        ensure!(live == read, "{kind}: live {live:#?}, read from the recording {read:#?}");
    }
    Ok(())
}

fn follows() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let mut command = Watch::Inside(&network.server).command();
    command.args(["--port", PORT, "--listen", "none", "--output", "none", "--write", "-"]);
    let mut agent =
        ChildProcess::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let messages = LineReader::read(agent.stderr()?, str::to_owned);
    let mut tshark = ChildProcess::spawn(
        Command::new("tshark")
            .args(["-l", "-n", "-r", "-", "-T", "fields", "-e", "frame.comment"])
            .stdin(agent.stdout()?)
            .stdout(Stdio::piped())
            .stderr(Stdio::null()),
    )?;
    let comments = LineReader::read(tshark.stdout()?, str::to_owned);
    await_attached(&agent, &messages)?;
    let (_server, _client) = traffic::connected_pair(&network, PORT.parse()?)?;
    // The connection stays open: tshark must print the comments before it ends, and before the
    // agent ends.
    comments.wait_for("the handshake", |lines| {
        let opened = lines.iter().map(|line| line.matches("OPEN ").count()).sum::<usize>();
        (opened == 2).then_some(())
    })?;
    tshark.kill()?;
    let status = agent.wait()?;
    ensure!(status.code() == Some(0), "{status}: {:#?}", messages.to_end()?);
    Ok(())
}

fn full_disk() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let disk = SmallDisk::new()?;
    let file = disk.0.path().join("recording.pcapng");
    let agent =
        Agent::start(Watch::Inside(&network.server), &format!("--port {PORT} --write {}", file.display()))?;
    let is_over = |lines: &[String]| lines.iter().filter(|line| line.contains("the recording ends")).count();
    for round in 0.. {
        traffic::greeting(&network, PORT.parse()?)?;
        if is_over(&agent.messages.so_far()) > 0 {
            break;
        }
        ensure!(round < 200, "{} bytes were enough for {round} connections", SmallDisk::BYTES);
    }
    let reported = agent.events.so_far().len();
    traffic::greeting(&network, PORT.parse()?)?;
    agent.events.wait_for("the log to go on", |events| {
        events[reported.min(events.len())..]
            .iter()
            .any(|event: &Value| event["event"] == "closed")
            .then_some(())
    })?;
    agent.process.signal(Signal::INT)?;
    let report = agent.finish()?;
    ensure!(report.status.code() == Some(1), "{}: {:#?}", report.status, report.messages);
    ensure!(is_over(&report.messages) == 1, "{:#?}", report.messages);
    let messages = report.messages.join("\n");
    ensure!(
        messages.contains("No space left on device") && messages.contains("the recording is not complete"),
        "{messages}"
    );
    // tshark fails where a file ends within a block.
    let recorded = packets(&file)?;
    ensure!(recorded.len() > 20, "{} packets only", recorded.len());
    Ok(())
}

/// A file system with little space.
struct SmallDisk(TempDir);

impl SmallDisk {
    const BYTES: u32 = 16 << 10;

    fn new() -> Result<Self> {
        let disk = Self(tempfile::tempdir()?);
        let size = format!("size={}", Self::BYTES);
        output(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(disk.0.path()))?;
        Ok(disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = output(Command::new("umount").arg("--lazy").arg(self.0.path()));
    }
}

const PORT: &str = "8899";
