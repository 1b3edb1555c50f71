//! The acknowledgments that are awaited.
//!
//! When a SYN-ACK or a FIN passes, the acknowledgment of it is stored. The first segment that
//! carries it becomes a record; every other plain ACK or data segment is skipped after one read of
//! a bucket of four words. There is no key and no lock: a word is a 59-bit hash of who acknowledges
//! and which number, so a match is not verified further. When a bucket is full of acknowledgments
//! that never came, one of them is evicted.

use aya_ebpf::{macros::map, maps::Array};
use tcp_monitor_common::{
    abi::maps::{ACK_WAYS, ACK_WORDS, AckTable},
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

const KIND_BITS: u64 = 0x1f;
const BUCKETS: u64 = (ACK_WORDS / ACK_WAYS) as u64;

impl Path {
    #[inline(always)]
    fn word(self, number: u32) -> u64 {
        self.hash_with(number) & !KIND_BITS
    }

    #[inline(always)]
    fn bucket(self) -> Option<*mut u64> {
        let table = ACKS.get_ptr_mut(0)?;
        let index = (self.hash() & (BUCKETS - 1)) as usize * ACK_WAYS;
        // SAFETY: the map's own value; the index is masked to lie within it.
        Some(unsafe { (&raw mut (*table).words).cast::<u64>().add(index) })
    }

    /// Stores that acknowledgment `number` is awaited on this path.
    #[inline(always)]
    pub(crate) fn expect(self, number: u32, what: Awaited) {
        let Some(bucket) = self.bucket() else { return };
        let word = self.word(number) | what as u64;
        // What counters depend on is not evicted for what is only logged.
        let counts = matches!(what, Awaited::Request | Awaited::Cookie);
        let (mut place, mut expendable) = (ACK_WAYS, ACK_WAYS);
        let mut i = 0;
        while i < ACK_WAYS {
            // SAFETY: `i` is within the bucket.
            let held = unsafe { *bucket.add(i) };
            if held == word {
                return;
            }
            if held & u64::from(REQUEST | COOKIE) == 0 {
                expendable = i;
            }
            if held == 0 {
                place = i;
            }
            i += 1;
        }
        if place == ACK_WAYS {
            count_eviction(Table::Acks);
            place = expendable;
        }
        if place == ACK_WAYS {
            if !counts {
                return;
            }
            place = (word >> 5) as usize;
        }
        // SAFETY: the mask keeps the place within the bucket.
        unsafe { *bucket.add(masked::<{ ACK_WAYS as i32 - 1 }>(place)) = word };
    }

    /// What `number` on this path is the first to acknowledge: bits of [`acks`], [`REQUEST`] and
    /// [`COOKIE`]. Removes it.
    #[inline(always)]
    pub(crate) fn consume(self, number: u32) -> u8 {
        let Some(bucket) = self.bucket() else { return 0 };
        let word = self.word(number);
        let mut taken = 0;
        let mut i = 0;
        while i < ACK_WAYS {
            // SAFETY: `i` is within the bucket.
            let held = unsafe { *bucket.add(i) };
            if held & !KIND_BITS == word && held != 0 {
                // SAFETY: as above.
                unsafe { *bucket.add(i) = 0 };
                taken |= (held & KIND_BITS) as u8;
            }
            i += 1;
        }
        taken
    }
}
