//! The monitors: what is measured, how it is started, and what it has reported.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{self, Command};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::floors::Floor;
use crate::machine;
use crate::options::Network;
use crate::process::Process;
use crate::site::{PORT, Site};
use crate::whole;

/// A row of the table.
#[derive(Clone, Copy)]
pub(crate) struct Monitor {
    /// For `--only` and the saved result.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Nothing,
    EmptyProgram,
    RingRecord,
    /// The agent with these options, in the server's namespace.
    Agent {
        options: &'static [&'static str],
        log: Log,
    },
    /// tcpdump, in the server's namespace.
    Tcpdump,
    /// The first of these programs that is installed, in the host's namespace.
    Tool {
        programs: &'static [&'static str],
        arguments: &'static [&'static str],
    },
}

/// What the agent writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Log {
    None,
    Json,
    Text,
}

pub(crate) const MONITORS: &[Monitor] = &[
    Monitor { name: "control", title: "control: no monitor in either run", kind: Kind::Nothing },
    Monitor { name: "empty", title: "floor: empty program", kind: Kind::EmptyProgram },
    Monitor { name: "record", title: "floor: ring record of 64 bytes", kind: Kind::RingRecord },
    Monitor {
        name: "other-port",
        title: "tcp-monitor, other port",
        kind: Kind::Agent { options: &["--port", "9", "--output", "json"], log: Log::None },
    },
    Monitor {
        name: "metrics",
        title: "tcp-monitor, metrics only",
        kind: Kind::Agent { options: &["--port", "8899", "--output", "none"], log: Log::None },
    },
    Monitor::JSON,
    Monitor {
        name: "text",
        title: "tcp-monitor, text log",
        kind: Kind::Agent { options: &["--port", "8899", "--output", "text"], log: Log::Text },
    },
    Monitor { name: "tcpdump", title: "tcpdump, SYN FIN RST as text", kind: Kind::Tcpdump },
    Monitor {
        name: "tcplife",
        title: "tcplife",
        kind: Kind::Tool { programs: &["tcplife", "tcplife-bpfcc"], arguments: &[] },
    },
    Monitor {
        name: "tcpstates",
        title: "tcpstates",
        kind: Kind::Tool { programs: &["tcpstates", "tcpstates-bpfcc"], arguments: &[] },
    },
    Monitor {
        name: "bpftrace",
        title: "bpftrace, prints transitions",
        kind: Kind::Tool { programs: &["bpftrace"], arguments: &["-e", PRINT_TRANSITIONS] },
    },
];

impl Monitor {
    pub(crate) const NONE: Self = Self { name: "none", title: "no monitor", kind: Kind::Nothing };
    pub(crate) const JSON: Self = Self {
        name: "json",
        title: "tcp-monitor, JSON log",
        kind: Kind::Agent { options: &["--port", "8899", "--output", "json"], log: Log::Json },
    };

    pub(crate) fn is_installed(&self) -> bool {
        match self.kind {
            Kind::Nothing | Kind::EmptyProgram | Kind::RingRecord | Kind::Agent { .. } => true,
            Kind::Tcpdump => find(&["tcpdump"]).is_some(),
            Kind::Tool { programs, .. } => find(programs).is_some(),
        }
    }

    /// Starts it, and returns when it reports connections.
    pub(crate) fn start(&self, site: &Site, listener: &TcpListener) -> Result<Running> {
        let command = match self.kind {
            Kind::Nothing => return Ok(Running::Nothing),
            Kind::EmptyProgram => return Ok(Running::Floor(Floor::empty()?)),
            Kind::RingRecord => return Ok(Running::Floor(Floor::record()?)),
            Kind::Agent { options, .. } => {
                let mut command = site.server().command(env!("CARGO_BIN_EXE_tcp-monitor"));
                command.args(["--netns", "self"]).args(options);
                command
            }
            Kind::Tcpdump => {
                let mut command = site.server().command("tcpdump");
                command.args(["-l", "-n", "-i", site.interface, CONTROL_SEGMENTS]);
                command
            }
            Kind::Tool { programs, arguments } => {
                let mut command = Command::new("stdbuf");
                command.arg("-oL").arg(find(programs).context("it is not installed")?).args(arguments);
                command.env("PYTHONUNBUFFERED", "1");
                command
            }
        };
        let mut process = Process::spawn(command)?;
        match self.kind {
            Kind::Agent { .. } => process.await_message("attached:")?,
            Kind::Tcpdump => process.await_message("listening on")?,
            Kind::Nothing | Kind::EmptyProgram | Kind::RingRecord | Kind::Tool { .. } => {
                process.await_report(site, listener)?;
            }
        }
        process.discard_output()?;
        Ok(Running::Process(process))
    }

