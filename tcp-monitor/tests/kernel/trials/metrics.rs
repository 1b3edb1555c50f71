//! `/metrics`: promtool finds no fault, Prometheus scrapes it, and counters equal those of a
//! capture and of the kernel.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::{
    agent::{Agent, HTTP, Watch},
    capture::Capture,
    child_process::ChildProcess,
    deadline::poll_until,
    scrape::{get, get_from, samples},
    segment_comparison::{Checksum, compare},
    steps::steps,
    topology::{Network, Topology},
    traffic,
    trial::{self, Need, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "promtool finds no fault in the exposition, and the other pages answer",
            &[trial::AGENT, &[Need::Tool("promtool")]],
            pages,
        ),
        trial(
            "a Prometheus server scrapes the agent",
            &[trial::AGENT, &[Need::Tool("prometheus")]],
            prometheus_scrapes,
        ),
        trial(
            "counters equal what the capture shows and the kernel counted",
            &[trial::AGENT, trial::CAPTURE],
            counters_equal_the_kernels,
        ),
    ]
}

fn pages() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let agent = Agent::start(Watch::Inside(&network.server), &format!("--port {PORT}"))?;
    traffic::greeting(&network, PORT)?;
    network.await_no_traffic(PORT)?;

    let metrics = get(&network.server, "/metrics")?;
    let content_type = metrics.headers.get("content-type").map_or("", String::as_str);
    ensure!(
        metrics.status == 200
            && content_type.starts_with("text/plain")
            && content_type.contains("version=0.0.4"),
        "status {}, content type {content_type}",
        metrics.status
    );
    let complaints = promtool(&metrics.body)?;
    ensure!(complaints.is_empty(), "promtool: {complaints}");

    let health = get(&network.server, "/healthz")?;
    ensure!(
        health.status == 200 && health.body.trim() == "ok",
        "/healthz: {} {}",
        health.status,
        health.body
    );
    let landing = get(&network.server, "/")?;
    ensure!(
        landing.status == 200 && landing.body.contains("/metrics"),
        "/: {} {}",
        landing.status,
        landing.body
    );
    let missing = get(&network.server, "/missing")?;
    ensure!(missing.status == 404, "/missing: {}", missing.status);
    agent.stop()?;
    Ok(())
}

/// What promtool prints of an exposition: nothing if it is correct.
fn promtool(exposition: &str) -> Result<String> {
    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    check.stdin.take().context("stdin is piped")?.write_all(exposition.as_bytes())?;
    let output = check.wait_with_output()?;
    let mut complaints = String::from_utf8_lossy(&output.stdout).into_owned();
    complaints.push_str(&String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        complaints.push_str(&output.status.to_string());
    }
    Ok(complaints)
}

