//! The live log: the inputs of the kernel programs and of socket dumps through the tracker, the
//! events to the outputs.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use crate::clock::WallClock;
use crate::counts::{TrackerCounts, TrackerStats};
use crate::kernel::{Batch, ReadError, RecordReader};
use crate::lifecycle::{Event, InferFrom, Input, Options, PresentSocket, StuckSocket, Time, Tracker};
use crate::output::{Context, FanOut, Names, Outcome};

/// Turns records into events, on the thread that reads them.
pub(super) struct Log {
    tracker: Tracker,
    /// Where the size of the tracker is published.
    stats: Arc<TrackerStats>,
    queue: Queue,
    /// Existing sockets that were not passed to the tracker yet, latest first.
    existing: Vec<PresentSocket>,
    stuck: Receiver<StuckSocket>,
    outputs: FanOut,
    names: Box<dyn Names + Send>,
    clock: WallClock,
    written: Written,
}

/// The sockets that the tracker learns of from dumps.
pub(super) struct Dumped {
    /// Those that existed when the records began, in order of time.
    pub(super) existing: Vec<PresentSocket>,
    /// Sockets that are stuck, as they are found.
    pub(super) stuck: Receiver<StuckSocket>,
}

/// The result.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    /// Records read.
    pub(super) read: u64,
    /// Records lost because the ring buffer was full.
    pub(super) lost: u64,
    /// Records that could not be decoded; any is a bug.
    pub(super) malformed: u64,
    /// Evictions of the tracker.
    pub(super) evicted: u64,
    /// Of each output.
    pub(super) outputs: Vec<Outcome>,
}

/// Why the log ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    /// The records could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Writing to standard output failed.
    #[error("cannot write to standard output: {0}")]
    Write(io::Error),
}

impl Log {
    /// Tracks at most `max_connections`.
    pub(super) fn new(
        outputs: FanOut,
        names: impl Names + Send + 'static,
        max_connections: usize,
        Dumped { mut existing, stuck }: Dumped,
    ) -> Self {
        existing.reverse();
        Self {
            tracker: Tracker::with(Options { infer_from: InferFrom::ControlSegments, max_connections }),
            stats: Arc::default(),
            queue: Queue::default(),
            existing,
            stuck,
            outputs,
            names: Box::new(names),
            clock: WallClock::system(),
            written: Written::default(),
        }
    }

    /// The size of the tracker, as of each batch of records; `None` without outputs: then nothing
    /// is tracked.
    pub(super) fn tracker_stats(&self) -> Option<Arc<TrackerStats>> {
        (!self.outputs.is_empty()).then(|| Arc::clone(&self.stats))
    }

    /// Reads and writes until the source is stopped, an output is full or has no reader any more.
    ///
    /// Outputs are flushed at the end of each batch: at each poll of the reader, and not once a
    /// line.
    pub(super) fn run(mut self, reader: RecordReader) -> Result<Written, LogError> {
        let (mut failure, mut is_full) = (None, false);
        reader.run(&mut |batch| {
            let more = self.process(&batch);
            is_full = more.is_break();
            failure = self.outputs.flush().err();
            if failure.is_some() { ControlFlow::Break(()) } else { more }
        })?;
        let context = Context::new(&self.clock, self.names.as_ref());
        if failure.is_none() && !is_full {
            // Nothing is to be done if an output is full now.
            let _ = self.outputs.write(self.queue.ready(None), &context);
        }
        self.outputs.end_events(&context);
        let failure = failure.or(self.outputs.drain().err());
        self.written.evicted = self.tracker.evicted();
        self.written.outputs = self.outputs.finish();
        match failure {
            None => Ok(self.written),
            // The reader has exited, as `head` does.
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(self.written),
            Some(error) => Err(LogError::Write(error)),
        }
    }

