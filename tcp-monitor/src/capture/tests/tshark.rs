//! The captures in `tests/captures`, and what tshark says of each packet in them.
//!
//! `tests/captures/record` recorded them with tcpdump, converted them with editcap and mergecap, generated what
//! neither of them writes, and had tshark print the fields (`tests/captures/judge`) that are expected here.

use std::{fs, net::IpAddr, path::Path};

use tcp_monitor_common::record::Direction;

use super::{read_all, recorded};
use crate::{
    capture::Packet,
    lifecycle::{
        TcpHeader, Time,
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
            let packet = &in_terms_of_tshark(packet, &path);
            assert_eq!(packet, expected, "{}", path.display());
        }
        assert_eq!(packets.len(), expected.len(), "{}: {statistics:?}", path.display());
        assert!(packets.len() >= 3, "{} says next to nothing", path.display());
    }
}

/// tshark counts the interfaces of each section from 0. The one capture here with two sections has three in each.
fn in_terms_of_tshark(packet: &Packet, path: &Path) -> Packet {
    let interfaces = if path.ends_with("sections.pcapng") { 3 } else { u32::MAX };
    Packet { interface: packet.interface % interfaces, ..*packet }
}

/// A line of tshark's. It does not say how much payload the first fragment has; that is taken over from `packets`.
fn parse(line: &str, packets: &[Packet]) -> Packet {
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
    let number = decimal(number).expect("every packet has one");
    let fragment = packets.iter().find(|packet| packet.number == number && payload_len.is_empty());
    let flags = hexadecimal(flags).expect("every segment has them");
    Packet {
        number,
        time: epoch(time),
        interface: decimal(interface).unwrap_or_default().try_into().expect("32 bits"),
        ifindex: decimal(ifindex).map(|index| index.try_into().expect("32 bits")),
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
                mss: decimal(mss).map(|_| port(mss)),
                window_scale: wscale.parse().ok(),
                sack_permitted: !sack.is_empty(),
                // Of one that was cut in two it prints the first half.
                timestamps: decimal(echo)
                    .map(|_| Timestamps { value: number32(value), echo: number32(echo) }),
            },
        },
        payload_len: fragment.map_or_else(|| number32(payload_len), |packet| packet.payload_len),
        fragmented: fragment.is_some(),
    }
}

fn decimal(field: &str) -> Option<u64> {
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
