//! The server's side of a handshake before its ACK, of which the kernel's tracepoints report
//! nothing.

use crate::rules::segment_outcome::SegmentOutcome;

/// A half-open request, whose SYN-ACK awaits the handshake ACK. By its cookie, which the child
/// socket takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HalfOpen {
    /// When its SYN was received, `CLOCK_MONOTONIC`, nanoseconds.
    pub syn_at: u64,
    /// When its SYN-ACK was last sent.
    pub syn_ack_at: u64,
    /// When a RST was received that not every kernel accepts; 0 if none was.
    pub rst_at: u64,
    /// Address of its listener, an opaque number: the same as in the table of closed listeners.
    pub listener: u64,
    /// The counters of its port.
    pub slot: u32,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// 1 if its handshake ACK was received while the accept queue was full.
    pub overflowed: u32,
    /// Its port.
    pub port: u16,
    /// How often its timer had expired when the SYN-ACK was last sent.
    pub timeouts: u8,
    /// How often its timer expires before the SYN-ACK is retransmitted, since the handshake ACK
    /// came without data and the listener defers (TCP_DEFER_ACCEPT); 0 if it is retransmitted each
    /// time.
    pub deferral: u8,
}

/// How many half-open requests are followed. The reset or timeout of any more is not counted.
/// Listeners hold 4096 by default (`net.core.somaxconn`).
pub const HALF_OPEN_LIMIT: u32 = 32_768;

/// How many closed listeners are kept, to tell requests that ended with them from those that timed
/// out.
pub const CLOSED_LISTENERS_LIMIT: u32 = 1024;

/// Ingress segments on this CPU to which the kernel has not reacted yet.
///
/// The kernel reacts to a SYN, or to a handshake ACK, soon and on the same CPU: it sends a SYN-ACK,
/// or creates a child socket. If neither happens within [`REACTION_TIME`], the segment was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PendingSegments {
    /// The last of them, in a ring.
    pub segments: [PendingSegment; PENDING_SEGMENTS],
    /// How many there were in all, and so the place of the next.
    pub recorded: u64,
    /// Place of the last handshake ACK for which the accept queue has no room.
    pub handshake_ack: u64,
    /// The place that a search found; see the programs.
    pub found: u64,
    /// Segments in flight to the last ports, in a ring.
    pub ports: [PendingPort; PENDING_PORTS],
    /// How many ports there were in all, and so the place of the next.
    pub ports_recorded: u64,
}

/// Segments to a port that have not taken effect: network drivers hand the kernel several at a
/// time, and each passes the classifier before the first takes effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PendingPort {
    /// When the first of them was received, `CLOCK_MONOTONIC`, nanoseconds. They are awaited for
    /// [`REACTION_TIME`].
    pub time: u64,
    /// Their destination.
    pub port: u32,
    /// SYNs that a listener will accept.
    pub syns: u32,
    /// Handshake ACKs for which the kernel will create child sockets.
    pub acks: u32,
    /// Those of them that return a SYN cookie.
    pub cookies: u32,
}

/// Of how many ports that is known: what the kernel takes from a driver at a time may be for as
/// many.
pub const PENDING_PORTS: usize = 8;

/// How many pending segments are kept: twice what the kernel takes from a driver at a time
/// (`net.core.gro_normal_batch`).
pub const PENDING_SEGMENTS: usize = 16;

/// How long the kernel may take to react to a segment, nanoseconds. Most often it is some
/// microseconds.
pub const REACTION_TIME: u64 = 10_000_000;

/// An ingress segment to which the kernel has not reacted yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PendingSegment {
    /// When it was received, `CLOCK_MONOTONIC`, nanoseconds.
    pub time: u64,
    /// A hash of the path back to its sender.
    pub path: u64,
    /// The cookie of the half-open request whose handshake ACK it is.
    pub cookie: u64,
    /// The counters of its port.
    pub slot: u32,
    /// Its [`SegmentOutcome`] without a reaction; 0 if it is not pending any more.
    pub outcome: u32,
    /// Its sequence number, which no address translation changes.
    pub seq: u32,
    /// Index of the interface that received it.
    pub ifindex: u32,
}

impl PendingSegment {
    /// Whether it is pending and was received within the last `than` nanoseconds.
    #[inline(always)]
    #[must_use]
    pub const fn is_younger(&self, than: u64, now: u64) -> bool {
        self.outcome != 0 && now.wrapping_sub(self.time) <= than
    }

    /// Whether it is the refused handshake ACK of this half-open request.
    #[must_use]
    pub const fn is_refused_ack_of(&self, cookie: u64) -> bool {
        self.outcome == SegmentOutcome::AckRefused as u32 && self.cookie == cookie
    }
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: each is `repr(C)` of integers only, without padding, and any bit pattern is a value.
    unsafe impl aya::Pod for super::HalfOpen {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::PendingSegments {}
}
