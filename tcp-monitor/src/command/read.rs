//! `tcp-monitor read`: the connections of capture files, explained.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Result, bail};

use super::report::Report;
use super::say;
use crate::cli::Read;
use crate::lifecycle::{Event, InferFrom, Input, Options, SegmentInput, Tracker};
use crate::ports::PortSet;
use crate::source::capture::{Capture, CaptureError, Packet};

/// Reads the captures one after the other and writes what they tell.
///
/// # Errors
///
/// A capture that cannot be read, after what came before the error was written; or that standard output takes no more.
pub fn run(options: &Read) -> Result<()> {
    let mut reading = Reading::new(options);
    let mut failed = false;
    for file in &options.files {
        match reading.read(file) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => break,
            Err(ReadError::Capture(error)) => {
                say(format_args!("tcp-monitor: {}: {error}", file.display()));
                failed = true;
            }
            // The reader has seen enough, as `head` does.
            Err(ReadError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(ReadError::Write(error)) => bail!("cannot write to standard output: {error}"),
        }
    }
    say(reading.summary());
    if failed {
        bail!("not all was read");
    }
    Ok(())
}

/// Why a capture was not read to its end.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(transparent)]
    Write(#[from] io::Error),
}

struct Reading {
    tracker: Tracker,
    ports: PortSet,
    report: Report,
    out: BufWriter<StdoutLock<'static>>,
    events: Vec<Event>,
    packets: u64,
    segments: u64,
}

impl Reading {
    fn new(options: &Read) -> Self {
        Self {
            tracker: Tracker::with(Options { infer_from: InferFrom::AllSegments, ..Options::default() }),
            ports: options.port_set(),
            report: Report::new(&options.report, |_, _| None),
            out: BufWriter::new(io::stdout().lock()),
            events: Vec::new(),
            packets: 0,
            segments: 0,
        }
    }

    fn read(&mut self, file: &Path) -> Result<ControlFlow<()>, ReadError> {
        let mut capture = Capture::open(file)?;
        let outcome = self.take(&mut capture);
        self.packets += capture.statistics().packets;
        self.segments += capture.statistics().tcp;
        self.out.flush()?;
        outcome
    }

    fn take(&mut self, capture: &mut Capture) -> Result<ControlFlow<()>, ReadError> {
        for packet in capture {
            let packet = packet?;
            if !self.is_wanted(&packet) {
                continue;
            }
            self.tracker.handle(Input::Segment(segment(&packet)), &mut self.events);
            if self.report.write(self.events.drain(..), &mut self.out)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn is_wanted(&self, packet: &Packet) -> bool {
        self.ports.is_empty() || [packet.src, packet.dst].iter().any(|end| self.ports.contains(end.port()))
    }

    fn summary(&self) -> String {
        let (packets, segments) = (self.packets, self.segments);
        format!("read {packets} packets, {segments} TCP segments: {} events written", self.report.written())
    }
}

fn segment(packet: &Packet) -> SegmentInput {
    SegmentInput {
        time: packet.time,
        netns: 0,
        ifindex: packet.interface,
        direction: packet.direction,
        src: packet.src,
        dst: packet.dst,
        header: packet.header,
        payload_len: packet.payload_len,
        acks_syn_ack: false,
        acks_fin: false,
    }
}
