//! The server's side of a handshake before its last ACK, of which the kernel's tracepoints tell nothing.

use crate::rules::segment_outcome::SegmentOutcome;

/// A half-open request: its SYN-ACK awaits the last ACK. By its cookie, which the socket it becomes takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HalfOpen {
    /// When its SYN came in, `CLOCK_MONOTONIC`, nanoseconds.
    pub opened: u64,
    /// When its SYN-ACK was last sent.
    pub answered: u64,
    /// When a RST came that not every kernel takes; 0 if none did.
    pub doubted: u64,
    /// Address of its listener, an opaque number: the same as in the table of listeners that closed.
    pub listener: u64,
    /// The counters of its port.
    pub slot: u32,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// 1 if its last ACK came while the accept queue was full.
    pub overflowed: u32,
    /// Its port.
    pub port: u16,
    /// How often its timer had run out when the SYN-ACK was last sent.
    pub timeouts: u8,
    /// How often it runs out before the SYN-ACK is sent again, since the last ACK came without data and the listener defers
    /// (TCP_DEFER_ACCEPT); 0 if it is sent each time.
    pub deferral: u8,
}

/// How many half-open requests are followed; of any more, only the reset or timeout goes uncounted. Listeners hold 4096 by
/// default (`net.core.somaxconn`).
pub const HALF_OPEN_LIMIT: u32 = 32_768;

/// How many listeners that closed are remembered, to tell requests that went with them from those that timed out.
pub const CLOSED_LISTENERS_LIMIT: u32 = 1024;

/// What segments that came in on this CPU will have come to if nothing follows from them.
///
/// What the kernel does with a SYN, or with the last ACK of a handshake, it does soon and on the same CPU: a SYN-ACK leaves, a
/// socket is born. If neither happens within [`AT_ONCE`], the segment was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Arrivals {
    /// The last of them, in a circle.
    pub undecided: [Undecided; NOTES],
    /// How many there ever were, and so where the next one goes.
    pub noted: u64,
    /// Place of the last note on a last ACK that the accept queue has no room for.
    pub last_ack: u64,
    /// A place for what is looked for: see the programs.
    pub found: u64,
    /// What is still to take effect on the last ports that were met, in a circle.
    pub pending: [Pending; PENDING],
    /// How many of those there ever were, and so where the next one goes.
    pub met: u64,
}

/// Segments to a port whose effect is still to come: network drivers hand the kernel several at a time, and each passes the
/// classifier before the first takes effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pending {
    /// When the first of them came in, `CLOCK_MONOTONIC`, nanoseconds. They are awaited for [`AT_ONCE`].
    pub time: u64,
    /// Their destination.
    pub port: u32,
    /// SYNs that a listener will take in.
    pub syns: u32,
    /// Last ACKs of which children will be born.
    pub acks: u32,
    /// Those of them that bring back a SYN cookie.
    pub cookies: u32,
}

/// Of how many ports that is known: what the kernel takes from a driver at a time may be for as many.
pub const PENDING: usize = 8;

/// How many notes are kept: twice what the kernel takes from a driver at a time (`net.core.gro_normal_batch`).
pub const NOTES: usize = 16;

/// How long the kernel may take for what it does with a segment, nanoseconds. Most often it is some microseconds.
pub const AT_ONCE: u64 = 10_000_000;

/// One of those segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Undecided {
    /// When it came in, `CLOCK_MONOTONIC`, nanoseconds.
    pub time: u64,
    /// A hash of the way back to its sender.
    pub path: u64,
    /// The cookie of the half-open request that it is the last ACK of.
    pub cookie: u64,
    /// The counters of its port.
    pub slot: u32,
    /// A [`SegmentOutcome`]; 0 if nothing is undecided.
    pub fate: u32,
    /// Its sequence number, which no address translation changes.
    pub seq: u32,
    /// Index of the interface that it came in on.
    pub ifindex: u32,
}

impl Undecided {
    /// Whether it came in within the last so many nanoseconds, and nothing has followed yet.
    #[inline(always)]
    #[must_use]
    pub const fn is_younger(&self, than: u64, now: u64) -> bool {
        self.fate != 0 && now.wrapping_sub(self.time) <= than
    }

    /// Whether it is the last ACK of this half-open request, refused.
    #[must_use]
    pub const fn is_refused_ack_of(&self, cookie: u64) -> bool {
        self.fate == SegmentOutcome::AckRefused as u32 && self.cookie == cookie
    }
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: each is `repr(C)` of integers only, without padding, and any bit pattern is a value.
    unsafe impl aya::Pod for super::HalfOpen {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Arrivals {}
}
