//! The acknowledgments that are awaited.
//!
//! When a SYN-ACK or a FIN passes, the acknowledgment of it is stored. The first segment that
//! carries it becomes a record; every other plain ACK or data segment is skipped after one read of
//! a bucket of four words. There is no key and no lock: a word is a 51-bit hash of who acknowledges
//! and which number, so a match is not verified further.
//!
//! The words of the last round trips lie in a part of the table that stays in the cache. When one
//! of its buckets is full, a word moves to the large part, which is read only if that happened in
//! the last minutes. When a bucket there is full of acknowledgments that never came, one of them is
//! evicted.

use aya_ebpf::{helpers::generated::bpf_jiffies64, macros::map, maps::Array};
use tcp_monitor_common::{
    abi::maps::{ACK_WAYS, ACK_WORDS, AckTable, RECENT_ACK_WORDS},
    counters::Table,
    record::acks,
};

use crate::{
    kernel::{asm::masked, path::Path},
    output::evictions::count_eviction,
};

#[map]
static ACKS: Array<AckTable> = Array::with_max_entries(1, 0);

/// What a word stands for; its low five bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// The acknowledgment of a SYN-ACK.
    SynAck = acks::SYN_ACK as isize,
    /// The acknowledgment of a FIN.
    Fin = acks::FIN as isize,
    /// The handshake ACK that a request of this host awaits.
    Request = REQUEST as isize,
    /// The handshake ACK that returns a SYN cookie of this host.
    Cookie = COOKIE as isize,
    /// No acknowledgment: a RST that was seen, until its socket reports it.
    Rst = 1 << 4,
}

/// Bit of what [`Path::consume`] returns, besides those of [`acks`]: a request of this host awaits
/// it.
pub(crate) const REQUEST: u8 = 1 << 2;
/// Bit of the same: it returns a SYN cookie of this host.
pub(crate) const COOKIE: u8 = 1 << 3;

// A word: what it stands for in its low five bits, when it was stored in the next eight, and a hash
// of path and number.

const KIND_BITS: u64 = 0x1f;
const TIME_SHIFT: u32 = 5;
const TIME_BITS: u64 = 0xff;
const HASH_BITS: u64 = !0x1fff;

/// A unit of time is 2¹² jiffies: 4 s where the kernel has 1000 of them a second, 16 s with 250.
const UNIT_SHIFT: u32 = 12;
/// For how many units a word is kept where room is short.
const LASTS: u64 = 32;

/// Everything that an entry can stand for.
pub(crate) const ANY: u8 = KIND_BITS as u8;
/// What is logged.
pub(crate) const LOGGED: u8 = acks::SYN_ACK | acks::FIN;

impl Path {
    #[inline(always)]
    fn word(self, number: u32) -> u64 {
        self.hash_with(number) & HASH_BITS
    }

    /// Stores that acknowledgment `number` is awaited on this path.
    #[inline(always)]
    pub(crate) fn expect(self, number: u32, what: Awaited) {
        let Some(table) = ACKS.get_ptr_mut(0) else { return };
        let jiffies = jiffies();
        let time = jiffies >> UNIT_SHIFT;
        let word = self.word(number) | (time & TIME_BITS) << TIME_SHIFT | what as u64;
        // SAFETY: the map's own value.
        unsafe {
            let bucket = recent(table, self);
            let mut place = ACK_WAYS;
            let mut i = 0;
            while i < ACK_WAYS {
                let held = *bucket.add(i);
                if held & (HASH_BITS | KIND_BITS) == word & (HASH_BITS | KIND_BITS) {
                    place = i;
                    break;
                }
                if held == 0 || is_old(held, time) {
                    place = i;
                }
                i += 1;
            }
            let is_full = place == ACK_WAYS;
            if is_full {
                place = (word >> 32) as usize;
            }
            let place = bucket.add(masked::<{ ACK_WAYS as i32 - 1 }>(place));
            let before = *place;
            *place = word;
            if is_full {
                (*table).spilled_at = jiffies;
                spill(table, before, time);
            }
        }
    }

