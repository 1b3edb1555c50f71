//! Records: writing them into the ring buffer, and counting those that it has no room for.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    macros::map,
    maps::{PerCpuArray, RingBuf, ring_buf::RingBufEntry},
};
use tcp_monitor_common::{
    counters::RecordCounters,
    record::{Kind, SegmentRecord, SocketRecord},
};

use crate::kernel::{asm::add, layout::setting};

/// The agent sets the size.
#[map]
pub(crate) static RECORDS: RingBuf = RingBuf::with_byte_size(4096, 0);

#[map]
static RECORD_COUNTERS: PerCpuArray<RecordCounters> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's counters.
#[inline(always)]
pub(super) fn counters() -> Option<*mut RecordCounters> {
    RECORD_COUNTERS.get_ptr_mut(0)
}

/// Whether records are read; with counters alone they are not made.
#[inline(always)]
pub(crate) fn wanted() -> bool {
    setting!(records) != 0
}

/// How far the ring buffer may be filled for a record. Kinds that can be frequent leave room for
/// the others.
#[derive(Clone, Copy)]
pub(crate) enum FillLimit {
    /// Half of it, for packets without a full socket: peers can send any number of them.
    Half,
    /// Seven eighths, for state transitions: there are as many as the host opens or accepts
    /// connections.
    Most,
    /// All of it, for what goes wrong with a connection: a RST, a retransmission.
    Whole,
}

/// A record in the making.
pub(crate) struct Reserved<T: Record> {
    entry: RingBufEntry<T>,
    /// Bytes before it that the agent has not read.
    unread: u64,
}

/// Room for one record, zeroed, or `None`, which is counted: as lost if the ring buffer is full, as
/// suppressed if what is left of it is for others.
#[inline(always)]
pub(crate) fn reserve<T: Record>(kind: Kind, limit: FillLimit) -> Option<Reserved<T>> {
    let counters = counters()?;
    let unread = RECORDS.query(u64::from(BPF_RB_AVAIL_DATA));
    let size = u64::from(setting!(ring_size));
    let limit = match limit {
        FillLimit::Half => size / 2,
        FillLimit::Most => size - size / 8,
        FillLimit::Whole => u64::MAX,
    };
    if unread >= limit {
        // SAFETY: the map's own value; the kind is within the array.
        unsafe { add(&raw mut (*counters).suppressed[kind as usize], 1) };
        return None;
    }
    let Some(mut entry) = RECORDS.reserve::<T>(0) else {
        // SAFETY: as above.
        unsafe { add(&raw mut (*counters).lost[kind as usize], 1) };
        return None;
    };
    // SAFETY: as above.
    unsafe { add(&raw mut (*counters).sent[kind as usize], 1) };
    zero(&mut entry);
    Some(Reserved { entry, unread })
}

/// A layout of integers only, for which all zeros is a value.
///
/// # Safety
///
/// Its size must be a multiple of 8 bytes.
pub(crate) unsafe trait Record: Copy + 'static {}
// SAFETY: integers only; the size is checked below.
unsafe impl Record for SocketRecord {}
// SAFETY: as above.
unsafe impl Record for SegmentRecord {}

const _: () =
    assert!(size_of::<SocketRecord>().is_multiple_of(8) && size_of::<SegmentRecord>().is_multiple_of(8));

/// A store a word. Left to itself the compiler calls a memset that stores a byte at a time.
#[inline(always)]
fn zero<T: Record>(entry: &mut MaybeUninit<T>) {
    let words = entry.as_mut_ptr().cast::<u64>();
    let mut i = 0;
    while i < size_of::<T>() / 8 {
        // SAFETY: within the record, which the ring buffer aligns to 8 bytes.
        unsafe { words.add(i).write_volatile(0) };
        i += 1;
    }
}

/// The record in its place.
#[inline(always)]
pub(crate) fn fields<T: Record>(reserved: &mut Reserved<T>) -> &mut T {
    // SAFETY: `reserve` zeroed it, and all zeros is a value.
    unsafe { reserved.entry.assume_init_mut() }
}

/// Hands a record to the agent.
///
/// It is not woken for each: it polls every few milliseconds. Only the record that fills the buffer
/// up to a quarter wakes it, so that a burst finds room.
#[inline(always)]
pub(crate) fn submit<T: Record>(reserved: Reserved<T>) {
    let past_mark = reserved.unread.wrapping_sub(u64::from(setting!(ring_size)) / 4);
    // Several CPUs may step over the mark at once, so a few records past it wake as well.
    let wake = past_mark < 4 * size_of::<T>() as u64;
    reserved.entry.submit(u64::from(if wake { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }));
}
