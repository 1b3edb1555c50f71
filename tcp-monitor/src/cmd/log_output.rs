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
        Self::with(limit, write_stdout)
    }

    fn with(
        limit: Option<u64>,
        mut write: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let writer = BackgroundWriter::start("output", move |batch| match write(batch) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Err(error)),
        })?;
        let outcome = Outcome { items: ("event", "written"), ..Outcome::default() };
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::{BEHIND, LogOutput, MAX_PENDING};
    use crate::output::Destination;

    fn take(output: &mut LogOutput, item: &[u8]) {
        output.take(&mut |out| out.extend_from_slice(item));
    }

    /// Flushes until `is_done`, or for ten seconds.
    fn flush_until(output: &mut LogOutput, is_done: impl Fn(&LogOutput) -> bool) {
        let begin = Instant::now();
        while !is_done(output) && begin.elapsed() < Duration::from_secs(10) {
            output.flush().expect("nothing fails");
            std::thread::yield_now();
        }
        assert!(is_done(output));
    }

    #[test]
    fn a_reader_that_does_not_read_costs_room_but_no_time() {
        let (release, blocked) = mpsc::channel::<()>();
        let (report, written) = mpsc::channel();
        let write = move |batch: &[u8]| {
            let _ = blocked.recv();
            report.send(batch.len()).map_err(io::Error::other)
        };
        let mut output = LogOutput::with(None, write).expect("a thread");
        let item = vec![b'x'; BEHIND / 4];
        let mut items = 0;
        while output.has_room() {
            take(&mut output, &item);
            items += 1;
            output.flush().expect("nothing fails");
        }
        // Two batches are on their way at most: the first item, and what became pending before the
        // thread took that.
        assert!((5..=9).contains(&items), "{items}");
        let rest = (MAX_PENDING - BEHIND) / item.len();
        for _ in 0..rest + 3 {
            take(&mut output, &item);
        }
        drop(release);
        flush_until(&mut output, Destination::has_room);
        output.drain().expect("nothing fails");
        let outcome = Box::new(output).finish();
        assert_eq!((outcome.taken, outcome.dropped), ((items + rest) as u64, 3));
        assert_eq!(written.iter().sum::<usize>(), (items + rest) * item.len());
    }

    #[test]
    fn the_last_items_are_written_and_none_beyond_the_limit() {
        let (report, written) = mpsc::channel();
        let write = move |batch: &[u8]| report.send(batch.to_vec()).map_err(io::Error::other);
        let mut output = LogOutput::with(Some(2), write).expect("a thread");
        for item in [b"a", b"b", b"c"] {
            take(&mut output, item);
        }
        assert!(output.is_full());
        output.drain().expect("nothing fails");
        assert_eq!(written.iter().collect::<Vec<_>>().concat(), b"ab");
        assert_eq!(Box::new(output).finish().taken, 2);
    }

    #[test]
    fn a_failure_is_reported_once_and_ends_the_output() {
        let mut output = LogOutput::with(None, |_| Err(io::ErrorKind::StorageFull.into())).expect("a thread");
        let begin = Instant::now();
        let error = loop {
            take(&mut output, b"x");
            match output.flush() {
                Ok(()) => assert!(begin.elapsed() < Duration::from_secs(10), "no failure"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(output.is_full() && output.drain().is_ok());
    }
}
