//! The records that the kernel programs write into the ring buffer, one socket event or one segment
//! each.
//!
//! Numbers are in host byte order unless a field says otherwise. Every record begins with a
//! [`Header`], whose `kind` determines the layout that follows.

pub use crate::rules::{reset::ResetPhase, role::Role};

#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a record is of; also the `kind` label of `events_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A socket changed its state: a [`SocketRecord`].
    State = 0,
    /// A segment of a handshake or a teardown passed an interface: a [`SegmentRecord`].
    Segment = 1,
    /// A RST was sent or received: a [`SocketRecord`].
    Reset = 2,
    /// A segment was retransmitted: a [`SocketRecord`].
    Retransmit = 3,
}

impl Kind {
    /// Every kind, in order of its number.
    pub const ALL: [Self; 4] = [Self::State, Self::Segment, Self::Reset, Self::Retransmit];
}

/// The start of every record.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[repr(C)]
pub struct Header {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time: u64,
    /// Inode number of the network namespace (`readlink /proc/PID/ns/net`), 0 if unknown.
    pub netns: u32,
    /// A [`Kind`].
    pub kind: u8,
    /// 4 or 6: how many bytes of the addresses count (4 or 16).
    pub ip_version: u8,
    /// Unused, zero.
    pub reserved: [u8; 2],
}

/// An event of one socket: a state transition, a reset or a retransmission.
///
/// The `tcp_sock` fields (`snd_nxt` to `total_retrans`, bytes, `sk_err`) are zero unless
/// [`flags::FULL_SOCKET`] is set.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[repr(C)]
pub struct SocketRecord {
    /// Common start.
    pub header: Header,
    /// The socket's cookie; 0 where the kernel had assigned none.
    pub cookie: u64,
    /// The socket's address, an opaque number: two records of one living socket share it.
    pub sk: u64,
    /// Id of the socket's cgroup (v2), 0 if unknown.
    pub cgroup: u64,
    /// Sequence space acknowledged by the peer; counts our SYN (active open) and our FIN as one
    /// each.
    pub bytes_acked: u64,
    /// Sequence space received in order; counts the peer's FIN as one.
    pub bytes_received: u64,
    /// Local address, network order.
    pub local_addr: [u8; 16],
    /// Remote address, network order.
    pub remote_addr: [u8; 16],
    /// Next sequence number to send (RFC 9293: SND.NXT).
    pub snd_nxt: u32,
    /// Next sequence number expected (RCV.NXT).
    pub rcv_nxt: u32,
    /// Oldest unacknowledged sequence number (SND.UNA).
    pub snd_una: u32,
    /// Smoothed round-trip time, microseconds; 0 before the first sample.
    pub srtt_us: u32,
    /// Segments retransmitted over the socket's life.
    pub total_retrans: u32,
    /// `sk_err`: the errno the application will see, or 0.
    pub sk_err: u32,
    /// Process (thread group) id, valid with [`flags::PROCESS`].
    pub pid: u32,
    /// Local port.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// Command name of the process, NUL-padded, valid with [`flags::PROCESS`].
    pub comm: [u8; 16],
    /// State: before the transition, or at the time of a reset or retransmission. Kernel number, 0
    /// if there is no socket.
    pub old_state: u8,
    /// State after the transition; equal to `old_state` for other kinds.
    pub new_state: u8,
    /// A [`Role`].
    pub role: u8,
    /// Reset: the kernel's `sk_rst_reason`, or [`UNKNOWN_REASON`]. Else 0.
    pub reason: u8,
    /// Bits of [`flags`].
    pub flags: u16,
    /// Retransmission: how many segments were retransmitted. Else 0.
    pub segments: u16,
    /// Retransmission: low eight TCP flags of the segment. Else 0.
    pub tcp_flags: u8,
    /// Reset: a [`ResetPhase`]. Else 0.
    pub phase: u8,
    /// Unused, zero.
    pub reserved: [u8; 6],
}

/// `reason` of a reset for which the kernel gives none.
pub const UNKNOWN_REASON: u8 = 0xff;

/// Bits of [`SocketRecord::flags`].
pub mod flags {
    /// The record is of a full TCP socket, so its `tcp_sock` fields are set.
    pub const FULL_SOCKET: u16 = 1 << 0;
    /// `pid` and `comm` name the process that made the call.
    pub const PROCESS: u16 = 1 << 1;
    /// The peer's FIN had been received (kernel: `SOCK_DONE`).
    pub const PEER_CLOSED: u16 = 1 << 2;
    /// The application had closed its file descriptor, or had not accepted the connection yet
    /// (`sk_socket` is NULL).
    pub const ORPHAN: u16 = 1 << 3;
    /// Reset: sent by this host. Clear: received.
    pub const SENT: u16 = 1 << 4;
    /// Retransmission of a SYN-ACK by a half-open request.
    pub const SYN_ACK: u16 = 1 << 5;
}

/// The longest TCP header, options included (RFC 9293, data offset 15).
pub const MAX_TCP_HEADER: usize = 60;

/// One segment of a handshake or a teardown, as it passed an interface. The TCP header is the
/// packet's own bytes.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
#[repr(C)]
pub struct SegmentRecord {
    /// Common start; `netns` is the interface's.
    pub header: Header,
    /// Index of the interface in its namespace.
    pub ifindex: u32,
    /// Payload, bytes.
    pub payload_len: u32,
    /// Source address, network order.
    pub src_addr: [u8; 16],
    /// Destination address, network order.
    pub dst_addr: [u8; 16],
    /// A [`Direction`].
    pub direction: u8,
    /// Bits of [`acks`]: what this segment is the first to acknowledge.
    pub acks: u8,
    /// Length of the TCP header, 20 to 60 bytes.
    pub tcp_header_len: u8,
    /// Bits of [`origin`].
    pub origin: u8,
    /// The TCP header, network order; bytes from `tcp_header_len` on are zero.
    pub tcp_header: [u8; MAX_TCP_HEADER],
}

/// Bits of [`SegmentRecord::acks`].
pub mod acks {
    /// The segment acknowledges the peer's SYN-ACK: it completes the handshake.
    pub const SYN_ACK: u8 = 1 << 0;
    /// The segment acknowledges the peer's FIN.
    pub const FIN: u8 = 1 << 1;
}

/// Bits of [`SegmentRecord::origin`], of a SYN-ACK on its way out.
pub mod origin {
    /// A half-open request of this network namespace sent it.
    pub const REQUEST: u8 = 1 << 0;
    /// It carries a SYN cookie of this network namespace, which keeps no request.
    pub const SYN_COOKIE: u8 = 1 << 1;
}

/// Which way a segment crossed the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Into this host (or namespace).
    Ingress = 0,
    /// Out of it.
    Egress = 1,
}

impl Direction {
    /// Both directions, in order of their number.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}
