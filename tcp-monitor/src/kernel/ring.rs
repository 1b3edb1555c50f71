//! Reads the ring buffer: drains it each time, and yields its records as inputs, in order of time.
//!
//! The programs do not wake the reader for each record, only when many wait. The reader polls every
//! 50 ms: a busy host costs a few dozen wake-ups a second, an idle one 20.

use std::{
    array, io,
    ops::ControlFlow,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use aya::maps::{MapData, MapError, PerCpuArray, RingBuf};
use aya_log::EbpfLogger;
use rustix::{buffer::spare_capacity, event::epoll, process::nice, time::Timespec};
use tcp_monitor_common::{counters::RecordCounters, record::Kind};

use super::{
    counters::total,
    decode::{BadRecord, decode},
    error::with_causes,
    order::{Ready, Reorder},
    stop::StopSignal,
};
use crate::{
    clock,
    lifecycle::{Input, Time},
};

/// Reads the records that the kernel programs write. Made by
/// [`KernelSource::reader`](super::KernelSource::reader).
pub struct RecordReader {
    pub(super) ring: RingBuf<MapData>,
    pub(super) counters: Arc<PerCpuArray<MapData, RecordCounters>>,
    pub(super) logger: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Waits for records and for the stop, see [`watch`].
    pub(super) epoll: OwnedFd,
    /// Kept open: `epoll` drops a file that everyone has closed, and the signal with it.
    pub(super) _stop: StopSignal,
}

/// The inputs of one poll of the ring buffer; most often none.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    records: Ready<'a>,
    /// How many records of each kind were lost or suppressed since the last report, because the
    /// ring buffer was full. Kinds without losses are left out.
    lost: &'a [(Kind, u64)],
    /// How many items of the ring buffer were too short for a record; they are skipped.
    pub malformed: u64,
    /// No record from before this time will follow: timers up to it may fire.
    pub complete_until: Time,
}

impl<'a> Batch<'a> {
    /// How many records there are.
    #[must_use]
    pub fn records(&self) -> usize {
        self.records.len()
    }

    /// Each record as an input, in order of time. No earlier or later batch is out of order with
    /// it, except for a record that the kernel delayed by more than 2 ms.
    pub fn inputs(&self) -> impl Iterator<Item = Result<Input, BadRecord>> + use<'a> {
        self.records.iter().map(decode)
    }

    /// The losses, as of the end of the batch.
    pub fn losses(&self) -> impl Iterator<Item = Input> + use<'a> {
        let Self { lost, complete_until: time, .. } = *self;
        lost.iter().map(move |(kind, count)| Input::Lost { time, kind: *kind, count: *count })
    }

    /// How many records were lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.iter().map(|(_, count)| count).sum()
    }
}

