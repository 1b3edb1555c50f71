//! The rules of docs/metrics.md: Prometheus takes them, and the alerts fire for what they are about
//! and for nothing else.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::support::trial::{Need, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "promtool finds no fault in the rules of the documentation, and their alerts fire",
        &[&[Need::Tool("promtool")]],
        rules_are_sound,
    )]
}

fn rules_are_sound() -> Result<()> {
    let documents = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md"));
    let rules = documents.split_once("```yaml\n").and_then(|(_, rules)| rules.split_once("```"));
    let (rules, _) = rules.context("docs/metrics.md has no rules")?;
    let directory = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> Result<_> {
        let path = directory.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    };
    promtool("check", &file("rules.yml", rules)?)?;
    promtool("test", &file("expected.yml", EXPECTED)?)
}

fn promtool(what: &str, file: &Path) -> Result<()> {
    let output = Command::new("promtool").args([what, "rules"]).arg(file).output()?;
    ensure!(
        output.status.success(),
        "promtool {what} rules: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Port 80 is well, port 81 is not.
const EXPECTED: &str = r#"
rule_files: [rules.yml]
tests:
  - interval: 1m
    input_series:
      - {series: 'tcp_monitor_accept_queue_overflows_total{port="80"}', values: '3x10'}
      - {series: 'tcp_monitor_accept_queue_overflows_total{port="81"}', values: '0x5 1x5'}
      - {series: 'tcp_monitor_syn_cookies_total{port="80",result="sent"}', values: '5x10'}
      - {series: 'tcp_monitor_syn_cookies_total{port="80",result="accepted"}', values: '0+1x10'}
      - {series: 'tcp_monitor_syn_cookies_total{port="81",result="sent"}', values: '0+60x10'}
      - {series: 'tcp_monitor_syn_cookies_total{port="81",result="accepted"}', values: '0+6x10'}
      - {series: 'tcp_monitor_handshake_failures_total{role="server",port="80",reason="reset"}', values: '7x10'}
      - {series: 'tcp_monitor_handshake_failures_total{role="server",port="81",reason="reset"}', values: '0+30x10'}
      - {series: 'tcp_monitor_handshake_failures_total{role="client",port="81",reason="refused"}', values: '0+30x10'}
    alert_rule_test:
      - {eval_time: 4m, alertname: TcpAcceptQueueOverflow}
      - eval_time: 9m
        alertname: TcpAcceptQueueOverflow
        exp_alerts:
          - exp_labels: {port: "81"}
            exp_annotations: {summary: "Port 81 dropped 1 SYNs and ACKs in 5 minutes: its accept queue is full. Call accept() more often, or raise the backlog of listen() and net.core.somaxconn."}
      - eval_time: 10m
        alertname: TcpSynCookies
        exp_alerts:
          - exp_labels: {port: "81", result: sent}
            exp_annotations: {summary: "Port 81 answered 300 SYNs with cookies in 5 minutes: a SYN flood, or too small a backlog for its clients."}
    promql_expr_test:
      - expr: port_reason:tcp_server_handshake_failures:rate5m
        eval_time: 10m
        exp_samples: [{labels: 'port_reason:tcp_server_handshake_failures:rate5m{port="81",reason="reset"}', value: 0.5}]
      - expr: port:tcp_syn_cookies_accepted:ratio_rate5m{port="81"}
        eval_time: 10m
        exp_samples: [{labels: 'port:tcp_syn_cookies_accepted:ratio_rate5m{port="81"}', value: 0.1}]
"#;
