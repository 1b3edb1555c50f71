//! The agent under test, run as a user runs it.

use std::{
    env,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    child_process::ChildProcess, deadline::Deadline, line_reader::LineReader, namespace::Namespace,
};

/// Path of the agent: the binary that cargo built for this test, unless the environment names
/// another.
pub(crate) fn agent_path() -> String {
    env::var("KERNEL_SUITE_AGENT").unwrap_or_else(|_| env!("CARGO_BIN_EXE_tcp-monitor").to_owned())
}

/// The default of `--listen`.
pub(crate) const HTTP: &str = "127.0.0.1:9899";
/// Begins the line of stderr that is printed when all programs are attached.
const ATTACHED: &str = "attached:";

/// Which namespace the agent runs in and which it watches.
#[derive(Clone, Copy)]
pub(crate) enum Watch<'a> {
    /// Runs in the namespace and watches only that.
    Inside(&'a Namespace),
    /// Runs in the host's namespace and watches the named one.
    Named(&'a Namespace),
    /// Runs in the host's namespace and watches all. Events of other namespaces than these are
    /// dropped when they are read.
    AllOf(&'a [&'a Namespace]),
}

impl Watch<'_> {
    pub(crate) fn command(self) -> Command {
        // In the host's namespace, trials that run at the same time cannot use the same address.
        let unserved = ["--listen", "none"];
        let mut command = match self {
            Self::Inside(namespace) => namespace.command(&agent_path()),
            Self::Named(_) | Self::AllOf(_) => Command::new(agent_path()),
        };
        match self {
            Self::Inside(_) => command.args(["--netns", "self"]),
            Self::Named(namespace) => command.args(["--netns", namespace.name()]).args(unserved),
            Self::AllOf(_) => command.args(unserved),
        };
        command
    }

    /// The inodes of the namespaces whose events are kept; `None` if only one is watched.
    fn kept(self) -> Result<Option<Vec<u64>>> {
        match self {
            Self::Inside(_) | Self::Named(_) => Ok(None),
            Self::AllOf(namespaces) => {
                namespaces.iter().map(|namespace| namespace.inode()).collect::<Result<_>>().map(Some)
            }
        }
    }
}

/// One line of stdout. A line that is not JSON is kept as a string, which [`Report::new`] refuses.
pub(crate) type Event = Value;

/// A running agent that is attached.
pub(crate) struct Agent {
    pub(crate) process: ChildProcess,
    pub(crate) events: LineReader<Event>,
    pub(crate) messages: LineReader<String>,
}

/// Everything that an agent printed, and its exit status.
pub(crate) struct Report {
    pub(crate) events: Vec<Event>,
    pub(crate) messages: Vec<String>,
    pub(crate) status: ExitStatus,
}

impl Agent {
    /// Starts the agent with JSON output and waits until it is attached.
    pub(crate) fn start(watch: Watch<'_>, arguments: &str) -> Result<Self> {
        let command = &mut watch.command();
        command.args(["--output", "json"]).args(arguments.split_whitespace());
        let agent = Self::spawn_keeping(command, watch.kept()?)?;
        await_attached(&agent.process, &agent.messages)?;
        Ok(agent)
    }

    /// Starts the agent without waiting.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        Self::spawn_keeping(command, None)
    }

    fn spawn_keeping(command: &mut Command, namespaces: Option<Vec<u64>>) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = ChildProcess::spawn(command)?;
        let events = LineReader::read_some(process.stdout()?, move |line| {
            let event = parse(line);
            let is_foreign = match (&namespaces, event["netns"].as_u64()) {
                (Some(namespaces), Some(inode)) => !namespaces.contains(&inode),
                (_, None) | (None, _) => false,
            };
            (!is_foreign).then_some(event)
        });
        let messages = LineReader::read(process.stderr()?, str::to_owned);
        Ok(Self { process, events, messages })
    }

    /// Sends SIGINT, and returns everything that was printed.
    pub(crate) fn stop(self) -> Result<Report> {
        self.stop_by(Signal::INT)
    }

    pub(crate) fn stop_by(self, signal: Signal) -> Result<Report> {
        self.process.signal(signal)?;
        let report = self.finish()?;
        ensure!(
            report.status.code() == Some(0),
            "the agent ended with {}: {:#?}",
            report.status,
            report.messages
        );
        Ok(report)
    }

    /// Waits until the agent exits by itself.
    pub(crate) fn finish(mut self) -> Result<Report> {
        let status = self
            .process
            .wait()
            .with_context(|| format!("stderr of the agent: {:#?}", self.messages.so_far()))?;
        Report::new(self.events.to_end()?, self.messages.to_end()?, status)
    }
}

impl Report {
    fn new(events: Vec<Event>, messages: Vec<String>, status: ExitStatus) -> Result<Self> {
        for event in &events {
            ensure!(
                event["v"] == 1 && event["time"].is_string() && event["event"].is_string(),
                "not an event: {event}"
            );
        }
        ensure!(!messages.iter().any(|line| line.contains("panicked")), "the agent panicked: {messages:#?}");
        Ok(Self { events, messages, status })
    }

    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Event> {
        self.events.iter().filter(move |event| event["event"] == kind)
    }
}

/// Waits for the line that says the agent is attached. Until then it prints nothing, and that it
/// computes is progress.
pub(crate) fn await_attached(process: &ChildProcess, messages: &LineReader<String>) -> Result<()> {
    let is_attached = |lines: &[String]| lines.iter().any(|line| line.starts_with(ATTACHED)).then_some(());
    let mut deadline = Deadline::new();
    loop {
        if messages.find_within(CHECK_INTERVAL, is_attached).is_some() {
            return Ok(());
        }
        let report = || format!("the agent does not attach; its stderr: {:#?}", messages.so_far());
        deadline.observe(&process.cpu_time().with_context(report)?);
        ensure!(!messages.has_ended(), report());
        deadline.check().with_context(report)?;
    }
}

/// Runs an agent that is expected to exit by itself.
pub(crate) fn run_to_end(command: &mut Command) -> Result<Report> {
    let mut agent = Agent::spawn(command)?;
    let status = agent
        .process
        .wait()
        .with_context(|| format!("stderr of the agent: {:#?}", agent.messages.so_far()))?;
    Report::new(agent.events.to_end()?, agent.messages.to_end()?, status)
}

/// How often an agent that attaches is checked for progress.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

fn parse(line: &str) -> Event {
    serde_json::from_str(line).unwrap_or_else(|_| Value::String(line.to_owned()))
}
