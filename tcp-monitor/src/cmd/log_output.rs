//! Standard output of a running monitor: what reads the ring buffer never waits for who reads the
//! log.

use std::io;
use std::ops::ControlFlow;

use super::background::BackgroundWriter;
use super::stdout::{has_no_reader, write_stdout};
use crate::output::{Destination, Outcome};

/// Standard output, written by a thread of its own.
pub(super) struct LogOutput {
    writer: BackgroundWriter<io::Error>,
    /// How many more items may be written; `None` for any number.
    left: Option<u64>,
    outcome: Outcome,
    /// It is slower than what it is given.
    is_behind: bool,
}

impl LogOutput {
    /// Takes at most `limit` items.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub(super) fn start(limit: Option<u64>) -> io::Result<Self> {
        let writer = BackgroundWriter::start("output", |batch| match write_stdout(batch) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Err(error)),
        })?;
        let outcome = Outcome { items: "events written", ..Outcome::default() };
        Ok(Self { writer, left: limit, outcome, is_behind: false })
    }

    fn finish_writing(&mut self) -> io::Result<()> {
        match self.writer.finish() {
            Some(result) => result,
            None => Ok(()),
        }
    }
}

impl Destination for LogOutput {
    fn take(&mut self, append: &mut dyn FnMut(&mut Vec<u8>)) {
        if self.left == Some(0) {
            return;
        }
        let Some(pending) = self.writer.pending() else { return };
        if pending.len() >= MAX_PENDING {
            self.outcome.dropped += 1;
            return;
        }
        append(pending);
        self.outcome.taken += 1;
        self.left = self.left.map(|left| left.saturating_sub(1));
    }

    fn is_full(&self) -> bool {
        self.left == Some(0) || self.writer.has_ended()
    }

    fn has_room(&self) -> bool {
        !self.is_behind
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.send();
        let pending = self.writer.pending().map_or(0, |pending| pending.len());
        self.is_behind = pending >= if self.is_behind { CAUGHT_UP } else { BEHIND };
        if self.writer.has_ended() {
            return self.finish_writing();
        }
        if has_no_reader() {
            // Without anything to write it would show only at the next event, which may be hours
            // away.
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    fn drain(&mut self) -> io::Result<()> {
        self.finish_writing()
    }

    fn finish(self: Box<Self>) -> Outcome {
        self.outcome
    }
}

/// Pending bytes from which on no other connection is begun, and below which one is again.
const BEHIND: usize = 4 << 20;
const CAUGHT_UP: usize = 1 << 20;
/// The most pending bytes: room for the rest of the connections that were begun.
const MAX_PENDING: usize = 16 << 20;
