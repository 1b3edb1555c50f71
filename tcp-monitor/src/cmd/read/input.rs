//! The bytes of a capture. Before it waits for more, standard output is flushed; a signal ends the
//! wait.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::cmd::stdout::Stdout;

/// A capture file, or a pipe.
pub(super) struct CaptureInput {
    file: File,
    /// Its other end is closed to stop the reading.
    stop: Arc<UnixStream>,
    stdout: Stdout,
}

/// Why reading stopped before the end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Halt {
    #[error("stopped by a signal")]
    Stopped,
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

impl CaptureInput {
    pub(super) fn new(file: File, stop: Arc<UnixStream>, stdout: Stdout) -> Self {
        Self { file, stop, stdout }
    }

    /// Waits for something to read, for `timeout` at most. Returns whether there is something.
    fn wait(&self, timeout: Option<&Timespec>) -> io::Result<bool> {
        let stdout = io::stdout();
        let mut polled = [
            PollFd::new(&self.file, PollFlags::IN),
            PollFd::new(&self.stop, PollFlags::IN),
            // Errors are reported in any case: it has no reader any more.
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

impl Read for CaptureInput {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if !self.wait(Some(&NOW))? {
            self.stdout.flush().map_err(|error| io::Error::other(Halt::Output(error)))?;
            while !self.wait(None)? {}
        }
        self.file.read(bytes)
    }
}

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
