//! `tcp-monitor read`: the connections of capture files, explained.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::runtime;
use tokio::sync::oneshot;

use super::report::Report;
use super::say;
use super::signals::Signals;
use crate::capture::{self, Capture, CaptureError, Packet};
use crate::cli::Read;
use crate::lifecycle::{Event, InferFrom, Input as TrackerInput, Options, SegmentInput, Time, Tracker};
use crate::ports::PortSet;
use input::{Halt, Input, Output};
use summary::Summary;

mod input;
mod summary;

/// Reads the captures one after the other and writes what they tell, until their end, `--count` or a signal.
///
/// # Errors
///
/// A capture that cannot be read, after what came before the error was written; or that standard output takes no more.
pub fn run(options: &Read) -> Result<()> {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot set up asynchronous I/O")?
        .block_on(read(options.clone()))
}

/// Reads on a thread of its own, which a signal stops wherever it waits for input. A second one does not wait for it: standard
/// output may be blocked.
async fn read(options: Read) -> Result<()> {
    let mut signals = Signals::new().context("cannot handle signals")?;
    let (stop, stopped) = UnixStream::pair().context("cannot make a pair of sockets")?;
    let (tell_outcome, mut outcome) = oneshot::channel();
    thread::Builder::new()
        .name("read".into())
        .spawn(move || {
            // Nobody wants it any more after a second signal.
            let _ = tell_outcome.send(read_files(&options, stopped));
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
    let mut reading = Reading::new(options, stopped);
    let mut failures = 0;
    for file in &options.files {
        match reading.read(file) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break,
            Err(ReadError::Capture(error)) => {
                say(format_args!("tcp-monitor: {}: {error}", file.display()));
                failures += 1;
            }
            // The reader has seen enough, as `head` does.
            Err(ReadError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(ReadError::Output(error)) => bail!("cannot write to standard output: {error}"),
        }
    }
    match reading.finish() {
        // The reader has seen enough, as `head` does.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            bail!("cannot write to standard output: {error}")
        }
        Ok(()) | Err(_) => {}
    }
    let summary = reading.summarize();
    let all_failed = failures == options.files.len();
    // Where no file had a packet to read, the errors say it all.
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
enum ReadError {
    #[error(transparent)]
    Capture(CaptureError),
    #[error(transparent)]
    Output(#[from] io::Error),
}

struct Reading {
    tracker: Tracker,
    max_connections: usize,
    ports: PortSet,
    report: Report,
    output: Output,
    stopped: Arc<UnixStream>,
    events: Vec<Event>,
    /// The latest time of a segment so far.
    latest: Time,
    interface: Arc<Mutex<Interface>>,
    summary: Summary,
}

/// The interface of the segment that is being told.
#[derive(Debug, Default)]
struct Interface {
    number: Option<u32>,
    name: Option<String>,
}

impl Reading {
    fn new(options: &Read, stopped: UnixStream) -> Self {
        let interface = Arc::new(Mutex::new(Interface::default()));
        let told = Arc::clone(&interface);
        let max_connections = options.report.max_connections as usize;
        let name = move |_, _| told.lock().unwrap_or_else(PoisonError::into_inner).name.clone();
        Self {
            tracker: new_tracker(max_connections),
            max_connections,
            ports: options.port_set(),
            report: Report::of_capture(&options.report, name),
            output: Output::new(),
            stopped: Arc::new(stopped),
            events: Vec::new(),
            latest: Time::default(),
            interface,
            summary: Summary::default(),
        }
    }

    fn read(&mut self, path: &Path) -> Result<ControlFlow<()>, ReadError> {
        let file = capture::open(path).map_err(ReadError::Capture)?;
        let input = Input::new(file, Arc::clone(&self.stopped), self.output.clone());
        let mut capture = match Capture::read(input) {
            Ok(capture) => capture,
            Err(error) => return halted(error),
        };
        let outcome = self.take(&mut capture, path);
        self.summary.add_packets(&capture);
        self.output.flush()?;
        outcome
    }

    fn take(&mut self, capture: &mut Capture, path: &Path) -> Result<ControlFlow<()>, ReadError> {
        *self.interface.lock().unwrap_or_else(PoisonError::into_inner) = Interface::default();
        let mut is_first = true;
        while let Some(packet) = capture.next() {
            let packet = match packet {
                Ok(packet) => packet,
                Err(error) => return halted(error),
            };
            if is_first {
                self.connect(packet.time, path)?;
                is_first = false;
            }
            self.latest = self.latest.max(packet.time);
            // What time brings about does not wait for a segment that is wanted.
            self.tracker.expire(packet.time, &mut self.events);
            if self.is_wanted(&packet) {
                self.name_interface(capture, packet.interface);
                self.tracker.handle(TrackerInput::Segment(segment(&packet)), &mut self.events);
            }
            if self.write()?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// No packet follows.
    fn finish(&mut self) -> io::Result<()> {
        let _ = self.report.finish(&mut self.output)?;
        self.output.flush()
    }

    /// A file that goes on where the one before it ended is a part of the same capture; any other is one of its own.
    fn connect(&mut self, begin: Time, path: &Path) -> io::Result<()> {
        let back = self.latest.since(begin);
        if back > REORDERING {
            say(format_args!(
                "tcp-monitor: {} begins {:.1} s before the latest packet so far: it is read as a capture of its own \
                 (give parts of one in their order, as in `$(ls -tr NAME*)`, and merge what was captured side by side with mergecap)",
                path.display(),
                back.as_secs_f64(),
            ));
            let _ = self.report.finish(&mut self.output)?;
            self.summary.add_rest(&self.tracker);
            self.tracker = new_tracker(self.max_connections);
            self.latest = begin;
        }
        Ok(())
    }

    fn is_wanted(&self, packet: &Packet) -> bool {
        self.ports.is_empty() || [packet.src, packet.dst].iter().any(|end| self.ports.contains(end.port()))
    }

    fn name_interface(&self, capture: &Capture, number: u32) {
        let mut interface = self.interface.lock().unwrap_or_else(PoisonError::into_inner);
        if interface.number != Some(number) {
            let name = capture.interface_name(number).map(str::to_owned);
            *interface = Interface { number: Some(number), name };
        }
    }

    fn write(&mut self) -> io::Result<ControlFlow<()>> {
        for event in &self.events {
            self.summary.add_event(event);
        }
        self.report.write(self.events.drain(..), &mut self.output)
    }

    fn summarize(mut self) -> Summary {
        self.summary.add_rest(&self.tracker);
        self.summary
    }
}

fn new_tracker(max_connections: usize) -> Tracker {
    Tracker::with(Options { infer_from: InferFrom::AllSegments, max_connections })
}

/// What an error of the capture means, if it is one.
fn halted(error: CaptureError) -> Result<ControlFlow<()>, ReadError> {
    let CaptureError::Read { offset, source } = error else { return Err(ReadError::Capture(error)) };
    match source.downcast() {
        Ok(Halt::Stopped) => Ok(ControlFlow::Break(())),
        Ok(Halt::Output(error)) => Err(ReadError::Output(error)),
        Err(source) => Err(ReadError::Capture(CaptureError::Read { offset, source })),
    }
}

fn segment(packet: &Packet) -> SegmentInput {
    SegmentInput {
        time: packet.time,
        netns: 0,
        ifindex: packet.ifindex.unwrap_or(FILE_INTERFACES.saturating_add(packet.interface)),
        direction: packet.direction,
        src: packet.src,
        dst: packet.dst,
        header: packet.header,
        payload_len: packet.payload_len,
        acks_syn_ack: false,
        acks_fin: false,
        syn_cookie: false,
        frame: None,
    }
}

/// Where the numbers begin that stand for the interfaces of a file: no host has that many, and so they are no indexes of it.
const FILE_INTERFACES: u32 = 1 << 31;
/// How far the packets of a capture may be out of order: those of several queues are by microseconds.
const REORDERING: Duration = Duration::from_millis(100);
