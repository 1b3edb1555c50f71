//! The main job: attach to the kernel, write the log, serve metrics, until a signal.

use std::future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::runtime;
use tokio::sync::{oneshot, watch};
use tokio::time;

use super::log::{Dumped, Log, LogError, Written};
use super::names::LiveNames;
use super::outputs;
use super::recording::RecordingFile;
use super::say;
use super::scrape::Scrape;
use super::signals::Signals;
use crate::cli::{Listen, Monitor, NetnsOption, OutputFormat};
use crate::counts::ProgramRuns;
use crate::kernel::{self, Attached, Counters, InterfaceSelection, KernelSource, RecordReader};
use crate::metrics::{BuildInfo, Exporter, http};
use crate::netns::NetnsSelection;
use crate::output::Outcome;
use crate::sockets::{self, SocketDiag};

/// Monitors until a signal, `--count` or `--duration` ends it.
///
/// # Errors
///
/// A [`KernelError`](kernel::KernelError), an [`HttpError`](http::HttpError), or that the log could
/// not be written.
pub fn run(options: &Monitor) -> Result<()> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot set up asynchronous I/O")?
        .block_on(monitor(options))
}

async fn monitor(options: &Monitor) -> Result<()> {
    // In this order: an address in use or a file that cannot be written is found before anything is
    // attached, and no signal can leave anything behind.
    let listener = match options.listen {
        Listen::At(address) => Some(http::bind(address)?),
        Listen::Off => None,
    };
    // With port 0 the kernel chose one.
    let address = listener.as_ref().map(TcpListener::local_addr).transpose().context("no metrics address")?;
    let recording = options.write.as_deref().map(RecordingFile::open).transpose()?;
    let mut signals = Signals::new().context("cannot handle signals")?;
    let (report_stuck, stuck) = mpsc::sync_channel(STUCK_AT_ONCE);
    let sockets =
        SocketDiag::start(diag_options(options), report_stuck).context("sockets cannot be listed")?;
    let mut source = kernel::start(&source_options(options, sockets.service_ports()))?;
    let started = Instant::now();
    let reader = source.reader().context("the records are being read already")?;
    let outputs = outputs::of_monitor(&options.report, recording)?;
    let names = LiveNames::new(source.interfaces(), &netns(options));
    // The reader is not started yet: records wait in the ring buffer, and no transition is missed
    // between dump and records.
    let counters = source.counters();
    let (scrape, existing) =
        Scrape::begin(Arc::clone(&counters), sockets).context("the counters cannot be read")?;
    let existing = if wants_records(options) { existing } else { Vec::new() };
    say(banner(&source.attached(), address));
    let max_connections = options.report.max_connections as usize;
    let log = Log::new(outputs, names, max_connections, Dumped { existing, stuck });
    let tracker = log.tracker_stats();
    let mut log = LogThread::start(log, reader)?;
    let (stop_serving, mut stopping) = watch::channel(());
    let server = listener.map(|listener| {
        let endpoint = endpoint(scrape.with_tracker(tracker), &source.attached(), Arc::clone(&log.running));
        tokio::spawn(http::serve(listener, endpoint, async move {
            // An error means that the sender is gone, which is a reason to stop as well.
            let _ = stopping.changed().await;
        }))
    });

    tokio::select! {
        () = signals.next() => {}
        () = elapse(options.duration) => {}
        () = log.ended() => {}
        () = expire_requests(&counters) => {}
    }

    let served = async {
        drop(stop_serving);
        match server {
            Some(server) => {
                server.await.context("the metrics endpoint failed")?.context("metrics were not served")
            }
            None => Ok(()),
        }
    };
    served.await?;
    let written = finish(source, log, &mut signals).await?;
    say(summary(&written, started.elapsed()));
    if options.bpf_stats {
        let counts = counters.read().context("the cost of the kernel programs cannot be read")?;
        say(cost_table(&counts.programs));
    }
    if written.outputs.iter().any(|output| output.failed) {
        bail!("the recording is not complete");
    }
    Ok(())
}