    fn process(&mut self, batch: &Batch<'_>) -> ControlFlow<()> {
        self.clock.update();
        self.written.read += batch.records() as u64;
        self.written.malformed += batch.malformed;
        self.written.lost += batch.lost();
        for input in batch.inputs() {
            match input {
                Ok(input) => {
                    // Events of a socket before its dump must be known by then, and none from after
                    // it.
                    self.add_existing(input.time());
                    self.tracker.handle(input, &mut self.queue.events);
                }
                Err(error) => {
                    self.written.malformed += 1;
                    ::log::debug!("record skipped: {error}");
                }
            }
        }
        let time = batch.complete_until;
        self.add_existing(time);
        let events = &mut self.queue.events;
        self.tracker.expire(time, events);
        for stuck in self.stuck.try_iter() {
            // It was found a moment later, of which not all records are known yet.
            self.tracker.handle(Input::Stuck(StuckSocket { time, ..stuck }), events);
        }
        for loss in batch.losses() {
            self.tracker.handle(loss, events);
        }
        self.stats.publish(TrackerCounts {
            connections: self.tracker.sockets() as u64,
            evicted: self.tracker.evicted(),
        });
        let deferred = self.tracker.earliest_deferred(time);
        let context = Context::new(&self.clock, self.names.as_ref());
        self.outputs.write(self.queue.ready(deferred), &context)?;
        self.queue.discard(deferred);
        self.outputs.advance(deferred.map_or(time, |deferred| deferred.min(time)), &context)
    }

    /// Passes the tracker the existing sockets that were dumped until `time`.
    fn add_existing(&mut self, time: Time) {
        while let Some(socket) = self.existing.pop_if(|socket| socket.time <= time) {
            self.tracker.handle(Input::Present(socket), &mut self.queue.events);
        }
        if self.existing.is_empty() {
            // Its memory is not needed any more.
            self.existing = Vec::new();
        }
    }
}

/// Sorts events by time: the tracker emits the creation of sockets late at times. Events are large:
/// they stay where they are, and an index has their order.
#[derive(Debug, Default)]
struct Queue {
    events: Vec<Event>,
    /// The time of each event and where it is.
    order: Vec<(Time, usize)>,
}

impl Queue {
    /// All events before `deferred`, the first creation that is still to be emitted, in order of
    /// time. Events of one moment stay in the order in which they were emitted.
    fn ready(&mut self, deferred: Option<Time>) -> impl Iterator<Item = &Event> {
        let Self { events, order } = self;
        let times = events.iter().map(|event| event.time).zip(0..);
        order.clear();
        order.extend(times.filter(|(time, _)| deferred.is_none_or(|deferred| *time < deferred)));
        order.sort_unstable();
        order.iter().filter_map(|(_, at)| events.get(*at))
    }

    /// Removes all events before `deferred`.
    fn discard(&mut self, deferred: Option<Time>) {
        self.events.retain(|event| deferred.is_some_and(|deferred| event.time >= deferred));
    }
}

#[cfg(test)]
mod tests {
    use tcp_monitor_common::record::Kind;

    use super::{Event, Queue, Time};
    use crate::lifecycle::event::{EventKind, Lost};

    fn event(time: u64, count: u64) -> Event {
        Event::new(Time::from_nanos(time), EventKind::Lost(Lost { kind: Kind::State, count }))
    }

    fn take(queue: &mut Queue, deferred: Option<Time>) -> Vec<Event> {
        let taken = queue.ready(deferred).cloned().collect();
        queue.discard(deferred);
        taken
    }

    #[test]
    fn events_are_sorted_by_time_and_those_of_one_moment_keep_their_order() {
        let mut queue = Queue::default();
        queue.events.extend([(3, 1), (3, 2), (1, 3), (3, 4), (2, 5)].map(|(t, n)| event(t, n)));
        assert_eq!(
            take(&mut queue, None),
            [(1, 3), (2, 5), (3, 1), (3, 2), (3, 4)].map(|(t, n)| event(t, n))
        );
    }

    #[test]
    fn a_creation_emitted_with_the_next_batch_is_sorted_to_its_place() {
        let mut queue = Queue::default();
        queue.events.extend([(1, 1), (3, 2), (4, 3)].map(|(t, n)| event(t, n)));
        let deferred = Some(Time::from_nanos(2));
        assert_eq!(take(&mut queue, deferred), [event(1, 1)]);
        queue.events.extend([event(5, 4), event(2, 5)]);
        assert_eq!(take(&mut queue, None), [(2, 5), (3, 2), (4, 3), (5, 4)].map(|(t, n)| event(t, n)));
    }
}
