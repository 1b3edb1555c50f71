//! Standard output as a destination of events. What reads a capture waits for it.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::output::{Destination, Outcome};

/// Standard output, buffered. Clones share the buffer.
#[derive(Clone)]
pub(super) struct Stdout(Arc<Mutex<Buffer>>);

struct Buffer {
    bytes: Vec<u8>,
    /// How many more items may be written; `None` for any number.
    left: Option<u64>,
    written: u64,
    /// Why nothing more can be written, until that is reported.
    error: Option<io::Error>,
    failed: bool,
}

impl Stdout {
    /// Takes at most `limit` items.
    pub(super) fn new(limit: Option<u64>) -> Self {
        let buffer = Buffer { bytes: Vec::new(), left: limit, written: 0, error: None, failed: false };
        Self(Arc::new(Mutex::new(buffer)))
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// If that, or an earlier write, failed.
    pub(super) fn flush(&self) -> io::Result<()> {
        let mut buffer = self.lock();
        buffer.write();
        match buffer.error.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Destination for Stdout {
    fn take(&mut self, append: &mut dyn FnMut(&mut Vec<u8>)) {
        let mut buffer = self.lock();
        if buffer.is_full() {
            return;
        }
        append(&mut buffer.bytes);
        buffer.written += 1;
        buffer.left = buffer.left.map(|left| left.saturating_sub(1));
        if buffer.bytes.len() >= BUFFER {
            buffer.write();
        }
    }

    fn is_full(&self) -> bool {
        self.lock().is_full()
    }

    fn flush(&mut self) -> io::Result<()> {
        Self::flush(self)?;
        if has_no_reader() {
            // Without anything to write it would show only at the next event, which may be hours
            // away.
            self.lock().failed = true;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Outcome {
        Outcome { items: ("event", "written"), taken: self.lock().written, ..Outcome::default() }
    }
}

impl Buffer {
    fn is_full(&self) -> bool {
        self.left == Some(0) || self.failed
    }

    fn write(&mut self) {
        // What was not written must not be tried again.
        let bytes = mem::take(&mut self.bytes);
        if self.failed || bytes.is_empty() {
            return;
        }
        if let Err(error) = write_stdout(&bytes) {
            self.error = Some(error);
            self.failed = true;
        }
        // Keeps the memory for the next batch.
        self.bytes = bytes;
        self.bytes.clear();
    }
}

/// Writes `bytes` to standard output at once.
pub(super) fn write_stdout(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Whether standard output is a pipe without a reader.
pub(super) fn has_no_reader() -> bool {
    let stdout = io::stdout();
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::ERR)
}

/// How much is buffered at most, but for the last item.
const BUFFER: usize = 64 << 10;