    /// What `number` on this path is the first to acknowledge, of `kinds`: bits of [`acks`],
    /// [`REQUEST`] and [`COOKIE`]. Removes it.
    #[inline(always)]
    pub(crate) fn consume(self, number: u32, kinds: u8) -> u8 {
        let Some(table) = ACKS.get_ptr_mut(0) else { return 0 };
        let (word, kinds) = (self.word(number), u64::from(kinds));
        // SAFETY: the map's own value.
        unsafe {
            let taken = take(recent(table, self), word, kinds);
            let spilled_at = (&raw const (*table).spilled_at).read_volatile();
            if spilled_at == 0 || jiffies().wrapping_sub(spilled_at) >> UNIT_SHIFT > LASTS {
                return taken;
            }
            taken | take(spilled(table, word), word, kinds)
        }
    }
}

/// Whether a word was stored so long before `time`, in units, that it is not awaited any more.
#[inline(always)]
fn is_old(word: u64, time: u64) -> bool {
    time.wrapping_sub(word >> TIME_SHIFT) & TIME_BITS > LASTS
}

#[inline(always)]
fn jiffies() -> u64 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { bpf_jiffies64() }
}

/// Removes from a bucket what stands for `word`, and returns what that is.
///
/// # Safety
///
/// The bucket must be one of the map's own value.
#[inline(always)]
unsafe fn take(bucket: *mut u64, word: u64, kinds: u64) -> u8 {
    let mut taken = 0;
    let mut i = 0;
    while i < ACK_WAYS {
        // SAFETY: by the caller's word; `i` is within the bucket.
        unsafe {
            let held = *bucket.add(i);
            if held & HASH_BITS == word && held & kinds != 0 {
                *bucket.add(i) = 0;
                taken |= held & KIND_BITS;
            }
        }
        i += 1;
    }
    taken as u8
}

/// Stores a word that a newer one took the place of.
///
/// # Safety
///
/// `table` must be the map's own value.
#[inline(always)]
unsafe fn spill(table: *mut AckTable, word: u64, time: u64) {
    // SAFETY: by the caller's word; `i` is within the bucket.
    unsafe {
        let bucket = spilled(table, word);
        // What counters depend on is not evicted for what is only logged.
        let counts = u64::from(REQUEST | COOKIE);
        let (mut place, mut expendable) = (ACK_WAYS, ACK_WAYS);
        let mut i = 0;
        while i < ACK_WAYS {
            let held = *bucket.add(i);
            if held & counts == 0 {
                expendable = i;
            }
            if held == 0 || is_old(held, time) {
                place = i;
            }
            i += 1;
        }
        if place == ACK_WAYS {
            count_eviction(Table::Acks);
            place = expendable;
        }
        if place == ACK_WAYS {
            if word & counts == 0 {
                return;
            }
            place = (word >> 32) as usize;
        }
        *bucket.add(masked::<{ ACK_WAYS as i32 - 1 }>(place)) = word;
    }
}

/// By the path alone: segments of one connection read one line.
///
/// # Safety
///
/// `table` must be the map's own value.
#[inline(always)]
unsafe fn recent(table: *mut AckTable, path: Path) -> *mut u64 {
    const BUCKETS: u64 = (RECENT_ACK_WORDS / ACK_WAYS) as u64;
    let index = (path.hash() & (BUCKETS - 1)) as usize * ACK_WAYS;
    // SAFETY: by the caller's word; the index is masked to lie within the array.
    unsafe { (&raw mut (*table).recent).cast::<u64>().add(index) }
}

/// # Safety
///
/// `table` must be the map's own value.
#[inline(always)]
unsafe fn spilled(table: *mut AckTable, word: u64) -> *mut u64 {
    const BUCKETS: u64 = (ACK_WORDS / ACK_WAYS) as u64;
    let index = (word >> 28 & (BUCKETS - 1)) as usize * ACK_WAYS;
    // SAFETY: by the caller's word; the index is masked to lie within the array.
    unsafe { (&raw mut (*table).words).cast::<u64>().add(index) }
}
