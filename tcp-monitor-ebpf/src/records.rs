//! Writing records into the ring buffer, and counting those that found no room.

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

use crate::{instruction::add, kernel::setting};

/// The agent sets the size.
#[map]
static RECORDS: RingBuf = RingBuf::with_byte_size(4096, 0);

#[map]
static RECORD_COUNTERS: PerCpuArray<RecordCounters> = PerCpuArray::with_max_entries(1, 0);

/// Whether anyone reads records; with counters alone they are not made.
#[inline(always)]
pub(crate) fn wanted() -> bool {
    setting!(records) != 0
}

/// What makes a record: it decides for whom there is room.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A socket. There are as many as the host has accepted or opened.
    Socket,
    /// A packet, and no full socket: anybody can send as many as they like. Such records leave half of the ring buffer to those
    /// of sockets.
    Packet,
}

/// Room for one record, zeroed, or `None`, which is counted: as lost if the ring buffer is full, as suppressed if what is
/// left of it is for others.
#[inline(always)]
pub(crate) fn reserve<T: Record>(kind: Kind, cause: Cause) -> Option<RingBufEntry<T>> {
    let counters = RECORD_COUNTERS.get_ptr_mut(0)?;
    if cause == Cause::Packet
        && RECORDS.query(u64::from(BPF_RB_AVAIL_DATA)) >= u64::from(setting!(packets_until))
    {
        // SAFETY: the map's own value; the kind is within the array.
        unsafe { add(&raw mut (*counters).suppressed[kind as usize], 1) };
        return None;
    }
    let mut entry = RECORDS.reserve::<T>(0);
    // SAFETY: the map's own value; the kind is within the arrays.
    unsafe {
        match entry {
            Some(_) => add(&raw mut (*counters).sent[kind as usize], 1),
            None => add(&raw mut (*counters).lost[kind as usize], 1),
        }
    }
    if let Some(entry) = &mut entry {
        zero(entry);
    }
    entry
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
pub(crate) fn fields<T: Record>(entry: &mut RingBufEntry<T>) -> &mut T {
    // SAFETY: `reserve` zeroed it, and all zeros is a value.
    unsafe { entry.assume_init_mut() }
}

/// Hands a record to the agent.
///
/// It is not woken for each: it looks by itself every few milliseconds. Only the record that fills the buffer up to the
/// mark wakes it, so that a burst finds room.
#[inline(always)]
pub(crate) fn submit<T>(entry: RingBufEntry<T>) {
    let waiting = RECORDS.query(u64::from(BPF_RB_AVAIL_DATA));
    let past_mark = waiting.wrapping_sub(u64::from(setting!(wake_at)));
    // Several CPUs may step over the mark at once, so a few records past it wake as well.
    let wake = past_mark < 4 * size_of::<T>() as u64;
    entry.submit(u64::from(if wake { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }));
}
