//! What the tracker processes: events of sockets, segments on interfaces, sockets from a dump, and
//! lost records.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::{Direction, Kind, ResetPhase, Role};

use super::event::Stuck;
use super::segment::TcpHeader;
use super::time::Time;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The kernel reported a socket.
    Socket(SocketInput),
    /// A segment of a handshake or a teardown passed an interface.
    Segment(SegmentInput),
    /// A dump listed a socket, which may have existed before anything was reported of it.
    Present(PresentSocket),
    /// A socket was found that is stuck: its process does not act on it.
    Stuck(StuckSocket),
    /// The kernel programs could not hand over `count` records of this kind since the last such
    /// input.
    Lost {
        /// When the loss was noticed.
        time: Time,
        /// What the records were of.
        kind: Kind,
        /// How many there were.
        count: u64,
    },
}

impl Input {
    /// When it happened.
    #[must_use]
    pub const fn time(&self) -> Time {
        match self {
            Self::Socket(socket) => socket.time,
            Self::Segment(segment) => segment.time,
            Self::Present(present) => present.time,
            Self::Stuck(stuck) => stuck.time,
            Self::Lost { time, .. } => *time,
        }
    }
}

/// What the kernel reported of one socket.
#[derive(Clone, Debug)]
pub struct SocketInput {
    /// When it happened.
    pub time: Time,
    /// Inode number of the socket's network namespace, 0 if unknown.
    pub netns: u32,
    /// The socket's cookie, its identity within the namespace; 0 where the kernel has assigned
    /// none.
    pub cookie: u64,
    /// The socket's address: two inputs of one living socket share it.
    pub sk: u64,
    /// Id of the socket's cgroup (v2), 0 if unknown.
    pub cgroup: u64,
    /// Which end the kernel programs take it for.
    pub role: Role,
    /// Local address; port 0 where the kernel has not chosen one yet. A v4-mapped address is given
    /// as IPv4.
    pub local: SocketAddr,
    /// Remote address; port 0 where there is none.
    pub remote: SocketAddr,
    /// The process that made the call, where it is known.
    pub process: Option<Process>,
    /// The peer's FIN had been received (kernel: `SOCK_DONE`).
    pub peer_closed: bool,
    /// No file descriptor refers to the socket (kernel: `sk_socket` is NULL).
    pub orphan: bool,
    /// Fields of the kernel's `tcp_sock`; `None` if there was no full socket.
    pub tcp: Option<TcpSock>,
    /// What happened.
    pub kind: SocketEvent,
}

/// What happened to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketEvent {
    /// It changed its state.
    State {
        /// The state it leaves.
        from: TcpState,
        /// The state it enters.
        to: TcpState,
    },
    /// A RST was sent or received.
    Reset {
        /// Out of this host, or into it.
        direction: ResetDirection,
        /// Where in the connection's life.
        phase: ResetPhase,
        /// The kernel's `sk_rst_reason`.
        reason: u8,
        /// State of the socket; `None` if there is none.
        state: Option<TcpState>,
    },
    /// A segment was retransmitted.
    Retransmit {
        /// What it carried.
        kind: RetransmitKind,
        /// State of the socket.
        state: TcpState,
    },
}

/// Which way a RST went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetDirection {
    /// This host sent it.
    Sent,
    /// The peer sent it.
    Received,
}

impl ResetDirection {
    /// The name in metrics and JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

/// What a retransmitted segment carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetransmitKind {
    /// A SYN.
    Syn,
    /// A SYN-ACK.
    SynAck,
    /// Data.
    Data,
    /// A FIN.
    Fin,
}

impl RetransmitKind {
    /// The name in JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::SynAck => "syn_ack",
            Self::Data => "data",
            Self::Fin => "fin",
        }
    }
}

/// Fields of the kernel's `tcp_sock`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpSock {
    /// Next sequence number to send (RFC 9293: SND.NXT).
    pub snd_nxt: u32,
    /// Next sequence number expected (RCV.NXT).
    pub rcv_nxt: u32,
    /// Oldest unacknowledged sequence number (SND.UNA).
    pub snd_una: u32,
    /// Smoothed round-trip time, microseconds; 0 before the first sample.
    pub srtt_us: u32,
    /// Sequence space the peer acknowledged; counts our SYN (active open only) and our FIN as one
    /// each.
    pub bytes_acked: u64,
    /// Sequence space received in order; counts the peer's FIN as one.
    pub bytes_received: u64,
    /// Segments retransmitted over the socket's life, SYN or SYN-ACK included.
    pub total_retrans: u32,
    /// The errno the application will see, or 0.
    pub sk_err: u32,
}

/// A process that acted on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process (thread group) id.
    pub pid: u32,
    /// Its command name.
    pub comm: Comm,
}

/// A command name: whatever bytes the process chose, NUL-padded (kernel: `TASK_COMM_LEN`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comm(pub [u8; 16]);

impl Comm {
    /// The name up to the first NUL, as text; bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn to_text(&self) -> Cow<'_, str> {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        String::from_utf8_lossy(&self.0[..end])
    }
}

/// A segment as it passed an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInput {
    /// When it passed.
    pub time: Time,
    /// Inode number of the interface's network namespace, 0 if unknown.
    pub netns: u32,
    /// Index of the interface in its namespace or in a capture file.
    pub ifindex: u32,
    /// Which way it crossed the interface; a capture file may not say.
    pub direction: Option<Direction>,
    /// Source. A v4-mapped address is given as IPv4.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// The TCP header.
    pub header: TcpHeader,
    /// Payload, bytes.
    pub payload_len: u32,
    /// It is the first to acknowledge the peer's SYN-ACK. A source that cannot know leaves it to
    /// the tracker's inference, and so the next.
    pub acks_syn_ack: bool,
    /// It is the first to acknowledge the peer's FIN.
    pub acks_fin: bool,
    /// It is a SYN-ACK with a SYN cookie of this host, which keeps nothing of it. Only the kernel
    /// programs know.
    pub syn_cookie: bool,
    /// The number of its packet in a capture, as Wireshark counts; `None` on a running agent.
    pub frame: Option<NonZeroU64>,
}

/// A stuck socket: its process does not act on it (sock_diag).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StuckSocket {
    /// When it was found so.
    pub time: Time,
    /// Inode number of the socket's network namespace.
    pub netns: u32,
    /// The socket's cookie.
    pub cookie: u64,
    /// What was found.
    pub stuck: Stuck,
}

/// A socket as it was found (sock_diag).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresentSocket {
    /// A time before which it was not read: what was reported of it until then shows in the dump.
    pub time: Time,
    /// Inode number of the socket's network namespace.
    pub netns: u32,
    /// The socket's cookie.
    pub cookie: u64,
    /// `Server` if a socket listens on its port, else `Client`, which may be wrong.
    pub role: Role,
    /// Local address. A v4-mapped address is given as IPv4.
    pub local: SocketAddr,
    /// Remote address.
    pub remote: SocketAddr,
    /// What stands for it.
    pub presence: Presence,
}

/// What stands for a connection in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// A full socket in this state.
    Socket(TcpState),
    /// A timewait socket.
    Waiting {
        /// The peer's FIN has come; otherwise it is in its FIN_WAIT2 substate.
        peer_closed: bool,
        /// How long it will last.
        left: Duration,
    },
}
