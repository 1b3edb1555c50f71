//! The recording (`--write`): a file as a destination of packets, written by a thread of its own.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open};
use rustix::io::Errno;

use super::background::BackgroundWriter;
use super::say;
use super::stdout::has_no_reader;
use crate::output::{Destination, Outcome, Pcapng};

/// The file of a recording, opened for writing.
#[derive(Debug)]
pub(super) struct RecordingFile {
    file: File,
    /// As in messages.
    name: String,
    kind: FileKind,
    /// Bytes written.
    written: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    /// A regular file: the recording begins at its first byte, and it can be truncated after the
    /// last whole block.
    File,
    /// A named pipe or a device.
    Stream,
    Stdout,
}

/// Why there can be no recording.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordingError {
    #[error("cannot write {name}")]
    Write { name: String, source: io::Error },
    #[error("cannot write {name}: the pipe has no reader; start the reader first")]
    NoReader { name: String },
    #[error("--write - would write binary packets to the terminal: redirect standard output, or name a file")]
    Terminal,
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// A recording in progress.
pub(super) struct Recording {
    name: String,
    is_stdout: bool,
    /// Writes whole blocks.
    writer: BackgroundWriter<Failed>,
    outcome: Outcome,
}

/// Writing failed; the error was printed.
struct Failed;

impl RecordingFile {
    /// Opens `path`; `-` is standard output. An existing file is not changed until the recording
    /// begins. A named pipe must have a reader.
    pub(super) fn open(path: &Path) -> Result<Self, RecordingError> {
        let name =
            if path.as_os_str() == "-" { "standard output".into() } else { path.display().to_string() };
        let failed = |source: io::Error| RecordingError::Write { name: name.clone(), source };
        let (file, kind) = if path.as_os_str() == "-" {
            let stdout = io::stdout();
            if stdout.is_terminal() {
                return Err(RecordingError::Terminal);
            }
            (File::from(stdout.as_fd().try_clone_to_owned().map_err(failed)?), FileKind::Stdout)
        } else {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            // Without it, opening a pipe would wait for a reader.
            let file = match open(path, flags | OFlags::NONBLOCK, Mode::from_raw_mode(0o666)) {
                Err(Errno::NXIO) => return Err(RecordingError::NoReader { name }),
                opened => opened.map_err(|error| failed(error.into()))?,
            };
            // The thread may block.
            fcntl_getfl(&file)
                .and_then(|flags| fcntl_setfl(&file, flags.difference(OFlags::NONBLOCK)))
                .map_err(|error| failed(error.into()))?;
            let stat = fstat(&file).map_err(|error| failed(error.into()))?;
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            (File::from(file), if is_file { FileKind::File } else { FileKind::Stream })
        };
        Ok(Self { file, name, kind, written: 0 })
    }

    /// Writes the beginning of a recording.
    fn begin(&mut self) -> Result<(), RecordingError> {
        let mut head = Vec::new();
        Pcapng::begin(&mut head);
        let emptied = if self.kind == FileKind::File { self.file.set_len(0) } else { Ok(()) };
        emptied
            .and_then(|()| self.write(&head))
            .map_err(|source| RecordingError::Write { name: self.name.clone(), source })
    }

    /// Writes whole blocks. After an error, a regular file ends before them.
    fn write(&mut self, blocks: &[u8]) -> io::Result<()> {
        let outcome = self.file.write_all(blocks);
        match (&outcome, self.kind) {
            (Ok(()), _) => self.written += blocks.len() as u64,
            // If this fails too, half a block is left at the end.
            (Err(_), FileKind::File) => drop(self.file.set_len(self.written)),
            (Err(_), FileKind::Stream | FileKind::Stdout) => {}
        }
        outcome
    }

    /// Writes whole blocks. Prints the error, if there is one, and ends the recording.
    fn record(&mut self, blocks: &[u8]) -> ControlFlow<Result<(), Failed>> {
        match self.write(blocks) {
            Ok(()) => ControlFlow::Continue(()),
            // The reader has exited: the log ends, too.
            Err(error) if self.kind == FileKind::Stdout && error.kind() == io::ErrorKind::BrokenPipe => {
                ControlFlow::Break(Ok(()))
            }
            Err(error) => {
                say(format_args!(
                    "tcp-monitor: cannot write {}: {error}; the recording ends here, monitoring continues",
                    self.name
                ));
                ControlFlow::Break(Err(Failed))
            }
        }
    }
}

impl Recording {
    /// Records to `file`.
    pub(super) fn start(mut file: RecordingFile) -> Result<Self, RecordingError> {
        file.begin()?;
        let (name, is_stdout) = (file.name.clone(), file.kind == FileKind::Stdout);
        let writer = BackgroundWriter::start("recording", move |blocks| file.record(blocks))
            .map_err(RecordingError::Thread)?;
        Ok(Self {
            name,
            is_stdout,
            writer,
            outcome: Outcome { items: ("packet", "recorded"), ..Outcome::default() },
        })
    }
}

