//! The counters that the kernel programs keep per CPU and the agent adds up at each scrape.

#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[cfg(doc)]
use crate::rules::reset::ResetPhase;

use super::record::{Direction, Kind};
use crate::rules::{role::Role, state::TcpState};

#[cfg(feature = "user")]
pub use crate::labels::reset_reason_label;
pub use crate::rules::{
    cause::{ClosedBy, HandshakeFailure},
    control::SegmentKind,
};

// The kernel programs index by masking, so that the verifier sees the bound: dimensions are powers
// of two.

/// State numbers run from 1 to 12; the other rows and columns stay empty.
pub const STATES: usize = 16;
/// Room for every [`HandshakeFailure`].
pub const FAILURES: usize = 16;
/// Room for every [`ResetPhase`].
pub const PHASES: usize = 8;
/// The kernel's `sk_rst_reason` has 25 values on 7.2; a reason beyond the last but one counts as
/// unknown.
pub const RESET_REASONS: usize = 32;
/// The slot of [`PortCounters::resets_sent`] for "no reason given".
pub const RESET_REASON_UNKNOWN: usize = RESET_REASONS - 1;

/// Room for every [`ClosedBy`].
pub const CLOSINGS: usize = 8;
/// Room for the buckets of a histogram.
pub const BUCKETS: usize = 16;

/// How often something took how long. A bucket holds what is not longer than its bound, and longer
/// than the one before.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[repr(C)]
pub struct Histogram {
    /// By bucket; see [`Scale`].
    pub buckets: [u64; BUCKETS],
    /// All of it together, nanoseconds.
    pub sum: u64,
}

impl Histogram {
    /// Nothing counted yet.
    pub const ZERO: Self = Self { buckets: [0; BUCKETS], sum: 0 };
}

/// The bounds of a histogram's buckets: each is four times the one before it, and the last bucket
/// has none.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Bound of the first bucket, nanoseconds.
    pub first: u64,
    /// How many buckets have a bound.
    pub bounds: usize,
}

impl Scale {
    /// Of handshakes: 64 µs to 268 s.
    pub const HANDSHAKE: Self = Self { first: 64_000, bounds: 12 };
    /// Of connections and of states: 1 ms to 18.6 h.
    pub const LIFE: Self = Self { first: 1_000_000, bounds: 14 };

    /// The bucket for a duration of less than 2⁶³ ns, which is 292 years.
    ///
    /// It has no branch: the kernel's verifier would follow each of them to the end of the program.
    #[inline(always)]
    #[must_use]
    pub const fn bucket(self, nanoseconds: u64) -> usize {
        let (mut bucket, mut bit) = (0, BUCKETS.trailing_zeros());
        while bit > 0 {
            bit -= 1;
            let next = bucket + (1 << bit);
            let bound = self.first << (2 * (next - 1));
            let is_longer = bound.wrapping_sub(nanoseconds) >> 63;
            let has_no_bound = (self.bounds as u64).wrapping_sub(next) >> 63;
            bucket += (is_longer & !has_no_bound) << bit;
        }
        bucket as usize
    }
}

/// The states whose durations are counted: those in which one end waits for the other, or for its
/// own application.
pub const TIMED_STATES: [TcpState; 5] =
    [TcpState::CloseWait, TcpState::FinWait1, TcpState::FinWait2, TcpState::LastAck, TcpState::Closing];
/// Room for [`TIMED_STATES`].
pub const TIMED: usize = 8;

/// The place of a state in [`TIMED_STATES`].
#[inline(always)]
#[must_use]
pub const fn timed_state(state: TcpState) -> Option<usize> {
    match state {
        TcpState::CloseWait => Some(0),
        TcpState::FinWait1 => Some(1),
        TcpState::FinWait2 => Some(2),
        TcpState::LastAck => Some(3),
        TcpState::Closing => Some(4),
        TcpState::Established
        | TcpState::SynSent
        | TcpState::SynRecv
        | TcpState::TimeWait
        | TcpState::Close
        | TcpState::Listen
        | TcpState::NewSynRecv => None,
    }
}

