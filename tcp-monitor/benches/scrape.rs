//! What a scrape of 256 ports costs, with no socket there and with 20,000, and how much memory the
//! agent takes for it.
//!
//! Runs in a network namespace of its own: there the kernel programs are attached once in this
//! process, to time the parts of a scrape, and once by an agent that is asked for its metrics over
//! HTTP. Run by `cargo xtask bench scrape`, as root.

mod namespace;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::{ControlFlow, RangeInclusive};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use tcp_monitor::counts::{Snapshot, label_sockets};
use tcp_monitor::kernel::{self, Counters, InterfaceSelection};
use tcp_monitor::metrics::{BuildInfo, Exporter};
use tcp_monitor::netns::NetnsSelection;
use tcp_monitor::ports::PortSet;
use tcp_monitor::sockets::{self, SocketDiag};

fn main() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("ignored: the kernel programs can only be loaded as root");
        return Ok(());
    }
    namespace::enter_new()?;
    allow_open_files()?;

    let mut source = kernel::start(&source_options())?;
    let reader = source.reader().context("the records are read already")?;
    let reader = thread::spawn(move || reader.run(&mut |_| ControlFlow::Continue(())));
    let counters = source.counters();
    let agent = Agent::start(PORTS)?;

    let idle = Costs::measure(&counters, &agent, 0)?;
    let sockets = Sockets::open()?;
    let busy = Costs::measure(&counters, &agent, SOCKETS)?;
    drop(sockets);
    print(&idle, &busy);

    source.stop();
    reader.join().ok().context("the reader panicked")??;
    println!();
    agent.print_memory()?;
    drop(agent);
    let agent = Agent::start(MOST_PORTS)?;
    for _ in 0..DUMPS {
        agent.metrics()?;
    }
    agent.print_memory()
}

/// Times of a scrape and its parts.
struct Costs {
    /// Reading the maps of the kernel programs.
    maps: Times,
    /// Listing the sockets.
    dump: Times,
    /// From numbers to text.
    text: Times,
    /// A GET with the sockets as listed just before.
    get: Times,
    /// A GET for which they are listed.
    get_with_dump: Times,
    /// Series in the text.
    series: usize,
}

impl Costs {
    /// Measures while there are `sockets` on the watched ports.
    fn measure(counters: &Counters, agent: &Agent, sockets: usize) -> Result<Self> {
        let maps = time(ROUNDS, Duration::ZERO, || Ok(counters.read()?))?;
        let dump = time(DUMPS, Duration::ZERO, || Ok(start_sockets()?.service_ports()))?;
        let kernel = counters.read()?;
        let labels = kernel.ports.iter().map(|(label, _)| *label);
        let sockets_listed = start_sockets()?.sockets().map(|dump| label_sockets(&dump.sockets, labels));
        let snapshot = Snapshot { kernel, sockets: sockets_listed, tracker: None };
        let build = BuildInfo { version: "0".into(), kernel: "0".into() };
        let exporter = Exporter::new(Box::new(move || Ok(snapshot.clone())), build);
        let text = time(ROUNDS, Duration::ZERO, || Ok(exporter.expose()?))?;

        let mut metrics = String::new();
        let mut get = || {
            metrics = agent.metrics()?;
            Ok(())
        };
        // After a dump there is none for a hundred times as long as it took.
        let get_with_dump = time(DUMPS, dump.median * 150, &mut get)?;
        let get = time(ROUNDS, Duration::ZERO, get)?;
        let listed = sockets_in(&metrics);
        // The listeners are there besides.
        ensure!((sockets..=sockets + sockets / 50).contains(&listed), "{listed} sockets, not {sockets}");
        let series = metrics.lines().filter(|line| !line.starts_with('#')).count();
        Ok(Self { maps, dump, text, get, get_with_dump, series })
    }
}

/// Median times, and the ratio of the fastest.
fn print(idle: &Costs, busy: &Costs) {
    println!(
        "{:<44}{:>12}{:>16}{:>8}",
        format!("{} ports, ms", PORTS.len()),
        "no socket",
        format!("{SOCKETS} sockets"),
        "ratio"
    );
    for (meaning, idle, busy) in [
        ("reading the maps", &idle.maps, &busy.maps),
        ("listing the sockets", &idle.dump, &busy.dump),
        ("making the text", &idle.text, &busy.text),
        ("GET /metrics, sockets as listed just before", &idle.get, &busy.get),
        ("GET /metrics, sockets listed for it", &idle.get_with_dump, &busy.get_with_dump),
    ] {
        let ratio = busy.fastest.as_secs_f64() / idle.fastest.as_secs_f64();
        let (idle, busy) = (milliseconds(idle.median), milliseconds(busy.median));
        println!("{meaning:<44}{idle:>12.2}{busy:>16.2}{ratio:>8.2}");
    }
    println!("{:<44}{:>12}{:>16}", "series", idle.series, busy.series);
}

