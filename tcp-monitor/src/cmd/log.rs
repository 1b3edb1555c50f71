//! The live log: records and what else is known of sockets in, explained by the tracker, lines out on standard output.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use std::vec::Drain;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

use super::recording::{Recorded, Recording};
use super::report::Report;
use crate::counts::{TrackerCounts, TrackerStats};
use crate::kernel::decode::{Clock, decode};
use crate::kernel::{Batch, ReadError, RecordReader};
use crate::lifecycle::{Event, InferFrom, Input, Options, StuckSocket, Time, Tracker};
use crate::sockets::ExistingSocket;

/// Turns records into lines, on the thread that reads them.
pub(super) struct Log {
    tracker: Tracker,
    /// Where the size of the tracker is published.
    stats: Arc<TrackerStats>,
    queue: Queue,
    /// The sockets that were there before, latest first, as far as they are not handed to the tracker yet.
    found: Vec<ExistingSocket>,
    /// Sockets that are found to be stuck.
    stuck: Receiver<StuckSocket>,
    report: Report,
    recording: Option<Recording>,
    clock: Clock,
    clock_set: Instant,
    written: Written,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    /// Events written.
    pub(super) events: u64,
    /// Records read.
    pub(super) read: u64,
    /// Records that the ring buffer had no room for.
    pub(super) lost: u64,
    /// Records that could not be understood; any is a bug.
    pub(super) malformed: u64,
    /// How often something had to be forgotten because there was too much of it.
    pub(super) evicted: u64,
    /// What came of the recording, if there was one.
    pub(super) recorded: Option<Recorded>,
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
    /// Remembers at most `max_connections`. `found` are the sockets that were there when the records began, in order of time.
    pub(super) fn new(
        report: Report,
        recording: Option<Recording>,
        max_connections: usize,
        mut found: Vec<ExistingSocket>,
        stuck: Receiver<StuckSocket>,
    ) -> Self {
        found.reverse();
        Self {
            tracker: Tracker::with(Options { infer_from: InferFrom::ControlSegments, max_connections }),
            stats: Arc::default(),
            queue: Queue::default(),
            found,
            stuck,
            report,
            recording,
            clock: read_clock(),
            clock_set: Instant::now(),
            written: Written::default(),
        }
    }

    /// The size of the tracker, as of each look at the records; `None` if nothing is written, and so nothing tracked.
    pub(super) fn tracker_stats(&self) -> Option<Arc<TrackerStats>> {
        (self.report.is_wanted() || self.recording.is_some()).then(|| Arc::clone(&self.stats))
    }

    fn writes_to_stdout(&self) -> bool {
        self.report.is_wanted() || self.recording.as_ref().is_some_and(Recording::is_stdout)
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
        let ended_early = failure.is_some() || self.report.is_full();
        if !ended_early && let Err(error) = self.finish(&mut out).and_then(|()| out.flush()) {
            failure = Some(error);
        }
        // What did not get through must not be tried again when the buffer is dropped.
        let (_, _) = out.into_parts();
        self.written.evicted = self.tracker.evicted();
        self.written.recorded = self.recording.take().map(Recording::finish);
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
        self.written.read += batch.records.len() as u64;
        self.written.malformed += batch.malformed;
        for record in batch.records.iter() {
            match decode(record, &self.clock) {
                Ok(input) => {
                    // What was told of a socket before it was looked at must be known by then, and nothing later.
                    self.find_until(input.time());
                    self.tracker.handle(input, &mut self.queue.events);
                }
                Err(error) => {
                    self.written.malformed += 1;
                    ::log::debug!("record skipped: {error}");
                }
            }
        }
        let time = self.clock.time(batch.complete_until);
        self.find_until(time);
        let events = &mut self.queue.events;
        self.tracker.expire(time, events);
        for stuck in self.stuck.try_iter() {
            // It was found so a moment later, of which not all is known yet.
            self.tracker.handle(Input::Stuck(StuckSocket { time, ..stuck }), events);
        }
        for &(kind, count) in batch.lost {
            self.written.lost += count;
            self.tracker.handle(Input::Lost { time, kind, count }, events);
        }
        self.stats.publish(TrackerCounts {
            connections: self.tracker.sockets() as u64,
            evicted: self.tracker.evicted(),
        });
        let untold = self.tracker.first_untold(time);
        let mut more = self.write(untold, out)?;
        if more.is_continue() {
            more = self.report.advance(untold.map_or(time, |untold| untold.min(time)), out)?;
            self.written.events = self.report.written();
        }
        out.flush()?;
        if let Some(recording) = &mut self.recording {
            recording.flush(untold.unwrap_or(time).min(time));
        }
        if self.writes_to_stdout() && nobody_reads(out.get_ref()) {
            // With nothing to write it would show only at the next event, which may be hours away.
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(more)
    }

    /// Hands the tracker the sockets that were looked at until `time`.
    fn find_until(&mut self, time: Time) {
        while let Some(found) = self.found.pop_if(|found| self.clock.time(found.not_before) <= time) {
            self.tracker.handle(found.input(&self.clock), &mut self.queue.events);
        }
        if self.found.is_empty() {
            // Its memory is not needed any more.
            self.found = Vec::new();
        }
    }

    /// Writes what is left when the source has stopped.
    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if self.write(None, out)?.is_continue() {
            let _ = self.report.finish(out)?;
            self.written.events = self.report.written();
        }
        Ok(())
    }