    /// Stops it when it has read all, and returns what it has reported.
    pub(crate) fn stop(&self, running: Running, site: &Site, network: Network) -> Result<Report> {
        let mut process = match running {
            Running::Nothing => return Ok(Report::default()),
            Running::Floor(floor) => {
                let report = Report { lines: floor.records(), ..Report::default() };
                floor.stop()?;
                return Ok(report);
            }
            Running::Process(process) => process,
        };
        let mut report =
            Report { resident: Some(machine::resident(process.child.pid())?), ..Report::default() };
        let Some(log) = self.agent_log() else {
            process.end()?;
            report.lines = Some(process.lines()?);
            return Ok(report);
        };
        report.lost = Some(lost_records(site)?);
        let status = process.end()?;
        ensure!(status.success(), "the agent ended with {status}: {}", process.messages()?);
        if log != Log::None {
            report.lines = Some(process.lines()?);
        }
        if log == Log::Json {
            let ends = match network {
                Network::Loopback => 2,
                Network::Veth => 1,
            };
            report.whole = Some(whole::count(process.output()?, ends)?);
        }
        Ok(report)
    }

    /// What it writes, if it is the agent.
    const fn agent_log(&self) -> Option<Log> {
        match self.kind {
            Kind::Agent { log, .. } => Some(log),
            Kind::Nothing | Kind::EmptyProgram | Kind::RingRecord | Kind::Tcpdump | Kind::Tool { .. } => None,
        }
    }
}

/// A monitor that runs.
pub(crate) enum Running {
    Nothing,
    Floor(Floor),
    Process(Process),
}

impl Running {
    /// Time that it has computed so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        match self {
            Self::Nothing => Ok(Duration::ZERO),
            Self::Floor(floor) => Ok(floor.cpu_time()),
            Self::Process(process) => machine::process_time(process.child.pid()),
        }
    }

    /// The process that has its programs.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::Nothing => None,
            Self::Floor(_) => Some(process::id()),
            Self::Process(process) => Some(process.child.pid()),
        }
    }
}

/// What a monitor has reported; what does not apply is absent.
#[derive(Default)]
pub(crate) struct Report {
    /// Lines, or records of a floor.
    pub(crate) lines: Option<u64>,
    /// Connections with all their events.
    pub(crate) whole: Option<u64>,
    /// Records that were lost or suppressed.
    pub(crate) lost: Option<u64>,
    /// Memory when all was read, in bytes.
    pub(crate) resident: Option<u64>,
}

/// Records that the agent's log lacks, by its metrics.
fn lost_records(site: &Site) -> Result<u64> {
    let metrics = site.server().enter(|| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ENDPOINT))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        Ok(response)
    })?;
    let samples = metrics.lines().filter(|line| {
        line.starts_with("tcp_monitor_events_lost_total{")
            || line.starts_with("tcp_monitor_events_suppressed_total{")
    });
    let values: Vec<u64> = samples.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect();
    ensure!(!values.is_empty(), "no metric of lost records");
    Ok(values.into_iter().sum())
}

/// Where the first of these programs is that is installed.
fn find(programs: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let directories: Vec<PathBuf> = std::env::split_paths(&path).chain([TOOLS.into()]).collect();
    let places = programs.iter().flat_map(|program| directories.iter().map(move |dir| dir.join(program)));
    places.into_iter().find(|place| fs::metadata(place).is_ok_and(|place| place.is_file()))
}

/// Where the agent serves its metrics.
const ENDPOINT: u16 = 9899;
/// Where the packages of bcc and bpftrace put their tools, besides PATH.
const TOOLS: &str = "/usr/share/bcc/tools";
const CONTROL_SEGMENTS: &str = "tcp port 8899 and tcp[tcpflags] & (tcp-syn | tcp-fin | tcp-rst) != 0";
const PRINT_TRANSITIONS: &str = "tracepoint:sock:inet_sock_set_state /args->sport == 8899 || args->dport == 8899/ \
     { printf(\"%d %d %d %d\\n\", args->sport, args->dport, args->oldstate, args->newstate); }";
const _: () = assert!(PORT == 8899, "the options above name it");