/// An agent that watches some ports, until it is dropped.
struct Agent {
    process: Child,
    ports: RangeInclusive<u16>,
    /// Its messages; its end must stay open.
    _messages: BufReader<ChildStderr>,
}

impl Agent {
    fn start(ports: RangeInclusive<u16>) -> Result<Self> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tcp-monitor"))
            .args(["--netns", "self", "--output", "none"])
            .args(["--listen", &format!("{}:{ENDPOINT}", Ipv4Addr::LOCALHOST)])
            .args(["--max-ports", &ports.len().to_string()])
            .args(["--port", &format!("{}-{}", ports.start(), ports.end())])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut messages = BufReader::new(process.stderr.take().context("no standard error")?);
        let mut banner = String::new();
        messages.read_line(&mut banner)?;
        let agent = Self { process, ports, _messages: messages };
        ensure!(banner.starts_with("attached:"), "the agent does not run: {banner}");
        Ok(agent)
    }

    fn metrics(&self) -> Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ENDPOINT))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        let (head, body) = response.split_once("\r\n\r\n").context("no HTTP")?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
        Ok(body.to_owned())
    }

    /// Prints its peak memory.
    fn print_memory(&self) -> Result<()> {
        let metrics = self.metrics()?;
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        println!(
            "{} ports: {:.0} MB of metrics, most memory of the agent {:.0} MB",
            self.ports.len(),
            metrics.len() as f64 / 1e6,
            peak.context("no VmHWM")?.parse::<f64>()? * 1024.0 / 1e6,
        );
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw) {
            // It may have ended already.
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = self.process.wait();
    }
}

/// Sockets of the watched ports, as many open as in TIME_WAIT, where they stay for 60 s.
struct Sockets {
    _open: Vec<(TcpStream, TcpStream)>,
}

impl Sockets {
    fn open() -> Result<Self> {
        let listeners = PORTS
            .map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut connections = listeners.iter().cycle().map(|listener| {
            let client = TcpStream::connect(listener.local_addr()?)?;
            Ok((client, listener.accept()?.0))
        });
        let open = connections.by_ref().take(SOCKETS / 4).collect::<Result<_>>()?;
        for connection in connections.take(SOCKETS / 2) {
            let (client, mut server) = connection?;
            drop(client);
            server.read_to_end(&mut Vec::new())?;
        }
        Ok(Self { _open: open })
    }
}

/// Sockets that are listed in `metrics`.
fn sockets_in(metrics: &str) -> usize {
    let counts = metrics.lines().filter(|line| line.starts_with("tcp_monitor_connections{"));
    counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok()).sum()
}

/// Starts to dump sockets. The first dump is made at once.
fn start_sockets() -> Result<SocketDiag> {
    let options = sockets::Options {
        netns: NetnsSelection::OwnOnly,
        ports: PortSet::from_iter([PORTS]),
        stuck_after: Duration::from_secs(60),
    };
    Ok(SocketDiag::start(options, mpsc::sync_channel(1).0)?)
}

fn source_options() -> kernel::Options {
    kernel::Options {
        ports: PortSet::from_iter([PORTS]),
        netns: NetnsSelection::OwnOnly,
        interfaces: InterfaceSelection::All,
        ring_size: 4 << 20,
        records: true,
        bpf_stats: false,
        max_ports: 256,
        used_ports: Vec::new(),
        log: false,
        force_clsact: false,
    }
}

fn allow_open_files() -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("too few open files allowed")
}

/// Durations of an operation that was repeated.
struct Times {
    median: Duration,
    /// For comparisons: the machine had nothing else to do.
    fastest: Duration,
}

/// The times of `run`, each after a `pause`.
fn time<T>(rounds: usize, pause: Duration, mut run: impl FnMut() -> Result<T>) -> Result<Times> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        thread::sleep(pause);
        let begin = Instant::now();
        run()?;
        times.push(begin.elapsed());
    }
    times.sort();
    Ok(Times { median: times[rounds / 2], fastest: times[0] })
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Watched ports, below those that sockets get when they connect.
const PORTS: RangeInclusive<u16> = 20_000..=20_255;
/// As many as `--max-ports` allows.
const MOST_PORTS: RangeInclusive<u16> = 1..=4096;
/// Where the agent serves its metrics.
const ENDPOINT: u16 = 9899;
const SOCKETS: usize = 20_000;
const ROUNDS: usize = 101;
/// Rounds with a dump of the sockets, which may take one percent of the time.
const DUMPS: usize = 7;
