//! What a scrape of 256 ports costs, from counters that were read to text. Run by `cargo xtask bench scrape`.

use std::time::{Duration, Instant};

use anyhow::Result;
use prometheus::TextEncoder;
use tcp_monitor::metrics::{BuildInfo, Collector, PortLabel, PortSockets, Snapshot};
use tcp_monitor_common::counters::PortCounters;

fn main() -> Result<()> {
    for reasons_known in [true, false] {
        let labels = || (1..=PORTS).map(PortLabel::Port);
        let ports = labels().map(|port| (port, PortCounters::ZERO)).collect();
        let sockets = Some(labels().map(|port| (port, PortSockets::default())).collect());
        let snapshot = Snapshot { ports, sockets, reasons_known, ..Snapshot::default() };
        let build = BuildInfo { version: "0".into(), kernel: "0".into() };
        let collector = Collector::new(Box::new(move || Ok(snapshot.clone())), build);
        let mut times = Vec::new();
        let mut text = String::new();
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            text = TextEncoder::new().encode_to_string(&collector.gather()?)?;
            times.push(begin.elapsed());
        }
        times.sort();
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        println!(
            "{PORTS} ports, reasons of resets {}: {series} series, {} KiB, {:.1} ms (median of {ROUNDS})",
            if reasons_known { "known" } else { "not known" },
            text.len() >> 10,
            milliseconds(times[ROUNDS / 2]),
        );
    }
    Ok(())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

const PORTS: u16 = 256;
const ROUNDS: usize = 21;
