//! The recording (`--write`): packets on their way into a file, on a thread of their own, so that a slow disk or a reader that does not
//! read holds up nothing else.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::mem;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open};
use rustix::io::Errno;

use super::say;
use crate::lifecycle::{Event, Time};
use crate::output::Pcapng;

/// Where a recording goes, opened for writing.
#[derive(Debug)]
pub(super) struct Destination {
    file: File,
    /// As in messages.
    name: String,
    kind: Kind,
    /// How much it has taken, bytes.
    written: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One that is this recording from its first byte on, and can be cut off after the last whole block.
    File,
    /// A pipe or a device by name.
    Stream,
    Stdout,
}

/// Why there can be no recording.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordingError {
    #[error("cannot write {name}")]
    Write { name: String, source: io::Error },
    #[error("cannot write {name}: nobody has opened this pipe to read it; start the reader first")]
    NoReader { name: String },
    #[error("--write - would write binary packets to the terminal: redirect standard output, or name a file")]
    Terminal,
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// A recording that is being made.
pub(super) struct Recording {
    packets: Pcapng,
    name: String,
    is_stdout: bool,
    /// Whole blocks that the thread has not taken yet.
    pending: Vec<u8>,
    /// Where the thread takes them; `None` if it has ended.
    blocks: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<Result<(), Failed>>>,
    outcome: Recorded,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorded {
    /// Packets handed to the file.
    pub(super) packets: u64,
    /// Packets that it had no time for.
    pub(super) dropped: u64,
    /// It took no more: that was said then.
    pub(super) failed: bool,
}

/// The file took no more.
struct Failed;

impl Destination {
    /// Opens `path`; `-` is standard output. What a file has in it is left alone until a recording begins. Of a named pipe no
    /// reader is waited for.
    pub(super) fn open(path: &Path) -> Result<Self, RecordingError> {
        let name =
            if path.as_os_str() == "-" { "standard output".into() } else { path.display().to_string() };
        let failed = |source: io::Error| RecordingError::Write { name: name.clone(), source };
        let (file, kind) = if path.as_os_str() == "-" {
            let stdout = io::stdout();
            if stdout.is_terminal() {
                return Err(RecordingError::Terminal);
            }
            (File::from(stdout.as_fd().try_clone_to_owned().map_err(failed)?), Kind::Stdout)
        } else {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            // Without it, a pipe would be waited for until somebody reads.
            let file = match open(path, flags | OFlags::NONBLOCK, Mode::from_raw_mode(0o666)) {
                Err(Errno::NXIO) => return Err(RecordingError::NoReader { name }),
                opened => opened.map_err(|error| failed(error.into()))?,
            };
            // The thread may wait.
            fcntl_getfl(&file)
                .and_then(|flags| fcntl_setfl(&file, flags.difference(OFlags::NONBLOCK)))
                .map_err(|error| failed(error.into()))?;
            let stat = fstat(&file).map_err(|error| failed(error.into()))?;
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            (File::from(file), if is_file { Kind::File } else { Kind::Stream })
        };
        Ok(Self { file, name, kind, written: 0 })
    }

    /// Makes the file a recording without packets.
    fn begin(&mut self) -> Result<(), RecordingError> {
        let mut head = Vec::new();
        Pcapng::begin(&mut head);
        let emptied = if self.kind == Kind::File { self.file.set_len(0) } else { Ok(()) };
        emptied
            .and_then(|()| self.write(&head))
            .map_err(|source| RecordingError::Write { name: self.name.clone(), source })
    }

    /// Writes whole blocks: after an error, a file ends before them.
    fn write(&mut self, blocks: &[u8]) -> io::Result<()> {
        let outcome = self.file.write_all(blocks);
        match (&outcome, self.kind) {
            (Ok(()), _) => self.written += blocks.len() as u64,
            // If this fails too, readers will find half a block at the end.
            (Err(_), Kind::File) => drop(self.file.set_len(self.written)),
            (Err(_), Kind::Stream | Kind::Stdout) => {}
        }
        outcome
    }

    /// Writes what comes, until nothing more comes or an error, which it says.
    fn write_all(mut self, blocks: &Receiver<Vec<u8>>) -> Result<(), Failed> {
        for blocks in blocks {
            match self.write(&blocks) {
                Ok(()) => {}
                // The reader has seen enough: the log ends with that, too.
                Err(error) if self.kind == Kind::Stdout && error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(());
                }
                Err(error) => {
                    say(format_args!(
                        "tcp-monitor: cannot write {}: {error}; the recording ends here, monitoring goes on",
                        self.name
                    ));
                    return Err(Failed);
                }
            }
        }
        Ok(())
    }
}

impl Recording {
    /// Records to `destination`. `interface_name` finds the name of an interface by its network namespace and index.
    pub(super) fn start(
        mut destination: Destination,
        interface_name: impl Fn(u32, u32) -> Option<String> + Send + 'static,
    ) -> Result<Self, RecordingError> {
        destination.begin()?;
        // One batch on its way: the rest waits where it can be counted.
        let (blocks, taken) = sync_channel(1);
        let (name, is_stdout) = (destination.name.clone(), destination.kind == Kind::Stdout);
        let thread = thread::Builder::new()
            .name("recording".into())
            .spawn(move || destination.write_all(&taken))
            .map_err(RecordingError::Thread)?;
        Ok(Self {
            packets: Pcapng::new(interface_name),
            name,
            is_stdout,
            pending: Vec::new(),
            blocks: Some(blocks),
            thread: Some(thread),
            outcome: Recorded::default(),
        })
    }

