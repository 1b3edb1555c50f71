//! Reads the ring buffer: drains it fully each time, hands records on in order.
//!
//! The programs do not wake the reader for each record, only when many wait. The reader looks by itself every 50 ms, so
//! a busy host costs a few dozen wake-ups a second and an idle one no more.

use std::{
    array, io,
    ops::ControlFlow,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use aya::maps::{MapData, MapError, PerCpuArray, RingBuf};
use aya_log::EbpfLogger;
use rustix::{buffer::spare_capacity, event::epoll, time::Timespec};
use tcp_monitor_common::{counters::RecordCounters, record::Kind};

pub use super::order::Ready;
use super::{counters::total, error::with_causes, order::Reorder, stop::StopSignal};
use crate::clock::monotonic_now;

/// Reads the records that the kernel programs write. Made by
/// [`KernelSource::reader`](super::KernelSource::reader).
pub struct RecordReader {
    pub(super) ring: RingBuf<MapData>,
    pub(super) counters: Arc<PerCpuArray<MapData, RecordCounters>>,
    pub(super) logger: Option<EbpfLogger<&'static dyn log::Log>>,
    /// Waits for records and for the stop, see [`watch`].
    pub(super) epoll: OwnedFd,
    /// Kept open: `epoll` forgets a file that everyone has closed, and the signal with it.
    pub(super) _stop: StopSignal,
}

/// What one look at the ring buffer brought; most often nothing.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Records in the order of their time. None in an earlier or later batch is out of order with them, save one that
    /// the kernel delayed by more than 2 ms.
    pub records: Ready<'a>,
    /// How many records of each kind were lost or suppressed since this was last reported, for want of room in the ring
    /// buffer. Kinds of which none was are left out.
    pub lost: &'a [(Kind, u64)],
    /// How many items of the ring buffer were too short to be a record; they are skipped.
    pub malformed: u64,
    /// No record from before this time will come, `CLOCK_MONOTONIC` nanoseconds: timers up to it may fire.
    pub complete_until: u64,
}

impl RecordReader {
    /// Calls `on_batch` at least every 50 ms, with records or without, until the source is stopped or it returns
    /// [`ControlFlow::Break`]. After the stop it is called a last time, with all that is left.
    ///
    /// # Errors
    /// If waiting for the ring buffer fails.
    pub fn run(mut self, on_batch: &mut dyn FnMut(Batch<'_>) -> ControlFlow<()>) -> Result<(), ReadError> {
        let mut order = Reorder::default();
        let mut lost = Losses::default();
        let mut stopped = false;
        let mut followed_up = true;
        let mut backlog = false;
        loop {
            if !backlog {
                // What is held back is old enough soon; looking again just once keeps a busy host at two looks a tick.
                followed_up = followed_up || order.is_empty();
                let timeout = if followed_up { TICK } else { HOLD_BACK };
                followed_up = !followed_up;
                stopped = wait(self.epoll.as_fd(), timeout).map_err(ReadError::Wait)?;
            }
            let begin = monotonic_now();
            let drained = self.drain(&mut order);
            backlog = drained.records == MAX_BATCH;
            let complete_until = if backlog {
                // What is still in the ring may be as old as what was just read.
                begin.min(order.newest()).saturating_sub(HOLD_BACK_NS)
            } else {
                begin.saturating_sub(HOLD_BACK_NS)
            };
            let flush = !backlog && (stopped || drained.records == 0);
            let lost = lost.look(&self.counters, begin, flush && stopped);
            let records = order.ready(if flush { u64::MAX } else { complete_until });
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

/// What waits for records and for the stop. Made before anything else takes file descriptors.
pub(super) fn watch(ring: &RingBuf<MapData>, stop: &StopSignal) -> io::Result<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    // Edge-triggered: level-triggered, the ring is ready whenever one record waits, and each would be read alone.
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

/// Watches the counters of lost records.
#[derive(Default)]
struct Losses {
    looked: u64,
    reported: [u64; Kind::ALL.len()],
    new: Vec<(Kind, u64)>,
    failure_told: bool,
}

impl Losses {
    /// What was lost since the last report. Looks once a second, or `now_or_never`.
    ///
    /// If it cannot be known, for lack of file descriptors or memory, the next look makes up for it.
    fn look(
        &mut self,
        counters: &PerCpuArray<MapData, RecordCounters>,
        now: u64,
        now_or_never: bool,
    ) -> &[(Kind, u64)] {
        self.new.clear();
        if now_or_never || now.saturating_sub(self.looked) >= LOSS_INTERVAL_NS {
            self.looked = now;
            match total(counters) {
                Ok(total) => self.report(array::from_fn(|kind| total.lost[kind] + total.suppressed[kind])),
                Err(error) => self.tell_failure(&error),
            }
        }
        &self.new
    }

    fn tell_failure(&mut self, error: &MapError) {
        if !self.failure_told {
            self.failure_told = true;
            log::warn!("how many records were lost cannot be read now: {}", with_causes(error));
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

/// How long records may lie in the ring unseen.
const TICK: Duration = Duration::from_millis(50);
/// For how long an older record may still come. A program runs for microseconds, but a softirq that interrupts it
/// between taking the time and reserving room may run for up to 2 ms (`MAX_SOFTIRQ_TIME`).
const HOLD_BACK: Duration = Duration::from_millis(2);
const HOLD_BACK_NS: u64 = HOLD_BACK.as_nanos() as u64;
/// How many records are read before the handler gets them: bounds memory to about 2 MB, with what is made of them.
const MAX_BATCH: usize = 2048;
/// How often lost records are looked for.
const LOSS_INTERVAL_NS: u64 = 1_000_000_000;
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
