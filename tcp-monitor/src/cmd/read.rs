//! `tcp-monitor read`: explains the connections of capture files.

use std::io;
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::runtime;
use tokio::sync::oneshot;

use super::outputs;
use super::say;
use super::signals::Signals;
use super::stdout::Stdout;
use crate::capture::{self, Capture, CaptureError};
use crate::cli::Read;
use crate::clock::WallClock;
use crate::lifecycle::{ConnectionId, Event, InferFrom, Input, Options, SegmentInput, Time, Tracker};
use crate::output::{Context as OutputContext, FanOut, Names, NoNames};
use crate::ports::PortSet;
use input::{CaptureInput, Halt};
use summary::Summary;

mod input;
mod summary;

/// Reads the captures one after the other and writes their events, until their end, `--count` or a
/// signal.
///
/// # Errors
///
/// If a capture cannot be read, after the events before the error were written; or if standard
/// output cannot be written.
pub fn run(options: &Read) -> Result<()> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot set up asynchronous I/O")?
        .block_on(read(options.clone()))
}

/// Reads on a thread of its own, which a signal stops while it waits for input. A second signal
/// does not wait for the thread: standard output may be blocked.
async fn read(options: Read) -> Result<()> {
    let mut signals = Signals::new().context("cannot handle signals")?;
    let (stop, stopped) = UnixStream::pair().context("cannot make a pair of sockets")?;
    let (report_outcome, mut outcome) = oneshot::channel();
    thread::Builder::new()
        .name("read".into())
        .spawn(move || {
            // After a second signal it is not awaited any more.
            let _ = report_outcome.send(read_files(&options, stopped));
        })
        .context("cannot start a thread")?;
    let outcome = tokio::select! {
        outcome = &mut outcome => outcome,
        () = signals.next() => {
            drop(stop);
            tokio::select! {
                outcome = outcome => outcome,
                () = signals.insist() => bail!("stopped by a second signal; the end was not written"),
            }
        }
    };
    outcome.context("the thread that reads panicked; please report this")?
}

fn read_files(options: &Read, stopped: UnixStream) -> Result<()> {
    let mut reading = CaptureReading::new(options, stopped);
    let mut failures = 0;
    for file in &options.files {
        match reading.read(file) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break,
            Err(ReadFailure::Capture(error)) => {
                say(format_args!("tcp-monitor: {}: {error}", file.display()));
                failures += 1;
            }
            // The reader has exited, as `head` does.
            Err(ReadFailure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(ReadFailure::Output(error)) => bail!("cannot write to standard output: {error}"),
        }
    }
    match reading.finish() {
        // The reader has exited, as `head` does.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            bail!("cannot write to standard output: {error}")
        }
        Ok(()) | Err(_) => {}
    }
    let summary = reading.summarize();
    let all_failed = failures == options.files.len();
    // If no file had a packet, the errors are enough.
    if !(all_failed && summary.is_empty()) {
        say(summary);
    }
    match (failures, options.files.len()) {
        (0, _) => Ok(()),
        (_, 1) => bail!("the capture was not read to its end"),
        (_, files) => bail!("{failures} of {files} captures were not read to their end"),
    }
}

/// Why a capture was not read to its end.
#[derive(Debug, thiserror::Error)]
enum ReadFailure {
    #[error(transparent)]
    Capture(CaptureError),
    #[error(transparent)]
    Output(#[from] io::Error),
}

struct CaptureReading {
    tracker: Tracker,
    max_connections: usize,
    ports: PortSet,
    outputs: FanOut,
    clock: WallClock,
    /// Some packet of the file had a time so far.
    is_timed: bool,
    stdout: Stdout,
    stopped: Arc<UnixStream>,
    events: Vec<Event>,
    /// The latest time of a segment so far.
    latest: Time,
    /// Frames of the files before.
    frames: u64,
    /// The highest connection number so far, and that of the captures before this one.
    connections: u64,
    earlier_connections: u64,
    summary: Summary,
}

/// The names of a capture.
struct CaptureNames<'a>(&'a Capture);

impl Names for CaptureNames<'_> {
    fn interface(&self, _netns: u32, ifindex: u32) -> Option<String> {
        self.0.interface_name(ifindex).map(str::to_owned)
    }

    fn netns(&self, _netns: u32) -> Option<String> {
        None
    }
}

impl CaptureReading {
    fn new(options: &Read, stopped: UnixStream) -> Self {
        let max_connections = options.report.max_connections as usize;
        let stdout = Stdout::new(options.report.count.map(u64::from));
        Self {
            tracker: new_tracker(max_connections),
            max_connections,
            ports: options.port_set(),
            outputs: outputs::of_capture(&options.report, &stdout),
            clock: WallClock::of_capture(),
            is_timed: false,
            stdout,
            stopped: Arc::new(stopped),
            events: Vec::new(),
            latest: Time::default(),
            frames: 0,
            connections: 0,
            earlier_connections: 0,
            summary: Summary::default(),
        }
    }

