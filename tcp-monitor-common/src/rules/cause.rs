//! Why a handshake failed, and what ended a connection, by the errno that the kernel leaves in the
//! socket.

/// Why a handshake failed; the `reason` label of `handshake_failures_total`.
///
/// The first six are a client's (what `connect()` would report), the rest a server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum HandshakeFailure {
    /// A RST, or an ICMP port unreachable, answered the SYN (ECONNREFUSED).
    Refused = 0,
    /// No answer came (ETIMEDOUT).
    TimedOut = 1,
    /// ICMP host unreachable, or no ARP/ND answer (EHOSTUNREACH).
    HostUnreachable = 2,
    /// ICMP network unreachable (ENETUNREACH).
    NetUnreachable = 3,
    /// The side that began it gave up: the application closed the socket.
    Aborted = 4,
    /// Any other error.
    Other = 5,
    /// Server: the peer answered the SYN-ACK with a RST.
    Reset = 6,
    /// Server: the accept queue was full when the SYN came, or when the handshake ACK did and the
    /// request was given up.
    AcceptQueueFull = 7,
    /// Server: the listener did not answer the SYN, for another reason than a full accept queue.
    SynDropped = 8,
    /// Server: no socket listens on the port.
    NoListener = 9,
}

impl HandshakeFailure {
    /// Every reason, in order of its number.
    pub const ALL: [Self; 10] = [
        Self::Refused,
        Self::TimedOut,
        Self::HostUnreachable,
        Self::NetUnreachable,
        Self::Aborted,
        Self::Other,
        Self::Reset,
        Self::AcceptQueueFull,
        Self::SynDropped,
        Self::NoListener,
    ];

    /// The reason that `sk_err` of a socket leaving SYN_SENT stands for.
    #[must_use]
    pub const fn of_client(sk_err: u32) -> Self {
        match sk_err {
            0 | ECONNABORTED => Self::Aborted,
            ECONNREFUSED => Self::Refused,
            ETIMEDOUT => Self::TimedOut,
            EHOSTUNREACH => Self::HostUnreachable,
            ENETUNREACH => Self::NetUnreachable,
            _ => Self::Other,
        }
    }

    /// The reason that `sk_err` of an accepted socket leaving SYN_RECV for CLOSE stands for.
    #[must_use]
    pub const fn of_server(sk_err: u32) -> Self {
        match sk_err {
            0 | ECONNABORTED => Self::Aborted,
            ECONNRESET => Self::Reset,
            ETIMEDOUT => Self::TimedOut,
            _ => Self::Other,
        }
    }
}

/// Who or what ended a connection; the `closed_by` label of `connections_closed_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ClosedBy {
    /// This end sent the first FIN.
    Local = 0,
    /// The peer sent the first FIN.
    Remote = 1,
    /// Both sent a FIN before they saw the other's.
    Both = 2,
    /// This end sent a RST.
    LocalReset = 3,
    /// The peer sent a RST.
    RemoteReset = 4,
    /// The peer did not answer any more.
    TimedOut = 5,
    /// An administrator destroyed the socket (`ss -K`).
    Killed = 6,
}

impl ClosedBy {
    /// Every way, in order of its number.
    pub const ALL: [Self; 7] = [
        Self::Local,
        Self::Remote,
        Self::Both,
        Self::LocalReset,
        Self::RemoteReset,
        Self::TimedOut,
        Self::Killed,
    ];
}

const ENETUNREACH: u32 = 101;
const ECONNABORTED: u32 = 103;
const ECONNRESET: u32 = 104;
const ETIMEDOUT: u32 = 110;
const ECONNREFUSED: u32 = 111;
const EHOSTUNREACH: u32 = 113;