fn prometheus_scrapes() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let agent = Agent::start(Watch::Inside(&network.server), &format!("--port {PORT}"))?;
    traffic::greeting(&network, PORT)?;
    network.await_no_traffic(PORT)?;

    let directory = tempfile::tempdir()?;
    let config = directory.path().join("prometheus.yml");
    fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s}}\n\
             scrape_configs:\n- job_name: tcp-monitor\n  static_configs: [{{targets: ['{HTTP}']}}]\n"
        ),
    )?;
    let _prometheus = ChildProcess::spawn(
        network
            .server
            .command("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={PROMETHEUS}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )?;

    let query = |expression: &str| -> Result<Value> {
        let response = get_from(&network.server, PROMETHEUS, &format!("/api/v1/query?query={expression}"))?;
        Ok(serde_json::from_str::<Value>(&response.body)?["data"]["result"].take())
    };
    // It refuses connections until it is ready.
    let up = || {
        Ok(query("up").map_or_else(|error| format!("{error:#}"), |result| result[0]["value"][1].to_string()))
    };
    poll_until("Prometheus to scrape", up, |up| up == "\"1\"")?;
    let result = query("tcp_monitor_handshakes_total")?;
    for role in ["server", "client"] {
        let Some(series) = result.as_array().into_iter().flatten().find(|series| {
            series["metric"]["role"] == role && series["metric"]["port"] == PORT.to_string().as_str()
        }) else {
            bail!("no handshakes of the {role} in {result}");
        };
        ensure!(series["value"][1] == "1", "one handshake expected: {series}");
    }
    agent.stop()?;
    Ok(())
}

fn counters_equal_the_kernels() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let agent = Agent::start(Watch::Inside(&network.server), &format!("--port {PORT}"))?;
    let capture = Capture::start(&network.client, network.interface, network.address_behind)?;
    traffic::five_clients_of_a_forking_echo_server(&network, PORT)?;
    network.await_no_traffic(PORT)?;
    traffic::refused_port(&network, PORT)?;
    traffic::client_resets(&network, PORT)?;
    network.await_no_traffic(PORT)?;
    let steps = steps(&capture.finish()?.packets);
    // Before the scrape, which is TCP in this namespace too.
    let kernel = network.server.tcp_counters()?;
    let kernel = |name: &str| kernel.get(name).copied().with_context(|| format!("the kernel has no {name}"));
    let samples = samples(&network.server)?;
    let report = agent.stop()?;
    compare(&steps, &report.events, Checksum::Same)?;

    let port = PORT.to_string();
    let ours = |name: &str, labels: &[(&str, &str)]| {
        samples.sum(name, &[labels, &[("port", port.as_str())]].concat())
    };
    let transitions = |from: &str, to: &str| ours("state_transitions_total", &[("from", from), ("to", to)]);
    let captured = |name: &str| steps.iter().filter(|step| step.name == name).count() as u64;
    let lo = |flags: &str| {
        samples.sum("segments_total", &[("interface", "lo"), ("direction", "egress"), ("flags", flags)])
    };
    let resets =
        |direction: &str, phase: &str| ours("resets_total", &[("direction", direction), ("phase", phase)]);
    let equalities = [
        ("handshakes of servers", ours("handshakes_total", &[("role", "server")])?, 6),
        ("handshakes of clients", ours("handshakes_total", &[("role", "client")])?, 6),
        (
            "handshakes refused",
            ours("handshake_failures_total", &[("role", "client"), ("reason", "refused")])?,
            1,
        ),
        ("failures of handshakes of clients", ours("handshake_failures_total", &[("role", "client")])?, 1),
        ("AttemptFails", kernel("AttemptFails")?, 1),
        ("passive opens", transitions("listen", "syn_recv")?, kernel("PassiveOpens")?),
        ("active opens", transitions("close", "syn_sent")?, kernel("ActiveOpens")?),
        (
            "resets of established connections",
            transitions("established", "close")? + transitions("close_wait", "close")?,
            kernel("EstabResets")?,
        ),
        ("resets sent", ours("resets_total", &[("direction", "sent")])?, kernel("OutRsts")?),
        ("resets sent, as captured", ours("resets_total", &[("direction", "sent")])?, captured("rst")),
        (
            "resets received, as captured",
            ours("resets_total", &[("direction", "received")])?,
            captured("rst"),
        ),
        ("resets sent without a socket", resets("sent", "no_socket")?, 1),
        ("resets received in the handshake", resets("received", "handshake")?, 1),
        ("resets sent in ESTABLISHED", resets("sent", "established")?, 1),
        ("resets received in ESTABLISHED", resets("received", "established")?, 1),
        ("SYN segments", lo("syn")?, captured("syn")),
        ("SYN-ACK segments", lo("syn_ack")?, captured("syn_ack")),
        ("FIN segments", lo("fin")?, captured("fin")),
        ("RST segments", lo("rst")?, captured("rst")),
        ("FIN_WAIT1 entered", transitions("established", "fin_wait1")?, 5),
        ("LAST_ACK entered", transitions("close_wait", "last_ack")?, 5),
        ("records of segments", samples.sum("events_total", &[("kind", "segment")])?, steps.len() as u64),
        ("records lost", samples.sum("events_lost_total", &[])?, 0),
        ("records suppressed", samples.sum("events_suppressed_total", &[])?, 0),
        ("SYNs retransmitted", ours("syn_retransmits_total", &[])?, kernel("TCPSynRetrans")?),
        ("data retransmitted", ours("retransmits_total", &[])?, kernel("RetransSegs")?),
    ];
    let mismatches: Vec<_> = equalities.iter().filter(|(_, ours, expected)| ours != expected).collect();
    ensure!(mismatches.is_empty(), "(what, counted, expected): {mismatches:#?}");
    Ok(())
}

const PORT: u16 = 8899;
/// Where the Prometheus server answers, in the trial's namespace.
const PROMETHEUS: &str = "127.0.0.1:9090";
