//! Timewait sockets in FIN_WAIT2: connections that the application here has closed, and the peer
//! has not yet.
//!
//! The kernel reports CLOSE when a timewait socket takes over in FIN_WAIT2, and nothing of what
//! follows. What follows shows on the wire: the timewait socket acknowledges the peer's FIN when it
//! has entered TIME_WAIT, and a RST ends it. So the number of that acknowledgment is stored when
//! the timewait socket takes over. As in [`acks`](super::acks) there is no key and no lock, but a
//! table of its own, for most of those acknowledgments come late, and some never.

use aya_ebpf::{macros::map, maps::Array};
use tcp_monitor_common::{
    TcpState,
    abi::maps::{FIN_WAIT2_BUCKETS, FIN_WAIT2_WAYS, FinWait2Bucket, FinWait2Table},
    counters::{Histogram, STATES, Scale, Table, timed_state},
};

use crate::{
    kernel::{
        asm::{add, element, masked},
        now,
        path::Path,
    },
    output::{counters::record_duration, evictions::count_eviction, ports::counters_of},
};

#[map]
static FIN_WAIT2_TIMEWAIT: Array<FinWait2Table> = Array::with_max_entries(1, 0);

// A word: when it was stored in its low eight bits, the slot of its counters in the next 16, and a
// hash of path and number.

const TIME_BITS: u64 = 0xff;
const SLOT_SHIFT: u32 = 8;
const HASH_BITS: u64 = !0xff_ffff;

/// A unit of time is 2³² ns, 4.3 s.
const UNIT_SHIFT: u32 = 32;
/// A timewait socket lasts 60 s at most (kernel: `TCP_TIMEWAIT_LEN`); its timer may be five seconds
/// late.
const LASTS: u64 = 16;

/// A timewait socket takes over a connection that has been in FIN_WAIT2 since `since`, if that is
/// not 0. It will acknowledge the peer's FIN on `path` with `number`.
#[inline(always)]
pub(crate) fn begin(path: Path, number: u32, slot: u32, since: u64, now: u64) {
    let Some(Bucket { words, since: begun }) = bucket(path) else { return };
    let time = now >> UNIT_SHIFT;
    let word = hash(path, number) | u64::from(slot) << SLOT_SHIFT | time & TIME_BITS;
    let mut place = FIN_WAIT2_WAYS;
    let mut i = 0;
    while i < FIN_WAIT2_WAYS {
        // SAFETY: `i` is within the bucket.
        let held = unsafe { words.add(i).read_volatile() };
        if held == 0 || time.wrapping_sub(held) & TIME_BITS > LASTS {
            place = i;
        }
        i += 1;
    }
    if place == FIN_WAIT2_WAYS {
        count_eviction(Table::FinWait2Timewait);
        place = (word >> 24) as usize;
    }
    let place = masked::<{ FIN_WAIT2_WAYS as i32 - 1 }>(place);
    // SAFETY: the mask keeps the place within the bucket.
    unsafe {
        *begun.add(place) = since;
        *words.add(place) = word;
    }
}

/// The timewait socket that would acknowledge `number` on `path`, if there is one, leaves FIN_WAIT2
/// for `to`: counts that, once.
#[inline(always)]
pub(crate) fn end(path: Path, number: u32, to: TcpState) {
    let Some(Bucket { words, since: begun }) = bucket(path) else { return };
    let hash = hash(path, number);
    let (mut word, mut since) = (0, 0);
    let mut i = 0;
    while i < FIN_WAIT2_WAYS {
        // SAFETY: `i` is within the bucket.
        unsafe {
            let held = words.add(i).read_volatile();
            if held != 0 && held & HASH_BITS == hash {
                since = begun.add(i).read_volatile();
                words.add(i).write_volatile(0);
                word = held;
            }
        }
        i += 1;
    }
    if word == 0 {
        return;
    }
    if let Some(counters) = counters_of((word >> SLOT_SHIFT) as u32 & 0xffff) {
        // SAFETY: the map's own value; both states are within the array.
        unsafe {
            let row = &raw mut (*counters).transitions[TcpState::FinWait2 as usize];
            add(element::<_, 15, STATES>(row, to as usize), 1);
            let now = now();
            if since != 0 && since <= now {
                let histograms = (&raw mut (*counters).state_durations).cast::<Histogram>();
                record_duration(histograms.add(FIN_WAIT2), Scale::LIFE, now - since);
            }
        }
    }
}

#[inline(always)]
fn hash(path: Path, number: u32) -> u64 {
    path.hash_with(number) & HASH_BITS
}

/// The places of a bucket: words, and times.
#[derive(Clone, Copy)]
struct Bucket {
    words: *mut u64,
    since: *mut u64,
}

#[inline(always)]
fn bucket(path: Path) -> Option<Bucket> {
    let table = FIN_WAIT2_TIMEWAIT.get_ptr_mut(0)?;
    let index = path.hash() as usize & (FIN_WAIT2_BUCKETS - 1);
    // SAFETY: the map's own value; the index is masked to lie within it.
    unsafe {
        let bucket = (&raw mut (*table).buckets).cast::<FinWait2Bucket>().add(index);
        Some(Bucket { words: (&raw mut (*bucket).words).cast(), since: (&raw mut (*bucket).since).cast() })
    }
}

/// The place of FIN_WAIT2 among the states whose durations are counted.
const FIN_WAIT2: usize = match timed_state(TcpState::FinWait2) {
    Some(place) => place,
    None => panic!("the duration of FIN_WAIT2 is counted"),
};