    /// Whether it goes to standard output.
    pub(super) const fn is_stdout(&self) -> bool {
        self.is_stdout
    }

    /// Takes in an event.
    pub(super) fn take(&mut self, event: &Event) {
        if self.blocks.is_some() {
            self.packets.take(event);
            self.collect(event.time);
        }
    }

    /// Hands on the packets of which all has been said, now that all events before `until` have been taken in.
    pub(super) fn flush(&mut self, until: Time) {
        if self.blocks.is_some() {
            self.collect(until);
        }
        let Some(blocks) = self.blocks.as_ref().filter(|_| !self.pending.is_empty()) else { return };
        match blocks.try_send(mem::take(&mut self.pending)) {
            Ok(()) => {}
            Err(TrySendError::Full(pending)) => self.pending = pending,
            Err(TrySendError::Disconnected(_)) => self.blocks = None,
        }
    }

    /// Hands on what is left and awaits that it is written.
    pub(super) fn finish(mut self) -> Recorded {
        if self.blocks.is_some() {
            self.collect(Time::from_nanos(u64::MAX));
        }
        if let Some(blocks) = self.blocks.take() {
            // An error is the thread's to tell.
            let _ = blocks.send(self.pending);
        }
        let ended = self.thread.map(JoinHandle::join);
        Recorded { failed: !matches!(ended, Some(Ok(Ok(())))), ..self.outcome }
    }

    fn collect(&mut self, now: Time) {
        while let Some(packet) = self.packets.pop(now) {
            if self.pending.len() < MAX_PENDING {
                self.packets.write(&packet, &mut self.pending);
                self.outcome.packets += 1;
                continue;
            }
            if self.outcome.dropped == 0 {
                say(format_args!("tcp-monitor: {} is too slow: packets are left out", self.name));
            }
            self.outcome.dropped += 1;
        }
    }
}

/// How much may wait for a file that takes it too slowly, bytes: some 60,000 packets.
const MAX_PENDING: usize = if cfg!(test) { 64 << 10 } else { 16 << 20 };

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;

    use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

    use super::{Destination, Recording, RecordingError};
    use crate::capture::Capture;
    use crate::lifecycle::{Event, Input, SegmentInput, TcpHeader, Time, Tracker};

    fn fifo(path: &Path) {
        mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a named pipe");
    }

    fn record(to: Destination) -> Recording {
        Recording::start(to, |_, _| None).expect("room for the head")
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
    fn what_a_file_had_in_it_is_left_alone_until_the_recording_begins() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("old.pcapng");
        fs::write(&path, [b'x'; 10_000]).expect("room");
        let destination = Destination::open(&path).expect("a file");
        assert_eq!(fs::read(&path).expect("there").len(), 10_000);
        let mut recording = record(destination);
        for event in syns(3) {
            recording.take(&event);
        }
        let recorded = recording.finish();
        assert!((recorded.packets, recorded.dropped, recorded.failed) == (3, 0, false), "{recorded:?}");
        assert_eq!(Capture::open(&path).expect("a capture").flatten().count(), 3);
    }

    #[test]
    fn packets_are_in_the_file_before_the_recording_ends() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fifo");
        fifo(&path);
        // Both ends: opening one waits for the other, else.
        let reader = OpenOptions::new().read(true).write(true).open(&path).expect("a pipe");
        let mut recording = record(Destination::open(&path).expect("a reader is there"));
        let events = syns(3);
        for event in &events {
            recording.take(event);
        }
        recording.flush(Time::from_nanos(u64::MAX));
        let read = Capture::read(reader).expect("a capture").take(3);
        assert_eq!(read.flatten().count(), 3);
        recording.finish();
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_not_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fifo");
        fifo(&path);
        let refused = Destination::open(&path);
        assert!(matches!(refused, Err(RecordingError::NoReader { .. })), "{refused:?}");
    }

    #[test]
    fn a_reader_that_does_not_read_costs_packets_but_no_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fifo");
        fifo(&path);
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let reader = OpenOptions::new().read(true).custom_flags(nonblocking).open(&path).expect("a pipe");
        let mut recording = record(Destination::open(&path).expect("a reader is there"));
        for event in syns(5_000) {
            recording.take(&event);
            recording.flush(event.time);
        }
        assert!(recording.outcome.dropped > 0, "{:?}", recording.outcome);
        drop(reader);
        assert!(recording.finish().failed);
    }

    #[test]
    fn a_full_disk_ends_the_recording() {
        let full = Destination::open(Path::new("/dev/full")).expect("it opens");
        let Err(error) = Recording::start(full, |_, _| None) else { panic!("there was room") };
        assert_eq!(error.to_string(), "cannot write /dev/full");
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(cause.contains("No space left"), "{cause}");
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let missing = directory.path().join("missing/file");
        for path in [directory.path(), &missing] {
            let error = Destination::open(path).expect_err("no file").to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }
}
