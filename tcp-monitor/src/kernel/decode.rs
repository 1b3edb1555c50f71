//! Decodes records of the ring buffer to inputs of the tracker.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::{
    Direction, Header, Kind, ResetPhase, Role, SegmentRecord, SocketRecord, acks, flags, origin,
};
use thiserror::Error;
use zerocopy::FromBytes;

use crate::lifecycle::Time;
use crate::lifecycle::input::{
    Comm, Input, Process, ResetDirection, RetransmitKind, SegmentInput, SocketEvent, SocketInput, TcpSock,
};
use crate::lifecycle::segment::{BadHeader, Flags, TcpHeader};

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadRecord {
    /// Too short for its kind.
    #[error("a record of {0} bytes is too short for its kind")]
    Truncated(usize),
    /// No such kind of record.
    #[error("no kind of record has the number {0}")]
    Kind(u8),
    /// Neither 4 nor 6.
    #[error("no IP version {0}")]
    IpVersion(u8),
    /// No such TCP state.
    #[error("no TCP state has the number {0}")]
    State(u8),
    /// No such role.
    #[error("no role has the number {0}")]
    Role(u8),
    /// No such phase of a connection.
    #[error("no reset phase has the number {0}")]
    Phase(u8),
    /// No such direction.
    #[error("no direction has the number {0}")]
    Direction(u8),
    /// The segment's TCP header.
    #[error(transparent)]
    TcpHeader(#[from] BadHeader),
}

/// Decodes one record.
///
/// # Errors
/// If the bytes are too few, or hold a value that no kernel program of this version writes.
pub fn decode(bytes: &[u8]) -> Result<Input, BadRecord> {
    let header: Header = read(bytes)?;
    match numbered(Kind::ALL, header.kind).ok_or(BadRecord::Kind(header.kind))? {
        Kind::Segment => decode_segment(&read(bytes)?).map(Input::Segment),
        kind @ (Kind::State | Kind::Reset | Kind::Retransmit) => {
            decode_socket(&read(bytes)?, kind).map(Input::Socket)
        }
    }
}

fn decode_socket(record: &SocketRecord, kind: Kind) -> Result<SocketInput, BadRecord> {
    let Header { time, netns, ip_version, .. } = record.header;
    let has = |flag| record.flags & flag != 0;
    Ok(SocketInput {
        time: Time::from_nanos(time),
        netns,
        cookie: record.cookie,
        sk: record.sk,
        cgroup: record.cgroup,
        role: numbered(Role::ALL, record.role).ok_or(BadRecord::Role(record.role))?,
        local: SocketAddr::new(address(ip_version, record.local_addr)?, record.local_port),
        remote: SocketAddr::new(address(ip_version, record.remote_addr)?, record.remote_port),
        process: has(flags::PROCESS).then_some(Process { pid: record.pid, comm: Comm(record.comm) }),
        peer_closed: has(flags::PEER_CLOSED),
        orphan: has(flags::ORPHAN),
        tcp: has(flags::FULL_SOCKET).then_some(TcpSock {
            snd_nxt: record.snd_nxt,
            rcv_nxt: record.rcv_nxt,
            snd_una: record.snd_una,
            srtt_us: record.srtt_us,
            bytes_acked: record.bytes_acked,
            bytes_received: record.bytes_received,
            total_retrans: record.total_retrans,
            sk_err: record.sk_err,
        }),
        kind: decode_event(record, kind)?,
    })
}

fn decode_event(record: &SocketRecord, kind: Kind) -> Result<SocketEvent, BadRecord> {
    let has = |flag| record.flags & flag != 0;
    Ok(match kind {
        Kind::State => SocketEvent::State { from: state(record.old_state)?, to: state(record.new_state)? },
        Kind::Reset => SocketEvent::Reset {
            direction: if has(flags::SENT) { ResetDirection::Sent } else { ResetDirection::Received },
            phase: numbered(ResetPhase::ALL, record.phase).ok_or(BadRecord::Phase(record.phase))?,
            reason: record.reason,
            state: TcpState::from_kernel(record.old_state),
        },
        // The record of a SYN-ACK has the state of the listener; the request is in SYN_RECV.
        Kind::Retransmit if has(flags::SYN_ACK) => {
            SocketEvent::Retransmit { kind: RetransmitKind::SynAck, state: TcpState::SynRecv }
        }
        Kind::Retransmit => SocketEvent::Retransmit {
            kind: retransmit_kind(Flags::from_low_byte(record.tcp_flags)),
            state: state(record.old_state)?,
        },
        Kind::Segment => return Err(BadRecord::Kind(kind as u8)),
    })
}

fn retransmit_kind(flags: Flags) -> RetransmitKind {
    if flags.contains(Flags::SYN.union(Flags::ACK)) {
        RetransmitKind::SynAck
    } else if flags.contains(Flags::SYN) {
        RetransmitKind::Syn
    } else if flags.contains(Flags::FIN) {
        RetransmitKind::Fin
    } else {
        RetransmitKind::Data
    }
}

fn decode_segment(record: &SegmentRecord) -> Result<SegmentInput, BadRecord> {
    let Header { time, netns, ip_version, .. } = record.header;
    // A length past the end means the end; the data offset shows whether the header is whole.
    let len = record.tcp_header.len().min(record.tcp_header_len.into());
    let header = TcpHeader::parse(&record.tcp_header[..len])?;
    Ok(SegmentInput {
        time: Time::from_nanos(time),
        netns,
        ifindex: record.ifindex,
        direction: Some(
            numbered(Direction::ALL, record.direction).ok_or(BadRecord::Direction(record.direction))?,
        ),
        src: SocketAddr::new(address(ip_version, record.src_addr)?, header.src_port),
        dst: SocketAddr::new(address(ip_version, record.dst_addr)?, header.dst_port),
        header,
        payload_len: record.payload_len,
        acks_syn_ack: record.acks & acks::SYN_ACK != 0,
        acks_fin: record.acks & acks::FIN != 0,
        syn_cookie: record.origin & origin::SYN_COOKIE != 0,
        frame: None,
    })
}

fn read<T: FromBytes>(bytes: &[u8]) -> Result<T, BadRecord> {
    T::read_from_prefix(bytes).map(|(record, _)| record).map_err(|_| BadRecord::Truncated(bytes.len()))
}

/// The value with this number, of an enum whose values are numbered from 0.
fn numbered<T: Copy, const N: usize>(all: [T; N], number: u8) -> Option<T> {
    all.get(usize::from(number)).copied()
}

fn state(number: u8) -> Result<TcpState, BadRecord> {
    TcpState::from_kernel(number).ok_or(BadRecord::State(number))
}

fn address(ip_version: u8, bytes: [u8; 16]) -> Result<IpAddr, BadRecord> {
    match ip_version {
        4 => Ok(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        6 => Ok(Ipv6Addr::from(bytes).to_canonical()),
        _ => Err(BadRecord::IpVersion(ip_version)),
    }
}

#[cfg(test)]
mod tests {
    use tcp_monitor_common::TcpState;
    use tcp_monitor_common::record::{
        Header, Kind, MAX_TCP_HEADER, Role, SegmentRecord, SocketRecord, flags,
    };
    use zerocopy::IntoBytes;

    use super::{BadRecord, decode};
    use crate::lifecycle::Input;
    use crate::lifecycle::input::{RetransmitKind, SocketEvent};
    use crate::lifecycle::segment::BadHeader;

    fn socket_record(kind: Kind) -> SocketRecord {
        SocketRecord {
            header: Header { time: 5, netns: 7, kind: kind as u8, ip_version: 6, reserved: [0; 2] },
            local_addr: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 9],
            remote_addr: [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            local_port: 8899,
            remote_port: 51920,
            role: Role::Client as u8,
            old_state: TcpState::SynSent as u8,
            new_state: TcpState::Established as u8,
            flags: flags::FULL_SOCKET | flags::PROCESS,
            pid: 812,
            comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
            snd_nxt: 1,
            sk_err: 104,
            ..SocketRecord::default()
        }
    }

    fn segment_record() -> SegmentRecord {
        let mut tcp_header = [0; MAX_TCP_HEADER];
        tcp_header[..4].copy_from_slice(&[0xca, 0xd0, 0x22, 0xc3]);
        tcp_header[12] = 0x50;
        SegmentRecord {
            header: Header { time: 5, netns: 7, kind: Kind::Segment as u8, ip_version: 4, reserved: [0; 2] },
            ifindex: 2,
            payload_len: 0,
            src_addr: [10, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            dst_addr: [10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            direction: 1,
            acks: 1,
            tcp_header_len: 20,
            origin: 0,
            tcp_header,
        }
    }

    #[test]
    fn every_field_of_a_socket_record_is_decoded() {
        let Ok(Input::Socket(input)) = decode(socket_record(Kind::State).as_bytes()) else {
            panic!("a good record is refused");
        };
        assert_eq!(input.time.as_nanos(), 5);
        assert_eq!(input.local.to_string(), "10.0.0.9:8899", "v4-mapped is IPv4");
        assert_eq!(input.remote.to_string(), "[2001:db8::1]:51920");
        assert_eq!(input.kind, SocketEvent::State { from: TcpState::SynSent, to: TcpState::Established });
        assert_eq!(input.process.map(|process| process.comm.to_text().into_owned()), Some("nginx".into()));
        assert_eq!(input.tcp.map(|tcp| (tcp.snd_nxt, tcp.sk_err)), Some((1, 104)));
    }

    #[test]
    fn a_segment_record_has_its_ports_from_the_tcp_header() {
        let Ok(Input::Segment(segment)) = decode(segment_record().as_bytes()) else {
            panic!("a good record is refused");
        };
        assert_eq!((segment.src.to_string(), segment.dst.port()), ("10.0.0.5:51920".into(), 8899));
        assert!(segment.acks_syn_ack && !segment.acks_fin);
    }

    #[test]
    fn a_retransmission_is_named_by_what_it_carried() {
        let kind_of = |tcp_flags, flags| {
            let record = SocketRecord { tcp_flags, flags, ..socket_record(Kind::Retransmit) };
            let Ok(Input::Socket(input)) = decode(record.as_bytes()) else {
                panic!("a good record is refused");
            };
            let SocketEvent::Retransmit { kind, state } = input.kind else {
                panic!("{:?} is no retransmission", input.kind);
            };
            (kind, state)
        };
        assert_eq!(kind_of(0x02, 0), (RetransmitKind::Syn, TcpState::SynSent));
        assert_eq!(kind_of(0x12, 0), (RetransmitKind::SynAck, TcpState::SynSent));
        assert_eq!(kind_of(0x19, 0), (RetransmitKind::Fin, TcpState::SynSent));
        assert_eq!(kind_of(0x18, 0), (RetransmitKind::Data, TcpState::SynSent));
        assert_eq!(kind_of(0, flags::SYN_ACK), (RetransmitKind::SynAck, TcpState::SynRecv));
    }

    #[test]
    fn bad_records_are_refused_with_the_reason() {
        let refusal = |record: &[u8]| decode(record).expect_err("a bad record is accepted");
        let good = socket_record(Kind::State);
        let with_header = |header| SocketRecord { header, ..good };
        assert_eq!(refusal(&[]), BadRecord::Truncated(0));
        assert_eq!(refusal(&good.as_bytes()[..40]), BadRecord::Truncated(40));
        assert_eq!(refusal(with_header(Header { kind: 4, ..good.header }).as_bytes()), BadRecord::Kind(4));
        let header = Header { ip_version: 5, ..good.header };
        assert_eq!(refusal(with_header(header).as_bytes()), BadRecord::IpVersion(5));
        assert_eq!(refusal(SocketRecord { new_state: 13, ..good }.as_bytes()), BadRecord::State(13));
        assert_eq!(refusal(SocketRecord { role: 2, ..good }.as_bytes()), BadRecord::Role(2));
        let reset = SocketRecord { phase: 5, ..socket_record(Kind::Reset) };
        assert_eq!(refusal(reset.as_bytes()), BadRecord::Phase(5));
        let segment = segment_record();
        assert_eq!(refusal(SegmentRecord { direction: 2, ..segment }.as_bytes()), BadRecord::Direction(2));
        assert_eq!(refusal(&segment.as_bytes()[..119]), BadRecord::Truncated(119));
        assert_eq!(
            refusal(SegmentRecord { tcp_header_len: 3, ..segment }.as_bytes()),
            BadRecord::TcpHeader(BadHeader::Truncated { len: 3 })
        );
    }
}
