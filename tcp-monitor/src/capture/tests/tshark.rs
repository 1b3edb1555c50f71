//! The captures in `tests/captures`, compared with the fields that tshark prints of each packet.
//!
//! `tests/captures/record` recorded them with tcpdump, converted them with editcap and mergecap,
//! generated what neither of them writes, and had tshark print the fields (`tests/captures/judge`)
//! that are expected here.

use std::{fmt::Debug, fs, net::IpAddr, num::NonZeroU64, path::Path, str::FromStr};

use tcp_monitor_common::record::Direction;

use super::{read_all, recorded};
use crate::{
    capture::reader::FILE_INTERFACES,
    lifecycle::{
        SegmentInput, TcpHeader, Time,
        segment::{Flags, Options, Timestamps},
    },
};

#[test]
fn tshark_agrees_on_every_packet_of_every_capture() {
    for (path, bytes) in recorded() {
        let (packets, statistics, error) = read_all(&bytes);
        assert!(error.is_none(), "{}: {error:?}", path.display());
        let table = fs::read_to_string(format!("{}.tsv", path.display())).expect("checked in beside it");
        let expected: Vec<_> = table.lines().map(|line| parse(line, &packets)).collect();
        for (packet, expected) in packets.iter().zip(&expected) {
            let packet = in_terms_of_tshark(packet, &path);
            assert_eq!(packet, *expected, "{}", path.display());
        }
        assert_eq!(packets.len(), expected.len(), "{}: {statistics:?}", path.display());
        assert!(packets.len() >= 3, "{} says next to nothing", path.display());
    }
}

/// tshark counts the interfaces of each section from 0. The one capture here with two sections has
/// three in each.
fn in_terms_of_tshark(packet: &SegmentInput, path: &Path) -> SegmentInput {
    let ifindex = match packet.ifindex.checked_sub(FILE_INTERFACES) {
        Some(interface) if path.ends_with("sections.pcapng") => FILE_INTERFACES + interface % 3,
        Some(_) | None => packet.ifindex,
    };
    SegmentInput { ifindex, ..*packet }
}

/// A line of tshark's. It does not have the payload length of a first fragment, which is copied
/// from `packets`.
fn parse(line: &str, packets: &[SegmentInput]) -> SegmentInput {
    let fields: Vec<_> = line.split('\t').collect();
    let &[
        number,
        time,
        interface,
        ifindex,
        packet_type,
        direction,
        src4,
        src6,
        dst4,
        dst6,
        src_port,
        dst_port,
        seq,
        ack,
        flags,
        window,
        checksum,
        urgent,
        header_len,
        payload_len,
        mss,
        wscale,
        sack,
        value,
        echo,
    ] = fields.as_slice()
    else {
        panic!("{} fields: {line}", fields.len())
    };
    let frame = decimal(number).and_then(NonZeroU64::new);
    let fragment = packets.iter().find(|packet| packet.frame == frame && payload_len.is_empty());
    let flags = hexadecimal(flags).expect("every segment has them");
    let number_of_interface = || FILE_INTERFACES + decimal::<u32>(interface).unwrap_or_default();
    SegmentInput {
        time: epoch(time),
        netns: 0,
        ifindex: decimal(ifindex).unwrap_or_else(number_of_interface),
        direction: match (packet_type, direction) {
            ("4", _) | (_, "0x00000002") => Some(Direction::Egress),
            ("0" | "1" | "2" | "3", _) | (_, "0x00000001") => Some(Direction::Ingress),
            _ => None,
        },
        src: (address(src4, src6), port(src_port)).into(),
        dst: (address(dst4, dst6), port(dst_port)).into(),
        header: TcpHeader {
            src_port: port(src_port),
            dst_port: port(dst_port),
            seq: number32(seq),
            ack: number32(ack),
            flags: FLAGS
                .into_iter()
                .enumerate()
                .filter(|(bit, _)| flags >> bit & 1 == 1)
                .fold(Flags::default(), |all, (_, flag)| all.union(flag)),
            window: port(window),
            checksum: hexadecimal(checksum).and_then(|sum| sum.try_into().ok()).expect("16 bits"),
            urgent: port(urgent),
            header_len: header_len.parse().expect("8 bits"),
            options: Options {
                mss: decimal(mss),
                window_scale: wscale.parse().ok(),
                sack_permitted: !sack.is_empty(),
                // Of one that was cut in two it prints the first half.
                timestamps: decimal(echo).map(|echo| Timestamps { value: number32(value), echo }),
            },
        },
        payload_len: fragment.map_or_else(|| number32(payload_len), |packet| packet.payload_len),
        acks_syn_ack: false,
        acks_fin: false,
        syn_cookie: false,
        frame,
    }
}

fn decimal<N: FromStr<Err: Debug>>(field: &str) -> Option<N> {
    (!field.is_empty()).then(|| field.parse().expect("a number"))
}

fn number32(field: &str) -> u32 {
    field.parse().expect("32 bits")
}

fn port(field: &str) -> u16 {
    field.parse().expect("16 bits")
}

fn hexadecimal(field: &str) -> Option<u64> {
    u64::from_str_radix(field.strip_prefix("0x")?, 16).ok()
}

fn address(v4: &str, v6: &str) -> IpAddr {
    [v4, v6].concat().parse().expect("one of the two")
}

/// Seconds with nine decimals; without any, the packet has no time.
fn epoch(field: &str) -> Time {
    let nanos: String = field.chars().filter(char::is_ascii_digit).collect();
    Time::from_nanos(decimal(&nanos).unwrap_or_default())
}

/// Low bit first.
const FLAGS: [Flags; 9] = [
    Flags::FIN,
    Flags::SYN,
    Flags::RST,
    Flags::PSH,
    Flags::ACK,
    Flags::URG,
    Flags::ECE,
    Flags::CWR,
    Flags::NS,
];
