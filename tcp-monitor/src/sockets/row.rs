//! A row of a dump (linux/inet_diag.h: `struct inet_diag_msg` and attributes): one socket as it is
//! now.

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
    /// Of a timewait socket its substate: FIN_WAIT2 or TIME_WAIT. A request socket is in SYN_RECV.
    pub(super) state: TcpState,
    /// A v4-mapped address is given as IPv4, here and in `remote`.
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// Its identity in the network namespace. The kernel assigns it now if it had none.
    pub(super) cookie: u64,
    /// When its timer fires; of a timewait socket, when it ends.
    pub(super) expires: Duration,
    /// Bytes to be read, the peer's FIN counted as one; of a listener the length of its accept
    /// queue.
    pub(super) receive_queue: u32,
    /// Bytes not acknowledged; of a listener the limit of its accept queue.
    pub(super) send_queue: u32,
    /// Inode number; 0 if no file refers to it.
    pub(super) inode: u32,
    /// How long ago the peer last acknowledged anything; `None` if that was not asked for.
    pub(super) last_ack: Option<Duration>,
}

/// The kernel's structure behind a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A socket in LISTEN.
    Listener,
    /// Any other full socket.
    Full,
    /// A request socket: half-open, it waits for the handshake ACK.
    Request,
    /// A timewait socket.
    TimeWait,
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
            _ if header.timer == TIMER_OF_TIMEWAIT => Kind::TimeWait,
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

/// The field of `struct tcp_info` at `offset`. Each kernel has its own length of it; fields never
/// move.
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
const TIMER_OF_TIMEWAIT: u8 = 3;
/// Offset of `tcpi_last_ack_recv` in `struct tcp_info` (linux/tcp.h).
const TCPI_LAST_ACK_RECV: usize = 56;

#[cfg(test)]
mod tests {
    use super::{Duration, Kind, Row, TcpState};

