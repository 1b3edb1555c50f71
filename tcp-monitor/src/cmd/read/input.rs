//! The bytes of a capture as they come. Whoever waits for more has written what it knows, and a signal ends the wait.

use std::fs::File;
use std::io::{self, BufWriter, Read, Stdout, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Standard output, which what reads and what writes have in common.
#[derive(Clone)]
pub(super) struct Output(Arc<Mutex<BufWriter<Stdout>>>);

impl Output {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(BufWriter::with_capacity(BUFFER, io::stdout()))))
    }

    fn lock(&self) -> MutexGuard<'_, BufWriter<Stdout>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().flush()
    }
}

/// A capture file, or a pipe that one comes through.
pub(super) struct Input {
    file: File,
    /// Its other end is closed when it is time to stop.
    stop: Arc<UnixStream>,
    output: Output,
}

/// Why there is no more to read, though it is not the end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Halt {
    #[error("stopped by a signal")]
    Stopped,
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

impl Input {
    pub(super) fn new(file: File, stop: Arc<UnixStream>, output: Output) -> Self {
        Self { file, stop, output }
    }

    /// Waits for something to read, for `timeout` at most. Returns whether there is something.
    fn wait(&self, timeout: Option<&Timespec>) -> io::Result<bool> {
        let stdout = io::stdout();
        let mut polled = [
            PollFd::new(&self.file, PollFlags::IN),
            PollFd::new(&self.stop, PollFlags::IN),
            // Errors are told of in any case: nobody reads any more.
            PollFd::new(&stdout, PollFlags::empty()),
        ];
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [file, stop, stdout] = polled.map(|polled| polled.revents());
        if !stop.is_empty() {
            return Err(io::Error::other(Halt::Stopped));
        }
        if stdout.contains(PollFlags::ERR) {
            return Err(io::Error::other(Halt::Output(io::ErrorKind::BrokenPipe.into())));
        }
        Ok(!file.is_empty())
    }
}

impl Read for Input {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if !self.wait(Some(&NOW))? {
            self.output.flush().map_err(|error| io::Error::other(Halt::Output(error)))?;
            while !self.wait(None)? {}
        }
        self.file.read(bytes)
    }
}

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
const BUFFER: usize = 64 << 10;