/// Detaches, and waits until the log has written the rest; but not longer than some time, or a
/// second signal: standard output may be blocked.
async fn finish(source: KernelSource, mut log: LogThread, signals: &mut Signals) -> Result<Written> {
    source.stop();
    tokio::select! {
        () = log.ended() => {}
        () = signals.insist() => bail!("stopped by a second signal; the end of the log was not written"),
        () = time::sleep(LAST_WRITES) => {
            bail!("the reader of the output does not read; the end of the log was not written")
        }
    }
    log.join()
}

/// The thread that reads records and writes the log.
struct LogThread {
    handle: thread::JoinHandle<Result<Written, LogError>>,
    ended: Option<oneshot::Receiver<()>>,
    running: Arc<AtomicBool>,
}

impl LogThread {
    fn start(log: Log, reader: RecordReader) -> Result<Self> {
        let (report_end, ended) = oneshot::channel::<()>();
        let running = Arc::new(AtomicBool::new(true));
        let runs = Arc::clone(&running);
        let handle = thread::Builder::new()
            .name("log".into())
            .spawn(move || {
                // Dropped when the thread ends, however it does.
                let _report_end = report_end;
                let outcome = log.run(reader);
                runs.store(false, Ordering::Relaxed);
                outcome
            })
            .context("cannot start a thread")?;
        Ok(Self { handle, ended: Some(ended), running })
    }

    /// Ready when the thread has ended, or is about to.
    async fn ended(&mut self) {
        if let Some(ended) = &mut self.ended {
            // The sender never sends: it is dropped.
            let _ = ended.await;
            self.ended = None;
        }
    }

    fn join(self) -> Result<Written> {
        match self.handle.join() {
            Ok(outcome) => Ok(outcome?),
            Err(_) => bail!("the thread that writes the log panicked; please report this"),
        }
    }
}

async fn elapse(duration: Option<Duration>) {
    match duration {
        Some(duration) => time::sleep(duration).await,
        None => future::pending().await,
    }
}

/// Expires half-open connections each second. Never ends.
async fn expire_requests(counters: &Counters) {
    let mut interval = time::interval(EXPIRY_INTERVAL);
    interval.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if let Err(error) = counters.expire_requests() {
            log::warn!("{error}");
        }
    }
}

fn wants_records(options: &Monitor) -> bool {
    options.report.output != OutputFormat::None || options.write.is_some()
}

fn netns(options: &Monitor) -> NetnsSelection {
    match &options.netns {
        NetnsOption::All => NetnsSelection::All,
        NetnsOption::Own => NetnsSelection::OwnOnly,
        NetnsOption::Named(name) => NetnsSelection::Named(name.clone()),
    }
}

fn diag_options(options: &Monitor) -> sockets::Options {
    sockets::Options { netns: netns(options), ports: options.port_set(), stuck_after: options.stuck_after }
}

fn source_options(options: &Monitor, used_ports: Vec<u16>) -> kernel::Options {
    kernel::Options {
        ports: options.port_set(),
        netns: netns(options),
        interfaces: if options.interfaces.is_empty() {
            InterfaceSelection::All
        } else {
            InterfaceSelection::Only(options.interfaces.iter().map(|name| name.as_str().to_owned()).collect())
        },
        ring_size: options.ring_size.bytes(),
        records: wants_records(options),
        bpf_stats: options.bpf_stats,
        max_ports: options.max_ports,
        used_ports,
        log: options.kernel_log,
        force_clsact: options.force_clsact,
    }
}

fn endpoint(scrape: Scrape, attached: &Attached, running: Arc<AtomicBool>) -> http::Endpoint {
    let build = BuildInfo { version: env!("CARGO_PKG_VERSION").into(), kernel: attached.release.clone() };
    http::Endpoint {
        exporter: Exporter::new(
            Box::new(move || scrape.snapshot().map_err(|error| error.to_string())),
            build,
        ),
        health: Box::new(move || {
            if running.load(Ordering::Relaxed) { Ok(()) } else { Err("the log has ended".into()) }
        }),
    }
}