    /// What Linux 6.18 answered, in hexadecimal.
    const LISTENER: &str = "\
        0a0a000022c30000000000000000000000000000000000000000000000000000000000000000000000000000af021b000000\
        0000000000000000000002000000000000003924a000050008000000000005000b000000000008000f00000000000c001500\
        01000000000000000600160012000000";
    const ESTABLISHED: &str = "\
        02010000af2622c37f0000010000000000000000000000007f00000100000000000000000000000000000000ad021b000000\
        0000000000000000000000000000000000003a24a000050008000000000008000f00000000000c0015000100000000000000\
        0600160052000000";
    const MAPPED: &str = "\
        0a01000022c3af2600000000000000000000ffff7f00000100000000000000000000ffff7f00000100000000b1021b000000\
        0000000000000000000000000000000000003b24a000050008000000000008000f00000000000c0015000100000000000000\
        0600160012000000";
    const REQUEST: &str = "\
        0a03010022c39c4000000000000000000000ffff0a09090100000000000000000000ffff0a08010100000000b2021b000000\
        00001c0300000000000000000000000000000000000008000f0000000000";
    const TIME_WAIT: &str = "\
        02060300af3622c37f0000010000000000000000000000007f00000100000000000000000000000000000000ae021b000000\
        000094e900000000000000000000000000000000000008000f0000000000";
    const FIN_WAIT2: &str = "\
        0a05030097c822c3000000000000000000000000000000010000000000000000000000000000000100000000b0021b000000\
        0000c0e900000000000000000000000000000000000008000f0000000000";
    const CLOSE_WAIT: &str = "\
        0a08000022c397c8000000000000000000000000000000010000000000000000000000000000000100000000b3021b000000\
        0000000000000600000000000000000000003d24a000050008000100000008000f00000000000c0015000100000000000000\
        06001600120000001c010200080000000007aa01e01c0300409c000000800000180200000000000000000000000000000000\
        000000000000cc00000000000000cc000000cc00000000000100b8ff00000800000004000000ffffff7f0a000000b8ff0000\
        0300000000000000b8ff000000000000003a2d411b000000ffffffffffffffff000000000000000006000000000000000200\
        0000040000000000000008000000010000000000000000000000000000000000000000000000000000000000000000000000\
        0000000001000000000000000000000000000000000000000000000000000000000000000000000000000100000001000000\
        000000000000000000000000000000000000000000000000000000000000000000000000000000000000";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<_> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| u8::try_from(16 * pair[0] + pair[1]).expect("two digits")).collect()
    }

    fn row(hex: &str) -> Row {
        Row::parse(&bytes(hex)).expect("a row")
    }

    fn ends(row: &Row) -> String {
        format!("{} {}", row.local, row.remote)
    }

    #[test]
    fn a_listener_shows_its_accept_queue() {
        let row = row(LISTENER);
        assert_eq!(
            (row.kind, row.state, ends(&row)),
            (Kind::Listener, TcpState::Listen, "[::]:8899 [::]:0".into())
        );
        assert_eq!((row.receive_queue, row.send_queue, row.inode), (0, 2, 0xa0_2439));
    }

    #[test]
    fn a_connection_has_a_cookie_and_an_inode_number() {
        let row = row(ESTABLISHED);
        assert_eq!((row.kind, row.state), (Kind::Full, TcpState::Established));
        assert_eq!(ends(&row), "127.0.0.1:44838 127.0.0.1:8899");
        assert_eq!((row.cookie, row.inode, row.last_ack), (0x1b_02ad, 0xa0_243a, None));
    }

    #[test]
    fn a_mapped_address_is_an_ipv4_address() {
        assert_eq!(ends(&row(MAPPED)), "127.0.0.1:8899 127.0.0.1:44838");
    }

    #[test]
    fn a_request_socket_is_no_full_socket_in_syn_recv() {
        let request = row(REQUEST);
        assert_eq!((request.kind, request.state, request.inode), (Kind::Request, TcpState::SynRecv, 0));
        assert_eq!(ends(&request), "10.9.9.1:8899 10.8.1.1:40000");
        // One of fast open: only full sockets have these attributes.
        let mut full = bytes(ESTABLISHED);
        full[1] = TcpState::SynRecv as u8;
        assert_eq!(Row::parse(&full).map(|row| row.kind), Some(Kind::Full));
    }

    #[test]
    fn a_timewait_socket_shows_its_substate_and_how_long_it_lasts() {
        let time_wait = row(TIME_WAIT);
        assert_eq!((time_wait.kind, time_wait.state), (Kind::TimeWait, TcpState::TimeWait));
        assert_eq!(time_wait.expires, Duration::from_millis(59_796));
        let fin_wait2 = row(FIN_WAIT2);
        assert_eq!((fin_wait2.kind, fin_wait2.state), (Kind::TimeWait, TcpState::FinWait2));
    }

    #[test]
    fn the_last_acknowledgment_is_read_from_a_tcp_info_of_any_length() {
        let mut whole = bytes(CLOSE_WAIT);
        assert_eq!(row(CLOSE_WAIT).last_ack, Some(Duration::from_millis(204)));
        // The attribute begins after 72 bytes of header and 36 of others, with its length.
        for (length, expected) in [(4 + 60, Some(204)), (4 + 59, None), (4, None)] {
            whole[108] = length;
            whole[109] = 0;
            let row = Row::parse(&whole).expect("a row");
            assert_eq!((row.kind, row.receive_queue), (Kind::Full, 6));
            assert_eq!(row.last_ack.map(|ago| ago.as_millis()), expected, "{length} bytes");
        }
    }

    #[test]
    fn only_a_tcp_socket_over_ip_is_a_row() {
        let whole = bytes(ESTABLISHED);
        for (place, value) in [(0, 1), (0, 11), (1, 0), (1, 13), (1, 255)] {
            let mut other = whole.clone();
            other[place] = value;
            assert_eq!(Row::parse(&other), None, "{value} at {place}");
        }
        for length in 0..72 {
            assert_eq!(Row::parse(&whole[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn damaged_rows_never_panic() {
        for hex in [LISTENER, ESTABLISHED, REQUEST, TIME_WAIT, CLOSE_WAIT] {
            let whole = bytes(hex);
            for length in 0..whole.len() {
                let _ = Row::parse(&whole[..length]);
            }
            for place in 0..whole.len() {
                for value in [0, 1, 3, 5, 0x7f, 0xff] {
                    let mut damaged = whole.clone();
                    damaged[place] = value;
                    let _ = Row::parse(&damaged);
                }
            }
        }
    }
}