impl RecordReader {
    /// Reads with the priority of the thread raised, if that is permitted.
    ///
    /// Calls `on_batch` at least every 50 ms, with records or without, until the source is stopped
    /// or `on_batch` returns [`ControlFlow::Break`]. After the stop it is called a last time, with
    /// the rest.
    ///
    /// # Errors
    /// If waiting for the ring buffer fails.
    pub fn run(mut self, on_batch: &mut dyn FnMut(Batch<'_>) -> ControlFlow<()>) -> Result<(), ReadError> {
        raise_priority();
        let mut order = Reorder::default();
        let mut lost = Losses::default();
        let mut stopped = false;
        let mut followed_up = true;
        let mut backlog = false;
        loop {
            if !backlog {
                // Records held back are soon old enough. One more poll for them: at most two a
                // tick.
                followed_up = followed_up || order.is_empty();
                let timeout = if followed_up { TICK } else { HOLD_BACK };
                followed_up = !followed_up;
                stopped = wait(self.epoll.as_fd(), timeout).map_err(ReadError::Wait)?;
            }
            let begin = clock::now();
            let drained = self.drain(&mut order);
            backlog = drained.records == MAX_BATCH;
            // What is still in the ring may be as old as what was just read.
            let newest = if backlog { begin.min(order.newest()) } else { begin };
            let complete_until = newest - HOLD_BACK;
            let flush = !backlog && (stopped || drained.records == 0);
            let lost = lost.read(&self.counters, begin, flush && stopped);
            let records = order.ready((!flush).then_some(complete_until));
            let count = records.len();
            let batch = Batch { records, lost, malformed: drained.malformed, complete_until };
            if on_batch(batch).is_break() || (stopped && !backlog) {
                return Ok(());
            }
            order.discard(count);
        }
    }

    fn drain(&mut self, order: &mut Reorder) -> Drained {
        let mut drained = Drained { records: 0, malformed: 0 };
        while drained.records < MAX_BATCH {
            let Some(record) = self.ring.next() else { break };
            drained.records += 1;
            if order.push(&record).is_err() {
                drained.malformed += 1;
            }
        }
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
        drained
    }
}

/// A busy host fills the ring buffer in some 50 ms. A thread that has no priority over those that
/// fill it waits for a CPU for longer at times.
fn raise_priority() {
    if let Err(error) = nice(NICE) {
        log::debug!("records are read with the usual priority: {error}");
    }
}

/// Waits for records and for the stop. To be made before anything else takes file descriptors.
pub(super) fn watch(ring: &RingBuf<MapData>, stop: &StopSignal) -> io::Result<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    // Edge-triggered: level-triggered, the ring would be ready for each record, and each read
    // alone.
    epoll::add(&epoll, ring, epoll::EventData::new_u64(RING), epoll::EventFlags::IN | epoll::EventFlags::ET)?;
    epoll::add(&epoll, stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
    Ok(epoll)
}

struct Drained {
    records: usize,
    malformed: u64,
}

/// Whether the source was stopped.
fn wait(epoll: impl AsFd, timeout: Duration) -> io::Result<bool> {
    let timeout = Timespec { tv_sec: 0, tv_nsec: timeout.subsec_nanos().into() };
    let mut events = Vec::with_capacity(2);
    match epoll::wait(epoll, spare_capacity(&mut events), Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {
            Ok(events.iter().any(|event: &epoll::Event| event.data.u64() == STOP))
        }
        Err(error) => Err(error.into()),
    }
}

/// Reports increases of the counters of lost records.
#[derive(Default)]
struct Losses {
    /// When the counters were read last.
    read_at: Time,
    reported: [u64; Kind::ALL.len()],
    new: Vec<(Kind, u64)>,
    failure_reported: bool,
}

impl Losses {
    /// What was lost since the last report. Reads the counters once a second, and if this is the
    /// last call.
    ///
    /// If they cannot be read, for lack of file descriptors or memory, the next call makes up for
    /// it.
    fn read(
        &mut self,
        counters: &PerCpuArray<MapData, RecordCounters>,
        now: Time,
        is_last: bool,
    ) -> &[(Kind, u64)] {
        self.new.clear();
        if is_last || now.since(self.read_at) >= LOSS_INTERVAL {
            self.read_at = now;
            match total(counters) {
                Ok(total) => self.report(array::from_fn(|kind| total.lost[kind] + total.suppressed[kind])),
                Err(error) => self.report_failure(&error),
            }
        }
        &self.new
    }

    fn report_failure(&mut self, error: &MapError) {
        if !self.failure_reported {
            self.failure_reported = true;
            log::warn!("the counters of lost records cannot be read now: {}", with_causes(error));
        }
    }

    fn report(&mut self, lost: [u64; Kind::ALL.len()]) {
        for ((kind, total), reported) in Kind::ALL.into_iter().zip(lost).zip(&mut self.reported) {
            let count = total.saturating_sub(*reported);
            if count > 0 {
                self.new.push((kind, count));
            }
            *reported = total;
        }
    }
}

/// Why reading ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Waiting for the ring buffer failed.
    #[error("cannot wait for the ring buffer: {0}")]
    Wait(io::Error),
}

/// How long records may lie in the ring unread.
const TICK: Duration = Duration::from_millis(50);
/// With -5 some records were still lost on a host without an idle CPU, with -10 next to none.
const NICE: i32 = -10;
/// For how long an older record may still come. A program runs for microseconds, but a softirq that
/// interrupts it between taking the time and reserving room may run for up to 2 ms
/// (`MAX_SOFTIRQ_TIME`).
const HOLD_BACK: Duration = Duration::from_millis(2);
/// The most records of a batch: bounds memory to about 2 MB, with the inputs and events made of
/// them.
const MAX_BATCH: usize = 2048;
/// How often the counters of lost records are read.
const LOSS_INTERVAL: Duration = Duration::from_secs(1);
/// What woke the reader.
const RING: u64 = 0;
const STOP: u64 = 1;

#[cfg(test)]
mod tests {
    use tcp_monitor_common::record::Kind;

    use super::Losses;

    #[test]
    fn each_lost_record_is_reported_once() {
        let mut losses = Losses::default();
        losses.report([0; 4]);
        assert_eq!(losses.new, []);
        losses.report([3, 0, 0, 1]);
        assert_eq!(losses.new, [(Kind::State, 3), (Kind::Retransmit, 1)]);
        losses.new.clear();
        losses.report([3, 7, 0, 1]);
        assert_eq!(losses.new, [(Kind::Segment, 7)]);
    }
}
