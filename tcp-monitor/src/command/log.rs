//! The live log: records in, explained by the tracker, lines out on standard output.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::lifecycle::{Event, Input, Tracker};
use crate::sink::Sink;
use crate::source::kernel::decode::{Clock, decode};
use crate::source::kernel::{Batch, ReadError, RecordReader};

/// Turns records into lines, on the thread that reads them.
pub(super) struct Log {
    tracker: Tracker,
    /// `None`: nothing is written.
    sink: Option<Box<dyn Sink>>,
    /// How many more events may be written; `None` for any number.
    left: Option<u64>,
    clock: Clock,
    clock_set: Instant,
    written: Written,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    /// Events written.
    pub(super) events: u64,
    /// Records that the ring buffer had no room for.
    pub(super) lost: u64,
    /// Records that could not be understood; any is a bug.
    pub(super) malformed: u64,
}

/// Why the log ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    /// The records could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Standard output took no more.
    #[error("cannot write to standard output: {0}")]
    Write(io::Error),
}

impl Log {
    pub(super) fn new(sink: Option<Box<dyn Sink>>, limit: Option<u64>) -> Self {
        Self {
            tracker: Tracker::new(),
            sink,
            left: limit,
            clock: read_clock(),
            clock_set: Instant::now(),
            written: Written::default(),
        }
    }

    /// Reads and writes until the source is stopped, the limit is reached or nobody reads any more.
    ///
    /// Lines are flushed at the end of each batch: never later than the reader looks, never a call a line.
    pub(super) fn run(mut self, reader: RecordReader) -> Result<Written, LogError> {
        let mut out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
        let mut failure = None;
        reader.run(&mut |batch| match self.take(&batch, &mut out) {
            Ok(more) => more,
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        })?;
        // What did not get through must not be tried again when the buffer is dropped.
        let (_, _) = out.into_parts();
        match failure {
            None => Ok(self.written),
            // The reader has seen enough, as `head` does.
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(self.written),
            Some(error) => Err(LogError::Write(error)),
        }
    }

    fn take(
        &mut self,
        batch: &Batch<'_>,
        out: &mut BufWriter<StdoutLock<'_>>,
    ) -> io::Result<ControlFlow<()>> {
        if self.clock_set.elapsed() >= CLOCK_INTERVAL {
            self.clock = read_clock();
            self.clock_set = Instant::now();
        }
        self.written.malformed += batch.malformed;
        let mut events = Vec::new();
        for record in batch.records.iter() {
            match decode(record, &self.clock) {
                Ok(input) => self.tracker.handle(input, &mut events),
                Err(error) => {
                    self.written.malformed += 1;
                    ::log::debug!("record skipped: {error}");
                }
            }
        }
        let time = self.clock.time(batch.complete_until);
        self.tracker.expire(time, &mut events);
        for &(kind, count) in batch.lost {
            self.written.lost += count;
            self.tracker.handle(Input::Lost { time, kind, count }, &mut events);
        }
        let more = self.write(&events, out)?;
        out.flush()?;
        Ok(more)
    }

    fn write(&mut self, events: &[Event], out: &mut dyn Write) -> io::Result<ControlFlow<()>> {
        let Some(sink) = &mut self.sink else { return Ok(ControlFlow::Continue(())) };
        for event in events {
            sink.write(event, out)?;
            self.written.events += 1;
            if let Some(left) = &mut self.left {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn read_clock() -> Clock {
    Clock::new(nanoseconds(ClockId::Realtime), nanoseconds(ClockId::Monotonic))
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    // Neither clock is negative on a machine that knows the year.
    now.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec.cast_unsigned())
}

const BUFFER: usize = 64 << 10;
/// How often the wall clock is looked at again: it may be set, or slewed.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);
