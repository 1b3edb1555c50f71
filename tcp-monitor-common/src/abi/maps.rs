//! The maps of the programs and their values, and the names of maps, globals and programs.

/// The kernel's view of a port: which counters it has, or none.
///
/// In one map value: deciding that a port is not watched is one load, from a part that stays in the
/// cache.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PortTable {
    /// A bit a port: 0 if its slot is [`slot::UNWATCHED`].
    pub watched: [u64; 65536 / 64],
    /// [`slot::UNWATCHED`], [`slot::OTHER`], [`slot::UNCLAIMED`] or an index into the counters, by
    /// port number.
    pub slots: [u16; 65536],
}

impl PortTable {
    /// The table of these slots.
    #[must_use]
    pub fn new(slots: &[u16; 65536]) -> Self {
        let mut watched = [0; 65536 / 64];
        for (port, _) in slots.iter().enumerate().filter(|(_, slot)| **slot != slot::UNWATCHED) {
            watched[port / 64] |= 1 << (port % 64);
        }
        Self { watched, slots: *slots }
    }
}

/// Special values of [`PortTable::slots`].
pub mod slot {
    /// Not watched: no record, no counter.
    pub const UNWATCHED: u16 = 0;
    /// Watched, and counted together as `other`.
    pub const OTHER: u16 = 1;
    /// The first slot of a port of its own.
    pub const FIRST: u16 = 2;
    /// Watched: gets the next free slot when it is first seen as a service port, or [`OTHER`] when
    /// all are taken.
    pub const UNCLAIMED: u16 = u16::MAX;
}

/// Words in [`AckTable::recent`], a power of two: what stays in the cache.
pub const RECENT_ACK_WORDS: usize = 1 << 11;
/// Words in [`AckTable::words`], a power of two.
pub const ACK_WORDS: usize = 1 << 16;
/// Words in a bucket: any of them may hold an entry that hashes to the bucket.
pub const ACK_WAYS: usize = 4;

/// The acknowledgments that are awaited, one word each: a hash of who must send it and its number.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct AckTable {
    /// Buckets of [`ACK_WAYS`] words; 0 is free. Most acknowledgments come within a round trip, and
    /// find their word here.
    pub recent: [u64; RECENT_ACK_WORDS],
    /// When a word was last stored in `words`, in jiffies; 0 for never.
    pub spilled_at: u64,
    /// Buckets for words that a newer one took the place of among the recent ones.
    pub words: [u64; ACK_WORDS],
}

/// Buckets in [`FinWait2Table`], a power of two.
pub const FIN_WAIT2_BUCKETS: usize = 1 << 14;
/// Places in a bucket: any of them may hold an entry that hashes to the bucket.
pub const FIN_WAIT2_WAYS: usize = 4;

/// The timewait sockets in FIN_WAIT2.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct FinWait2Table {
    /// By a hash of the connection.
    pub buckets: [FinWait2Bucket; FIN_WAIT2_BUCKETS],
}

/// Some timewait sockets: a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct FinWait2Bucket {
    /// A word each; 0 is free.
    pub words: [u64; FIN_WAIT2_WAYS],
    /// Since when each connection is in FIN_WAIT2, `CLOCK_MONOTONIC`, nanoseconds; 0 if that is
    /// unknown.
    pub since: [u64; FIN_WAIT2_WAYS],
}

/// Buckets of a [`SocketTimesTable`], a power of two.
pub const SOCKET_TIMES_BUCKETS: usize = 1 << 15;
/// Sockets in a bucket, at most.
pub const SOCKET_TIMES_WAYS: usize = 4;

/// The times of sockets: a bucket is chosen by a socket's address in kernel memory.
///
/// The kernel gives the memory of a socket that has just closed to the next one, so a busy server
/// uses few buckets, which stay in the cache.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SocketTimesTable {
    /// Any way of its bucket may hold a socket.
    pub buckets: [SocketTimesBucket; SOCKET_TIMES_BUCKETS],
}

/// A bucket of a [`SocketTimesTable`]: two cache lines.
#[derive(Clone, Copy)]
#[repr(C, align(128))]
pub struct SocketTimesBucket {
    /// Its sockets.
    pub sockets: [SocketTimes; SOCKET_TIMES_WAYS],
}

/// A socket and its times, `CLOCK_MONOTONIC`, nanoseconds; 0 where unknown.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SocketTimes {
    /// Which socket, with flags of the programs; 0 is free.
    pub socket: u64,
    /// When it sent its first SYN.
    pub syn_at: u64,
    /// When it was established.
    pub established_at: u64,
    /// When it entered its present state.
    pub state_since: u64,
}