/// What is counted for one service port.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[repr(C)]
pub struct PortCounters {
    /// Completed handshakes, by [`Role`].
    pub handshakes: [u64; Role::ALL.len()],
    /// Handshakes begun and not completed, by [`Role`] and [`HandshakeFailure`].
    pub handshake_failures: [[u64; FAILURES]; Role::ALL.len()],
    /// SYNs (client) or SYN-ACKs (server) retransmitted, by [`Role`].
    pub syn_retransmits: [u64; Role::ALL.len()],
    /// Segments of data, or of a FIN, retransmitted.
    pub retransmits: u64,
    /// State transitions, by kernel number from and to.
    pub transitions: [[u64; STATES]; STATES],
    /// RSTs received, by [`ResetPhase`].
    pub resets_received: [u64; PHASES],
    /// RSTs sent, by [`ResetPhase`] and the kernel's reason.
    pub resets_sent: [[u64; RESET_REASONS]; PHASES],
    /// Connections that ended, by [`Role`] and [`ClosedBy`].
    pub closed: [[u64; CLOSINGS]; Role::ALL.len()],
    /// Payload of connections that ended, bytes: acknowledged by the peer, received.
    pub bytes: [u64; 2],
    /// SYNs, and ACKs of SYN-ACKs, dropped because the accept queue was full.
    pub accept_queue_overflows: u64,
    /// SYNs answered with a SYN cookie; connections that one was the beginning of.
    pub syn_cookies: [u64; 2],
    /// From the first SYN to ESTABLISHED, by [`Role`]; [`Scale::HANDSHAKE`].
    pub handshake_durations: [Histogram; Role::ALL.len()],
    /// From ESTABLISHED to the end, by [`Role`]; [`Scale::LIFE`].
    pub connection_durations: [Histogram; Role::ALL.len()],
    /// Time in a state, when it is left, by its place in [`TIMED_STATES`]; [`Scale::LIFE`].
    pub state_durations: [Histogram; TIMED],
}

impl PortCounters {
    /// Nothing counted yet.
    pub const ZERO: Self = Self {
        handshakes: [0; Role::ALL.len()],
        handshake_failures: [[0; FAILURES]; Role::ALL.len()],
        syn_retransmits: [0; Role::ALL.len()],
        retransmits: 0,
        transitions: [[0; STATES]; STATES],
        resets_received: [0; PHASES],
        resets_sent: [[0; RESET_REASONS]; PHASES],
        closed: [[0; CLOSINGS]; Role::ALL.len()],
        bytes: [0; 2],
        accept_queue_overflows: 0,
        syn_cookies: [0; 2],
        handshake_durations: [Histogram::ZERO; Role::ALL.len()],
        connection_durations: [Histogram::ZERO; Role::ALL.len()],
        state_durations: [Histogram::ZERO; TIMED],
    };
}

/// The segments one interface saw: `[direction][flags]`.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[repr(C)]
pub struct InterfaceCounters {
    /// By [`Direction`] and [`SegmentKind`].
    pub segments: [[u64; SegmentKind::ALL.len()]; Direction::ALL.len()],
}

/// An interface of a network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct InterfaceKey {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Index of the interface in it.
    pub ifindex: u32,
}

/// A table of the kernel programs that holds a limited number of entries; the `table` label of
/// `table_evictions_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Table {
    /// Acknowledgments that are awaited.
    Acks = 0,
    /// Times of sockets.
    SocketTimes = 1,
    /// Half-open requests.
    Requests = 2,
    /// Timewait sockets in FIN_WAIT2.
    FinWait2Timewait = 3,
}

impl Table {
    /// Every table, in order of its number.
    pub const ALL: [Self; 4] = [Self::Acks, Self::SocketTimes, Self::Requests, Self::FinWait2Timewait];
}

/// How often a full table evicted an entry, or did not take one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[repr(C)]
pub struct TableCounters {
    /// By [`Table`].
    pub evictions: [u64; Table::ALL.len()],
}

/// The records made, by [`Kind`].
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[repr(C)]
pub struct RecordCounters {
    /// Handed to the agent.
    pub sent: [u64; Kind::ALL.len()],
    /// Dropped because the ring buffer was full.
    pub lost: [u64; Kind::ALL.len()],
    /// Dropped to keep room for others: of packets for those of sockets, of state transitions for
    /// those of RSTs.
    pub suppressed: [u64; Kind::ALL.len()],
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: each is `repr(C)` of integers only, without padding, and any bit pattern is a value.
    unsafe impl aya::Pod for super::PortCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::InterfaceCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::InterfaceKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::RecordCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::TableCounters {}
}

#[cfg(test)]
mod tests {
    use super::Scale;

    #[test]
    fn a_duration_is_in_the_first_bucket_whose_bound_it_does_not_pass() {
        let bucket = |nanoseconds| Scale::HANDSHAKE.bucket(nanoseconds);
        assert_eq!([0, 64_000, 64_001, 256_000, 256_001].map(bucket), [0, 0, 1, 1, 2]);
        assert_eq!([268_435_456_000, 268_435_456_001, u64::MAX >> 1].map(bucket), [11, 12, 12]);
        assert_eq!(Scale::LIFE.bucket(u64::MAX >> 1), Scale::LIFE.bounds);
    }
}
