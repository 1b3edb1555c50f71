//! A row of a dump (linux/inet_diag.h: `struct inet_diag_msg` and attributes): one socket as it is now.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use netlink_packet_core::NlasIterator;
use tcp_monitor_common::TcpState;
use zerocopy::byteorder::{BigEndian, U16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) kind: Kind,
    /// Of a TIME_WAIT minisocket its substate: FIN_WAIT2 or TIME_WAIT. A half-open request is in SYN_RECV.
    pub(super) state: TcpState,
    /// A v4-mapped address is given as IPv4, here and in `remote`.
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// Its identity in the network namespace. The kernel assigns it now if it had none.
    pub(super) cookie: u64,
    /// When its timer fires; of a minisocket, when it ends.
    pub(super) expires: Duration,
    /// Bytes to be read, the peer's FIN counted as one; of a listener the length of its accept queue.
    pub(super) receive_queue: u32,
    /// Bytes not acknowledged; of a listener the limit of its accept queue.
    pub(super) send_queue: u32,
    /// Inode number; 0 if no file refers to it.
    pub(super) inode: u32,
    /// How long ago the peer last acknowledged anything; `None` if that was not asked for.
    pub(super) last_ack: Option<Duration>,
}

/// What in the kernel stands for the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A socket in LISTEN.
    Listener,
    /// Any other full socket.
    Full,
    /// A handshake that waits for its last ACK.
    Request,
    /// A TIME_WAIT minisocket.
    Waiting,
}

impl Row {
    /// Reads the payload of a message. `None` if it is no TCP socket over IP.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let (header, attributes) = Header::read_from_prefix(payload).ok()?;
        let Header { id, expires, receive_queue, send_queue, inode, .. } = header;
        let state = TcpState::from_kernel(header.state)?;
        let mut last_ack = None;
        let mut is_full = false;
        for attribute in NlasIterator::new(attributes).map_while(Result::ok) {
            match attribute.kind() {
                INET_DIAG_INFO => last_ack = millis_at(attribute.value(), TCPI_LAST_ACK_RECV),
                INET_DIAG_SHUTDOWN => is_full = true,
                _ => {}
            }
        }
        let kind = match state {
            _ if header.timer == TIMER_OF_WAITING => Kind::Waiting,
            TcpState::Listen => Kind::Listener,
            // Fast open has full sockets in SYN_RECV, and so has a simultaneous open.
            TcpState::SynRecv | TcpState::NewSynRecv if !is_full => Kind::Request,
            TcpState::SynRecv
            | TcpState::NewSynRecv
            | TcpState::Established
            | TcpState::SynSent
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::TimeWait
            | TcpState::Close
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Closing => Kind::Full,
        };
        Some(Self {
            kind,
            state,
            local: SocketAddr::new(address(header.family, id.source)?, id.source_port.get()),
            remote: SocketAddr::new(address(header.family, id.destination)?, id.destination_port.get()),
            cookie: u64::from(id.cookie[1]) << 32 | u64::from(id.cookie[0]),
            expires: Duration::from_millis(expires.into()),
            receive_queue,
            send_queue,
            inode,
            last_ack,
        })
    }
}

fn address(family: u8, bytes: [u8; 16]) -> Option<IpAddr> {
    match family {
        AF_INET => {
            let [a, b, c, d, ..] = bytes;
            Some(Ipv4Addr::new(a, b, c, d).into())
        }
        AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()),
        _ => None,
    }
}

/// The field of `struct tcp_info` at `offset`. Each kernel has its own length of it; fields never move.
fn millis_at(info: &[u8], offset: usize) -> Option<Duration> {
    let field = info.get(offset..)?.first_chunk()?;
    Some(Duration::from_millis(u32::from_ne_bytes(*field).into()))
}

/// `struct inet_diag_sockid`.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C, packed)]
pub(super) struct Id {
    source_port: U16<BigEndian>,
    destination_port: U16<BigEndian>,
    source: [u8; 16],
    destination: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_msg`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C, packed)]
struct Header {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: Id,
    expires: u32,
    receive_queue: u32,
    send_queue: u32,
    uid: u32,
    inode: u32,
}

/// linux/socket.h
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
/// linux/inet_diag.h
pub(super) const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_SHUTDOWN: u16 = 8;
/// Kernel: `inet_twsk_diag_fill`.
const TIMER_OF_WAITING: u8 = 3;
/// Offset of `tcpi_last_ack_recv` in `struct tcp_info` (linux/tcp.h).
const TCPI_LAST_ACK_RECV: usize = 56;
