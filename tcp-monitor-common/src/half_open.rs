//! The server's side of a handshake before its last ACK, of which the kernel's tracepoints tell nothing.

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
    /// The counters of its port.
    pub slot: u32,
    /// Inode number of its network namespace.
    pub netns: u32,
    /// How often the SYN-ACK was sent again.
    pub retransmits: u32,
    /// Its port.
    pub port: u16,
    /// 1 if its last ACK came while the accept queue was full.
    pub overflowed: u16,
}

/// How many half-open requests are followed; of any more, only the reset or timeout goes uncounted. Listeners hold 4096 by
/// default (`net.core.somaxconn`).
pub const HALF_OPEN_LIMIT: u32 = 32_768;

/// What a segment that came in on this CPU would have come to if nothing followed from it.
///
/// What the kernel does with a SYN, or with the last ACK of a handshake, it does at once and on the same CPU: a SYN-ACK
/// leaves, a socket is born. If the CPU gets to the next such segment and neither happened, the segment was dropped.
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
    /// A [`Fate`]; 0 if nothing is undecided.
    pub fate: u32,
    /// Its sequence number, which no address translation changes.
    pub seq: u32,
    /// Index of the interface that it came in on.
    pub ifindex: u32,
}

impl Undecided {
    /// Whether it is the last ACK of this half-open request, refused.
    #[must_use]
    pub const fn is_refused_ack_of(&self, cookie: u64) -> bool {
        self.fate == Fate::AckRefused as u32 && self.cookie == cookie
    }
}

/// What becomes of a segment from which nothing follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Fate {
    /// A SYN dropped while the accept queue was full.
    SynOverflowed = 1,
    /// A SYN dropped because the listener has too many requests and sends no SYN cookies.
    SynDropped = 2,
    /// The last ACK of a handshake dropped while the accept queue was full; the request stays.
    AckOverflowed = 3,
    /// The same, but the request is answered with a RST and gone (`net.ipv4.tcp_abort_on_overflow`).
    AckRefused = 4,
    /// A SYN to a port where nobody listens. It is answered with a RST, or dropped by a firewall.
    NoListener = 5,
    /// A SYN that its listener takes. It is dropped by a firewall, or its SYN-ACK waits for the address of the next hop.
    SynTaken = 6,
}

impl Fate {
    /// The fate with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::SynOverflowed,
            2 => Self::SynDropped,
            3 => Self::AckOverflowed,
            4 => Self::AckRefused,
            5 => Self::NoListener,
            6 => Self::SynTaken,
            _ => return None,
        })
    }
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: each is `repr(C)` of integers only, without padding, and any bit pattern is a value.
    unsafe impl aya::Pod for super::HalfOpen {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Undecided {}
}