fn banner(attached: &Attached, metrics: Option<SocketAddr>) -> String {
    let interfaces = match attached.interfaces.as_slice() {
        [] => "no interface".to_owned(),
        names if names.len() <= BANNER_INTERFACES => names.join(" "),
        names => {
            format!("{} and {} more", names[..BANNER_INTERFACES].join(" "), names.len() - BANNER_INTERFACES)
        }
    };
    let namespaces = match attached.namespaces {
        0 | 1 => String::new(),
        count => format!(" in {count} network namespaces"),
    };
    let metrics = match metrics {
        Some(address) => format!("metrics http://{address}/metrics"),
        None => "no metrics".to_owned(),
    };
    format!(
        "attached: {} tracepoints, tc on {interfaces}{namespaces} · kernel {} · {metrics} · Ctrl-C stops",
        attached.tracepoints, attached.release,
    )
}

fn summary(written: &Written, elapsed: Duration) -> String {
    let mut text = format!("stopped after {:.1} s: ", elapsed.as_secs_f64());
    for Outcome { items: (item, done), taken, dropped, .. } in &written.outputs {
        text += &format!("{} {done}, ", counted(*taken, item));
        if *dropped > 0 {
            text += &format!("{dropped} dropped, ");
        }
    }
    text += &format!("{} read, {} lost", counted(written.read, "record"), counted(written.lost, "record"));
    if written.lost > 0 {
        text += " (a larger --ring-size loses fewer; metrics lose none)";
    }
    if written.evicted > 0 {
        text += &format!(
            ", {} (a larger --max-connections tracks more connections)",
            counted(written.evicted, "tracker eviction")
        );
    }
    if written.malformed > 0 {
        text += &format!(", {} (please report this)", counted(written.malformed, "malformed record"));
    }
    text
}

/// `count` things, of which one is `noun`.
fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn cost_table(programs: &[ProgramRuns]) -> String {
    let mut table = format!("{:<30}{:>12}{:>10}\n", "kernel program", "runs", "ns/run");
    for program in programs {
        let mean = if program.runs == 0 { 0.0 } else { program.run_time_ns as f64 / program.runs as f64 };
        table += &format!("{:<30}{:>12}{:>10.0}\n", program.name, program.runs, mean);
    }
    table.pop();
    table
}

/// How often half-open connections are expired.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);
const BANNER_INTERFACES: usize = 8;
/// Stuck sockets that wait to be logged; more wait for a later dump.
const STUCK_AT_ONCE: usize = 1024;
/// How long the rest of the log may take after the programs are detached.
const LAST_WRITES: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::{Attached, Duration, Outcome, Written, banner, summary};

    #[test]
    fn the_banner_names_interfaces_and_counts_namespaces_where_there_are_several() {
        for (interfaces, namespaces, shown) in [
            (0, 0, "no interface"),
            (1, 1, "eth0"),
            (1, 2, "eth0 in 2 network namespaces"),
            (8, 1, "eth0 eth1 eth2 eth3 eth4 eth5 eth6 eth7"),
            (20, 5, "eth0 eth1 eth2 eth3 eth4 eth5 eth6 eth7 and 12 more in 5 network namespaces"),
        ] {
            let attached = Attached {
                tracepoints: 5,
                interfaces: (0..interfaces).map(|index| format!("eth{index}")).collect(),
                namespaces,
                release: "6.18.0".to_owned(),
            };
            assert_eq!(
                banner(&attached, None),
                format!("attached: 5 tracepoints, tc on {shown} · kernel 6.18.0 · no metrics · Ctrl-C stops")
            );
        }
    }

    #[test]
    fn one_thing_is_counted_in_the_singular() {
        let of = |count| {
            let events = Outcome { items: ("event", "written"), taken: count, ..Outcome::default() };
            let written = Written { outputs: vec![events], read: count, ..Written::default() };
            summary(&written, Duration::from_secs(2))
        };
        assert_eq!(of(1), "stopped after 2.0 s: 1 event written, 1 record read, 0 records lost");
        assert_eq!(of(2), "stopped after 2.0 s: 2 events written, 2 records read, 0 records lost");
    }
}
