//! The acknowledgements that are awaited.
//!
//! When a SYN-ACK or a FIN passes, the acknowledgement it calls for is noted; the first segment that carries it is worth a
//! record, and every other plain ACK or data segment is let go after one look into a bucket of four words. There is no
//! key and no lock: a word is a 59-bit hash of who acknowledges and which number, so a hit is a hit, and when a bucket is
//! full of acknowledgements that never came, one of them is forgotten.

use aya_ebpf::{macros::map, maps::Array};
use tcp_monitor_common::{
    abi::config::{ACK_WAYS, ACK_WORDS, AckTable},
    counters::Table,
    record::acks,
};

use crate::{instruction::masked, kernel::setting, tables::forgotten};

#[map]
static ACKS: Array<AckTable> = Array::with_max_entries(1, 0);

/// What a word stands for; its low five bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// The acknowledgement of a SYN-ACK.
    SynAck = acks::SYN_ACK as isize,
    /// The acknowledgement of a FIN.
    Fin = acks::FIN as isize,
    /// The acknowledgement that a request of this host awaits.
    Request = REQUEST as isize,
    /// The acknowledgement that brings back a SYN cookie of this host.
    Cookie = COOKIE as isize,
    /// Not awaited but seen: a RST, until the socket it is for reports it.
    Rst = 1 << 4,
}

/// Bit of what [`Path::take`] returns, besides those of [`acks`]: a request of this host awaits it.
pub(crate) const REQUEST: u8 = 1 << 2;
/// Bit of the same: it brings back a SYN cookie of this host.
pub(crate) const COOKIE: u8 = 1 << 3;

const KIND_BITS: u64 = 0x1f;
const BUCKETS: u64 = (ACK_WORDS / ACK_WAYS) as u64;

/// One direction of a connection: a hash of source and destination.
#[derive(Clone, Copy)]
pub(crate) struct Path(u64);

impl Path {
    /// `source` and `destination` are folded addresses.
    #[inline(always)]
    pub(crate) fn new(source: u64, destination: u64, source_port: u16, destination_port: u16) -> Self {
        let ports = u64::from(source_port) << 16 | u64::from(destination_port);
        let mut hash = (source ^ setting!(seed)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ hash >> 32 ^ destination).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ hash >> 29 ^ ports).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(hash ^ hash >> 32)
    }

    #[inline(always)]
    pub(crate) fn hash(self) -> u64 {
        self.0
    }

    /// The same with an acknowledgement number.
    #[inline(always)]
    pub(crate) fn hash_with(self, number: u32) -> u64 {
        let hash = (self.0 ^ u64::from(number)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        hash ^ hash >> 32
    }

    #[inline(always)]
    fn word(self, number: u32) -> u64 {
        self.hash_with(number) & !KIND_BITS
    }

    #[inline(always)]
    fn bucket(self) -> Option<*mut u64> {
        let table = ACKS.get_ptr_mut(0)?;
        let index = (self.0 & (BUCKETS - 1)) as usize * ACK_WAYS;
        // SAFETY: the map's own value; the index is masked to lie within it.
        Some(unsafe { (&raw mut (*table).words).cast::<u64>().add(index) })
    }

    /// Notes that this path is to carry acknowledgement `number`.
    #[inline(always)]
    pub(crate) fn expect(self, number: u32, what: Awaited) {
        let Some(bucket) = self.bucket() else { return };
        let word = self.word(number) | what as u64;
        // What decides on counters does not give way to what is only told in the log.
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
            forgotten(Table::Acks);
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

    /// What `number` on this path is the first to acknowledge: bits of [`acks`], [`REQUEST`] and [`COOKIE`]; forgets it.
    #[inline(always)]
    pub(crate) fn take(self, number: u32) -> u8 {
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