/// The names of maps.
///
pub mod map {
    /// Ring buffer of records.
    pub const RECORDS: &str = "RECORDS";
    /// `Array<PortTable>`, one entry.
    pub const PORTS: &str = "PORTS";
    /// `HashMap<u32, u16>`: the port of each counter slot that has one of its own.
    pub const SLOT_PORTS: &str = "SLOT_PORTS";
    /// `Array<u32>`, one entry: how many slots are claimed.
    pub const FREE_SLOT: &str = "FREE_SLOT";
    /// `PerCpuArray<PortCounters>`, by slot.
    pub const PORT_COUNTERS: &str = "PORT_COUNTERS";
    /// `PerCpuHashMap<InterfaceKey, InterfaceCounters>`.
    pub const INTERFACE_COUNTERS: &str = "INTERFACE_COUNTERS";
    /// `PerCpuArray<RecordCounters>`, one entry.
    pub const RECORD_COUNTERS: &str = "RECORD_COUNTERS";
    /// `PerCpuArray<TableCounters>`, one entry.
    pub const TABLE_COUNTERS: &str = "TABLE_COUNTERS";
    /// `HashMap<u64, HalfOpen>`, by cookie.
    pub const HALF_OPEN: &str = "HALF_OPEN";
    /// `LruHashMap<u64, u64>`: when listeners closed, `CLOCK_MONOTONIC`, nanoseconds, by their
    /// address.
    pub const CLOSED_LISTENERS: &str = "CLOSED_LISTENERS";
    /// `PerCpuArray<PendingSegments>`, one entry.
    pub const PENDING_SEGMENTS: &str = "PENDING_SEGMENTS";
}

/// Names of globals the agent sets before loading.
pub mod global {
    /// A [`KernelLayout`](crate::abi::layout::KernelLayout).
    pub const KERNEL_LAYOUT: &str = "KERNEL_LAYOUT";
    /// A [`Settings`](crate::abi::layout::Settings).
    pub const SETTINGS: &str = "SETTINGS";
    /// aya-log's level; 0 lets the verifier remove every log call.
    pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
}

/// Names of programs.
pub mod program {
    /// The tracepoints. Each has two programs: one of its name, and one with [`SECOND`] after it.
    pub const TRACEPOINTS: [&str; 5] = [
        "inet_sock_set_state",
        "tcp_send_reset",
        "tcp_receive_reset",
        "tcp_retransmit_skb",
        "tcp_retransmit_synack",
    ];
    /// Ends the name of a tracepoint's second copy, which handles the events that the kernel left
    /// the first one out of.
    pub const SECOND: &str = "_second";
    /// The classifier for segments coming in.
    pub const INGRESS: &str = "tcp_monitor_ingress";
    /// The classifier for segments going out.
    pub const EGRESS: &str = "tcp_monitor_egress";
    /// A program on inet_sock_set_state that does nothing, for the benchmark.
    pub const BASELINE_TRACEPOINT: &str = "baseline_tracepoint";
    /// A classifier that does nothing, for the benchmark.
    pub const BASELINE_CLASSIFIER: &str = "baseline_classifier";
    /// A program on inet_sock_set_state that makes a record and nothing else, for the benchmark.
    pub const BASELINE_RECORD: &str = "baseline_record";

    /// The place of a tracepoint in [`TRACEPOINTS`]. Evaluated at compile time: an unknown name is
    /// no program.
    ///
    /// # Panics
    /// If the name is not among them.
    #[must_use]
    pub const fn index(name: &str) -> u32 {
        let mut index = 0;
        while index < TRACEPOINTS.len() {
            if is_same(TRACEPOINTS[index].as_bytes(), name.as_bytes()) {
                return index as u32;
            }
            index += 1;
        }
        panic!("the tracepoint is not in program::TRACEPOINTS")
    }

    const fn is_same(a: &[u8], b: &[u8]) -> bool {
        let mut i = 0;
        while i < a.len() && i < b.len() && a[i] == b[i] {
            i += 1;
        }
        i == a.len() && i == b.len()
    }
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: it is `repr(C)` of integers only, without padding, and any bit pattern is a value.
    unsafe impl aya::Pod for super::PortTable {}
}

#[cfg(test)]
mod tests {
    use super::program::{TRACEPOINTS, index};

    #[test]
    fn each_tracepoint_has_its_place() {
        for (place, name) in TRACEPOINTS.into_iter().enumerate() {
            assert_eq!(index(name) as usize, place);
        }
    }
}
