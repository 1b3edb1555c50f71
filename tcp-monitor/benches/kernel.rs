//! What the kernel programs cost, by the kernel's own accounting, under connection churn and under
//! requests on loopback.
//!
//! Runs in a network namespace of its own. Programs that do nothing are attached beside the real
//! ones and see the same traffic: what they cost is the measuring itself, and is subtracted. Run by
//! `cargo xtask bench`, as root.

mod baseline;
mod namespace;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tcp_monitor::counts::ProgramRuns;
use tcp_monitor::kernel::{self, InterfaceSelection, KernelSource};
use tcp_monitor::netns::NetnsSelection;
use tcp_monitor::ports::PortSet;
use tcp_monitor_common::abi::maps::program;

use crate::baseline::Baseline;

fn main() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("ignored: the kernel programs can only be loaded as root");
        return Ok(());
    }
    namespace::enter_new()?;
    println!("{CONNECTIONS} connections, {REQUESTS} requests on loopback; times in ns a run\n");
    println!("{:<52}{:>10}{:>8}{:>8}{:>8}", "", "runs", "total", "empty", "net");
    for scenario in SCENARIOS {
        measure(scenario)?;
    }
    throughput()
}

/// One kind of traffic, seen with certain settings.
struct Scenario {
    traffic: fn() -> io::Result<()>,
    watched: u16,
    records: bool,
    /// What a run of each program is, in this scenario.
    rows: &'static [(&'static str, &'static str)],
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        traffic: churn,
        watched: PORT,
        records: true,
        rows: &[
            (TRANSITION, "transition, with its record"),
            (program::EGRESS, "packet of a short connection, out, with records"),
            (program::INGRESS, "packet of a short connection, in on loopback"),
        ],
    },
    Scenario {
        traffic: churn,
        watched: PORT,
        records: false,
        rows: &[
            (TRANSITION, "transition, counted only"),
            (program::EGRESS, "packet of a short connection, out, counted only"),
        ],
    },
    Scenario {
        traffic: churn,
        watched: OTHER_PORT,
        records: true,
        rows: &[
            (TRANSITION, "transition of another port"),
            (program::EGRESS, "packet of another port, out"),
            (program::INGRESS, "packet of another port, in"),
        ],
    },
    Scenario {
        traffic: requests,
        watched: PORT,
        records: true,
        rows: &[
            (program::EGRESS, "data packet of a watched port, out"),
            (program::INGRESS, "data packet of a watched port, in on loopback"),
        ],
    },
    Scenario {
        traffic: requests,
        watched: OTHER_PORT,
        records: true,
        rows: &[
            (program::EGRESS, "data packet of another port, out"),
            (program::INGRESS, "data packet of another port, in"),
        ],
    },
];

fn measure(scenario: &Scenario) -> Result<()> {
    let baseline = Baseline::attach("lo")?;
    let (source, reader) = attach(scenario.watched, scenario.records, true)?;
    let counters = source.counters();
    (scenario.traffic)().context("the traffic failed")?;
    let programs = counters.read()?.programs;
    let baseline = baseline.runs()?;
    source.stop();
    join(reader)?;
    for &(name, meaning) in scenario.rows {
        let runs = programs.iter().find(|runs| runs.name == name).context("a program is missing")?;
        let empty = if name == TRANSITION { baseline.tracepoint } else { baseline.classifier };
        let total = mean(runs);
        println!("{meaning:<52}{:>10}{total:>8.0}{empty:>8.0}{:>8.0}", runs.runs, total - empty);
    }
    Ok(())
}

/// How much longer short connections take with the agent than without, in turns.
fn throughput() -> Result<()> {
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let without = time(churn)?;
        let (source, reader) = attach(PORT, true, false)?;
        let with = time(churn)?;
        source.stop();
        join(reader)?;
        ratios.push(with.as_secs_f64() / without.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "\ntime of {CONNECTIONS} short connections with the agent to without: {:.3} (median of {ROUNDS}; {:.3} to {:.3})",
        ratios[ROUNDS / 2],
        ratios[0],
        ratios[ROUNDS - 1],
    );
    Ok(())
}

fn time(traffic: fn() -> io::Result<()>) -> io::Result<Duration> {
    let begin = Instant::now();
    traffic()?;
    Ok(begin.elapsed())
}

type Reader = thread::JoinHandle<Result<(), kernel::ReadError>>;

fn attach(port: u16, records: bool, bpf_stats: bool) -> Result<(KernelSource, Reader)> {
    let mut source = kernel::start(&kernel::Options {
        ports: PortSet::from_iter([port..=port]),
        netns: NetnsSelection::OwnOnly,
        interfaces: InterfaceSelection::All,
        ring_size: 4 << 20,
        records,
        bpf_stats,
        max_ports: 256,
        used_ports: Vec::new(),
        log: false,
        force_clsact: false,
    })?;
    let reader = source.reader().context("the records are read already")?;
    // Reads and drops: what the agent makes of a record is another benchmark's matter.
    let reader = thread::spawn(move || reader.run(&mut |_| ControlFlow::Continue(())));
    Ok((source, reader))
}

fn join(reader: Reader) -> Result<()> {
    reader.join().ok().context("the reader panicked")??;
    Ok(())
}

fn mean(runs: &ProgramRuns) -> f64 {
    runs.run_time_ns as f64 / runs.runs.max(1) as f64
}

/// Connections one after another, each with a byte sent and closed by the server.
fn churn() -> io::Result<()> {
    let server = TcpListener::bind(ADDRESS)?;
    let serving = thread::spawn(move || -> io::Result<()> {
        for _ in 0..CONNECTIONS {
            let (mut stream, _) = server.accept()?;
            stream.read_exact(&mut [0])?;
        }
        Ok(())
    });
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(ADDRESS)?;
        stream.write_all(b"x")?;
        stream.read_to_end(&mut Vec::new())?;
    }
    finished(serving)
}

/// Requests and answers of 100 bytes on one connection.
fn requests() -> io::Result<()> {
    let server = TcpListener::bind(ADDRESS)?;
    let serving = thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = server.accept()?;
        stream.set_nodelay(true)?;
        let mut request = [0; 100];
        for _ in 0..REQUESTS {
            stream.read_exact(&mut request)?;
            stream.write_all(&request)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(ADDRESS)?;
    stream.set_nodelay(true)?;
    let mut answer = [0; 100];
    for _ in 0..REQUESTS {
        stream.write_all(&answer)?;
        stream.read_exact(&mut answer)?;
    }
    drop(stream);
    finished(serving)
}

fn finished(serving: thread::JoinHandle<io::Result<()>>) -> io::Result<()> {
    serving.join().map_err(|_| io::Error::other("the server panicked"))?
}

const TRANSITION: &str = program::TRACEPOINTS[0];
const PORT: u16 = 8899;
/// Watched where the traffic on [`PORT`] is to be another port's.
const OTHER_PORT: u16 = 9;
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);
const CONNECTIONS: usize = 10_000;
const REQUESTS: usize = 50_000;
const ROUNDS: usize = 5;
