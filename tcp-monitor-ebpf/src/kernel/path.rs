//! One direction of a connection, by which tables find it.

use super::layout::setting;

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

    /// The same with an acknowledgment number.
    #[inline(always)]
    pub(crate) fn hash_with(self, number: u32) -> u64 {
        let hash = (self.0 ^ u64::from(number)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        hash ^ hash >> 32
    }
}