    fn read(&mut self, path: &Path) -> Result<ControlFlow<()>, ReadFailure> {
        let file = capture::open(path).map_err(ReadFailure::Capture)?;
        let input = CaptureInput::new(file, Arc::clone(&self.stopped), self.stdout.clone());
        let mut capture = match Capture::read(input) {
            Ok(capture) => capture.after(self.frames),
            Err(error) => return halted(error),
        };
        let outcome = self.process(&mut capture, path);
        self.frames = capture.frames();
        self.summary.add_packets(&capture);
        self.stdout.flush()?;
        outcome
    }

    fn process(&mut self, capture: &mut Capture, path: &Path) -> Result<ControlFlow<()>, ReadFailure> {
        let mut is_first = true;
        while let Some(input) = capture.next() {
            let input = match input {
                Ok(input) => input,
                Err(error) => return halted(error),
            };
            let time = input.time();
            if is_first {
                self.begin_file(time, path);
                is_first = false;
            }
            self.latest = self.latest.max(time);
            // Timers do not wait for a segment that is selected.
            self.tracker.expire(time, &mut self.events);
            let is_timed = capture.times().is_some();
            if is_timed != self.is_timed {
                // What expired is of packets without a time.
                if self.write(&CaptureNames(capture)).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                self.is_timed = is_timed;
            }
            if self.is_selected(&input) {
                self.tracker.handle(input, &mut self.events);
            }
            if self.write(&CaptureNames(capture)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// No packet follows.
    fn finish(&mut self) -> io::Result<()> {
        self.outputs.end_events(&context(&self.clock, self.is_timed, &NoNames));
        self.stdout.flush()
    }

    /// A file that begins where the one before it ended is a part of the same capture; any other is
    /// a capture of its own.
    fn begin_file(&mut self, begin: Time, path: &Path) {
        let back = self.latest.since(begin);
        if back > REORDERING {
            say(format_args!(
                "tcp-monitor: {} begins {:.1} s before the latest packet so far: it is read as a separate capture \
                 (list parts of one capture in their order, as in `$(ls -tr NAME*)`, and merge simultaneous \
                 captures with mergecap)",
                path.display(),
                back.as_secs_f64(),
            ));
            self.outputs.end_events(&context(&self.clock, self.is_timed, &NoNames));
            self.summary.add_rest(&self.tracker);
            self.tracker = new_tracker(self.max_connections);
            self.earlier_connections = self.connections;
            self.latest = begin;
        }
    }

    fn is_selected(&self, input: &Input) -> bool {
        match input {
            Input::Segment(SegmentInput { src, dst, .. }) => {
                self.ports.is_empty() || [src, dst].iter().any(|end| self.ports.contains(end.port()))
            }
            Input::Socket(_) | Input::Present(_) | Input::Stuck(_) | Input::Lost { .. } => true,
        }
    }

    fn write(&mut self, names: &dyn Names) -> ControlFlow<()> {
        for event in &mut self.events {
            // Each tracker counts connections from 1.
            event.connection = event.connection.map(|id| numbered(id, self.earlier_connections));
            self.connections = self.connections.max(event.connection.map_or(0, ConnectionId::get));
            self.summary.add_event(event);
        }
        let more = self.outputs.write(&self.events, &context(&self.clock, self.is_timed, names));
        self.events.clear();
        more
    }

    fn summarize(mut self) -> Summary {
        self.summary.add_rest(&self.tracker);
        self.summary
    }
}

/// Before the first packet with a time, events have none.
fn context<'a>(clock: &'a WallClock, is_timed: bool, names: &'a dyn Names) -> OutputContext<'a> {
    if is_timed { OutputContext::new(clock, names) } else { OutputContext::without_clock(names) }
}

/// The number of a connection of this capture, after those of `earlier` connections.
fn numbered(id: ConnectionId, earlier: u64) -> ConnectionId {
    NonZeroU64::new(id.get().saturating_add(earlier)).map_or(id, ConnectionId::new)
}

fn new_tracker(max_connections: usize) -> Tracker {
    Tracker::with(Options { infer_from: InferFrom::AllSegments, max_connections })
}

/// The result of an error of the capture: of the capture, or of what its bytes come through.
fn halted(error: CaptureError) -> Result<ControlFlow<()>, ReadFailure> {
    let CaptureError::Read { offset, source } = error else { return Err(ReadFailure::Capture(error)) };
    match source.downcast() {
        Ok(Halt::Stopped) => Ok(ControlFlow::Break(())),
        Ok(Halt::Output(error)) => Err(ReadFailure::Output(error)),
        Err(source) => Err(ReadFailure::Capture(CaptureError::Read { offset, source })),
    }
}

/// How far packets of a capture may be out of order: those of several queues are by microseconds.
const REORDERING: Duration = Duration::from_millis(100);