    /// Writes the events that come before `untold`.
    fn write(&mut self, untold: Option<Time>, out: &mut dyn Write) -> io::Result<ControlFlow<()>> {
        let recording = &mut self.recording;
        let events = self.queue.take(untold).inspect(|event| {
            if let Some(recording) = recording {
                recording.take(event);
            }
        });
        let more = self.report.write(events, out)?;
        self.written.events = self.report.written();
        Ok(more)
    }
}

/// Events on their way out. The tracker tells births late at times; here they get to their place.
#[derive(Debug, Default)]
struct Queue {
    events: Vec<Event>,
}

impl Queue {
    /// Takes out, in order of time, all events before `untold`, the first birth that is still to be told. Of one moment,
    /// they stay in the order in which they were told.
    fn take(&mut self, untold: Option<Time>) -> Drain<'_, Event> {
        self.events.sort_by_key(|event| event.time);
        let ready = match untold {
            Some(untold) => self.events.partition_point(|event| event.time < untold),
            None => self.events.len(),
        };
        self.events.drain(..ready)
    }
}

/// Whether standard output is a pipe whose reader has gone away.
fn nobody_reads(out: &StdoutLock<'_>) -> bool {
    let mut stdout = [PollFd::new(out, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut stdout, Some(&now)).is_ok() && stdout[0].revents().contains(PollFlags::ERR)
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

#[cfg(test)]
mod tests {
    use tcp_monitor_common::record::Kind;

    use super::{Event, Queue, Time};
    use crate::lifecycle::event::{EventKind, Lost};

    fn event(time: u64, count: u64) -> Event {
        Event::new(Time::from_nanos(time), EventKind::Lost(Lost { kind: Kind::State, count }))
    }

    #[test]
    fn events_get_in_order_of_time_and_of_one_moment_stay_as_told() {
        let mut queue =
            Queue { events: [(3, 1), (3, 2), (1, 3), (3, 4), (2, 5)].map(|(t, n)| event(t, n)).into() };
        let taken: Vec<_> = queue.take(None).collect();
        assert_eq!(taken, [(1, 3), (2, 5), (3, 1), (3, 2), (3, 4)].map(|(t, n)| event(t, n)));
    }

    #[test]
    fn a_birth_told_with_the_next_batch_still_gets_to_its_place() {
        let mut queue = Queue { events: [(1, 1), (3, 2), (4, 3)].map(|(t, n)| event(t, n)).into() };
        let untold = Some(Time::from_nanos(2));
        assert_eq!(queue.take(untold).collect::<Vec<_>>(), [event(1, 1)]);
        queue.events.extend([event(5, 4), event(2, 5)]);
        let taken: Vec<_> = queue.take(None).collect();
        assert_eq!(taken, [(2, 5), (3, 2), (4, 3), (5, 4)].map(|(t, n)| event(t, n)));
    }
}