impl Destination for Recording {
    /// An item is whole blocks: a packet, and its interface if that is new.
    fn take(&mut self, append: &mut dyn FnMut(&mut Vec<u8>)) {
        let Some(pending) = self.writer.pending() else { return };
        if pending.len() < MAX_PENDING {
            append(pending);
            self.outcome.taken += 1;
            return;
        }
        if self.outcome.dropped == 0 {
            say(format_args!(
                "tcp-monitor: {} is too slow: packets are dropped from the recording",
                self.name
            ));
        }
        self.outcome.dropped += 1;
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.send();
        if self.is_stdout && has_no_reader() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Outcome {
        // The thread has printed its error.
        Outcome { failed: !matches!(self.writer.finish(), Some(Ok(()))), ..self.outcome }
    }
}

/// The most pending bytes, if the file is too slow: some 60,000 packets.
const MAX_PENDING: usize = if cfg!(test) { 64 << 10 } else { 16 << 20 };

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;

    use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

    use super::{Recording, RecordingError, RecordingFile};
    use crate::capture::Capture;
    use crate::clock::WallClock;
    use crate::lifecycle::{Event, Input, SegmentInput, TcpHeader, Time, Tracker};
    use crate::output::{Context, FanOut, NoNames, Outcome, Pcapng};

    fn fifo(path: &Path) {
        mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a named pipe");
    }

    fn record(file: RecordingFile) -> FanOut {
        let mut outputs = FanOut::default();
        let recording = Recording::start(file).expect("room for the head");
        outputs.add(Box::new(Pcapng::default()), Box::new(recording));
        outputs
    }

    /// Records events, and the end of them.
    fn write(outputs: &mut FanOut, events: Vec<Event>) {
        let clock = WallClock::of_capture();
        let context = Context::new(&clock, &NoNames);
        for event in events {
            assert!(outputs.write([&event], &context).is_continue());
            outputs.flush().expect("a recording does not end the run");
        }
        outputs.end_events(&context);
    }

    fn finish(outputs: FanOut) -> Outcome {
        outputs.finish()[0]
    }

    /// SYNs of as many connections, a millisecond apart.
    fn syns(count: u64) -> Vec<Event> {
        let (mut tracker, mut events) = (Tracker::new(), Vec::new());
        let header = TcpHeader::parse(&[0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
        for number in 0..count {
            let [.., a, b, c] = number.to_be_bytes();
            tracker.handle(
                Input::Segment(SegmentInput {
                    time: Time::from_nanos((number + 1) * 1_000_000),
                    netns: 1,
                    ifindex: 1,
                    direction: None,
                    src: ([10, a, b, c], 1).into(),
                    dst: ([192, 0, 2, 1], 2).into(),
                    header: header.expect("a header"),
                    payload_len: 0,
                    acks_syn_ack: false,
                    acks_fin: false,
                    syn_cookie: false,
                    frame: None,
                }),
                &mut events,
            );
        }
        assert_eq!(events.len() as u64, count);
        events
    }

    #[test]
    fn an_existing_file_is_not_changed_until_the_recording_begins() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("old.pcapng");
        fs::write(&path, [b'x'; 10_000]).expect("room");
        let file = RecordingFile::open(&path).expect("a file");
        assert_eq!(fs::read(&path).expect("there").len(), 10_000);
        let mut outputs = record(file);
        write(&mut outputs, syns(3));
        let outcome = finish(outputs);
        assert_eq!((outcome.taken, outcome.dropped, outcome.failed), (3, 0, false));
        assert_eq!(Capture::open(&path).expect("a capture").flatten().count(), 3);
    }

    #[test]
    fn packets_are_in_the_file_before_the_recording_ends() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fifo");
        fifo(&path);
        // Both ends: opening one would wait for the other.
        let reader = OpenOptions::new().read(true).write(true).open(&path).expect("a pipe");
        let mut outputs = record(RecordingFile::open(&path).expect("a reader is there"));
        write(&mut outputs, syns(3));
        outputs.flush().expect("a recording does not end the run");
        let read = Capture::read(reader).expect("a capture").take(3);
        assert_eq!(read.flatten().count(), 3);
        let _ = finish(outputs);
    }

    #[test]
    fn a_pipe_without_a_reader_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fifo");
        fifo(&path);
        let refused = RecordingFile::open(&path);
        assert!(matches!(refused, Err(RecordingError::NoReader { .. })), "{refused:?}");
    }

    #[test]
    fn a_reader_that_does_not_read_costs_packets_but_no_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fifo");
        fifo(&path);
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let reader = OpenOptions::new().read(true).custom_flags(nonblocking).open(&path).expect("a pipe");
        let mut outputs = record(RecordingFile::open(&path).expect("a reader is there"));
        write(&mut outputs, syns(5_000));
        drop(reader);
        let outcome = finish(outputs);
        assert!(outcome.dropped > 0 && outcome.failed, "{outcome:?}");
    }

    #[test]
    fn a_full_disk_ends_the_recording() {
        let full = RecordingFile::open(Path::new("/dev/full")).expect("it opens");
        let Err(error) = Recording::start(full) else { panic!("there was room") };
        assert_eq!(error.to_string(), "cannot write /dev/full");
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(cause.contains("No space left"), "{cause}");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let missing = directory.path().join("missing/file");
        for path in [directory.path(), &missing] {
            let error = RecordingFile::open(path).expect_err("no file").to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }
}
