//! Link-layer, IP and TCP headers: how they lead to a segment, and how they do not.

use std::net::SocketAddr;

use tcp_monitor_common::record::Direction;

use super::{
    build::{Bytes, MICROSECONDS, ethernet, ipv4, ipv6, len, pcap, pcap_of, record, tcp},
    read_all,
};
use crate::{
    capture::{
        Statistics,
        fields::ByteOrder::{Big, Little},
        reader::FILE_INTERFACES,
    },
    lifecycle::{SegmentInput, segment::Timestamps},
};

/// The one packet of a file, captured whole.
fn packet(link: u32, bytes: &[u8]) -> Result<SegmentInput, Statistics> {
    let (packets, statistics, error) = read_all(&pcap_of(link, bytes));
    assert!(error.is_none(), "{error:?}");
    assert_eq!(statistics.packets, 1);
    packets.first().copied().ok_or(statistics)
}

/// As [`packet`], of which only `captured` bytes were kept.
fn snapped(bytes: &[u8], captured: usize) -> Result<SegmentInput, Statistics> {
    let file =
        [pcap(Little, MICROSECONDS, 101), record(Little, 1, 0, len(bytes), &bytes[..captured])].concat();
    let (packets, statistics, _) = read_all(&file);
    packets.first().copied().ok_or(statistics)
}

fn not_tcp() -> Statistics {
    Statistics { packets: 1, not_tcp: 1, ..Statistics::default() }
}

fn malformed() -> Statistics {
    Statistics { packets: 1, malformed: 1, ..Statistics::default() }
}

fn truncated() -> Statistics {
    Statistics { packets: 1, truncated: 1, ..Statistics::default() }
}

fn later_fragment() -> Statistics {
    Statistics { packets: 1, later_fragments: 1, ..Statistics::default() }
}

#[test]
fn every_link_type_leads_to_the_segment() {
    let (v4, v6) = (ipv4(&tcp(b"hello")), ipv6(6, &tcp(b"hello")));
    let family = |order, family| Bytes::new(order).u32(family).bytes;
    let cases = [
        (1, ethernet(&[0x0800], &[]), &v4),
        (1, ethernet(&[0x8100, 0x86dd], &[]), &v6),
        (1, ethernet(&[0x88a8, 0x8100, 0x0800], &[]), &v4),
        (1, ethernet(&[0x9100, 0x8100, 0x86dd], &[]), &v6),
        (0, family(Little, 2), &v4),
        (0, family(Big, 30), &v6),
        (108, family(Big, 24), &v6),
        (108, family(Little, 28), &v6),
        (12, Vec::new(), &v4),
        (14, Vec::new(), &v6),
        (101, Vec::new(), &v4),
        (228, Vec::new(), &v4),
        (229, Vec::new(), &v6),
        (113, [&[0; 14][..], &[0x86, 0xdd]].concat(), &v6),
        (113, [&[0; 14][..], &[0x81, 0, 0, 7, 0x08, 0]].concat(), &v4),
        (276, [&[0x08, 0][..], &[0; 18]].concat(), &v4),
        (276, [&[0x81, 0][..], &[0; 18], &[0, 7, 0x86, 0xdd]].concat(), &v6),
        // The length of frame check sequences is in the upper half.
        (0x2400_0001, ethernet(&[0x0800], &[]), &v4),
    ];
    for (link, header, ip) in cases {
        let found = packet(link, &[&header[..], &ip[..]].concat()).expect("a segment is there");
        let (src, dst) = if ip.len() == v4.len() {
            ("10.0.0.5:51920", "10.0.0.9:8899")
        } else {
            ("[fd00::5]:51920", "[fd00::9]:8899")
        };
        assert_eq!((found.src.to_string(), found.dst.to_string()), (src.into(), dst.into()), "{link}");
        assert_eq!((found.header.seq, found.payload_len), (303_235_690, 5), "{link}");
    }
}

#[test]
fn cooked_captures_name_direction_and_interface() {
    for (kind, direction) in [
        (0, Some(Direction::Ingress)),
        (3, Some(Direction::Ingress)),
        (4, Some(Direction::Egress)),
        (7, None),
    ] {
        let v1 = Bytes::new(Big).u16(kind).raw(&[0; 12]).u16(0x0800).raw(&ipv4(&tcp(b""))).bytes;
        let found = packet(113, &v1).expect("a segment is there");
        assert_eq!((found.direction, found.ifindex), (direction, FILE_INTERFACES));
        let v2 =
            Bytes::new(Big).u16(0x0800).u16(0).u32(70_000).u16(1).raw(&kind.to_be_bytes()[1..]).raw(&[0; 9]);
        let found = packet(276, &v2.raw(&ipv4(&tcp(b""))).bytes).expect("a segment is there");
        assert_eq!((found.direction, found.ifindex), (direction, 70_000));
    }
}

#[test]
fn padding_is_not_payload() {
    let mut frame = ethernet(&[0x0800], &ipv4(&tcp(b"")));
    frame.extend([0; 20]);
    assert_eq!(packet(1, &frame).map(|packet| packet.payload_len), Ok(0));
}

#[test]
fn an_ip_header_cannot_claim_more_than_there_was_on_the_wire() {
    let mut ip = ipv4(&tcp(b"hello"));
    ip[2] = 0xff;
    assert_eq!(packet(101, &ip).map(|packet| packet.payload_len), Ok(5));
}

#[test]
fn other_protocols_are_no_error() {
    let mut udp = ipv4(&tcp(b""));
    udp[9] = 17;
    for (link, bytes) in [
        (101, udp),
        (101, ipv6(58, &[0; 8])),
        (101, ipv6(59, &[])),
        (101, ipv6(50, &[0; 30])),
        (1, ethernet(&[0x0806], &[0; 46])),
        (1, ethernet(&[0x8100; 10], &[0; 46])),
        (1, ethernet(&[38], &[0; 38])),
        (0, [&[9, 9, 0, 0][..], &ipv4(&tcp(b""))].concat()),
        (113, [0; 40].into()),
    ] {
        assert_eq!(packet(link, &bytes), Err(not_tcp()), "{link} {bytes:?}");
    }
}

#[test]
fn extension_headers_are_passed_up_to_a_limit() {
    let chain = |headers: &[(u8, usize)]| {
        let mut payload = Vec::new();
        for (i, (kind, len)) in headers.iter().enumerate() {
            let next = headers.get(i + 1).map_or(6, |(kind, _)| *kind);
            let units = if *kind == 51 { len / 4 - 2 } else { len / 8 - 1 };
            payload.extend([next, u8::try_from(units).expect("short")]);
            payload.resize(payload.len() + len - 2, 0);
        }
        payload.extend(tcp(b"four"));
        ipv6(headers[0].0, &payload)
    };
    for headers in [
        &[(0, 8)][..],
        &[(0, 8), (60, 24), (43, 2048), (51, 24), (60, 8)],
        &[(135, 8), (139, 40), (140, 8)],
        &[(60, 8); 8],
    ] {
        assert_eq!(packet(101, &chain(headers)).map(|packet| packet.payload_len), Ok(4), "{headers:?}");
    }
    assert_eq!(packet(101, &chain(&[(60, 8); 9])), Err(malformed()));
}

#[test]
fn of_fragments_the_first_one_counts() {
    let mut v4 = ipv4(&tcp(b"some"));
    v4[6] = 0x20;
    let found = packet(101, &v4).expect("the header is in the first fragment");
    assert_eq!(found.payload_len, 4);
    v4[7] = 1;
    assert_eq!(packet(101, &v4), Err(later_fragment()));

    let v6 = |next, offset: u16| {
        ipv6(44, &[&[next, 0][..], &offset.to_be_bytes(), &[0, 0, 0, 9], &tcp(b"some")].concat())
    };
    let payload_len = |offset| packet(101, &v6(6, offset)).map(|packet| packet.payload_len);
    assert_eq!(payload_len(1), Ok(4));
    assert_eq!(payload_len(0), Ok(4), "an atomic fragment is the whole packet (RFC 6946)");
    assert_eq!(payload_len(8), Err(later_fragment()));
    assert_eq!(packet(101, &v6(17, 8)), Err(not_tcp()));
}

#[test]
fn a_length_of_zero_means_that_of_the_packet() {
    let (mut v4, mut v6) = (ipv4(&tcp(&[7; 999])), ipv6(6, &tcp(&[7; 999])));
    v4[2..4].fill(0);
    v6[4..6].fill(0);
    assert_eq!(packet(101, &v4).map(|packet| packet.payload_len), Ok(999));
    assert_eq!(packet(101, &v6).map(|packet| packet.payload_len), Ok(999));

    // Much of a BIG TCP packet, and little of it captured.
    let file =
        [pcap(Little, MICROSECONDS, 1), record(Little, 1, 0, 190_074, &ethernet(&[0x0800], &v4)[..100])]
            .concat();
    assert_eq!(read_all(&file).0.first().map(|packet| packet.payload_len), Some(190_000));
}

#[test]
fn a_short_snap_length_keeps_what_there_is() {
    for ip in [ipv4(&tcp(b"some payload")), ipv6(6, &tcp(b"some payload"))] {
        let tcp_at = ip.len() - 52;
        for captured in 0..=ip.len() {
            let found = snapped(&ip, captured);
            let Some(options) = captured.checked_sub(tcp_at + 20) else {
                assert_eq!(found, Err(truncated()), "{captured} bytes");
                continue;
            };
            let found = found.expect("the fixed header is there");
            assert_eq!((found.payload_len, found.header.header_len), (12, 40));
            let options_found = found.header.options;
            assert_eq!(options_found.mss, (options >= 4).then_some(1460));
            assert_eq!(options_found.sack_permitted, options >= 8, "in words of four bytes");
            assert_eq!(
                options_found.timestamps,
                (options >= 16).then_some(Timestamps { value: 0x0102_0304, echo: 0 })
            );
            assert_eq!(options_found.window_scale, (options >= 20).then_some(7));
        }
    }
}

#[test]
fn lengths_that_contradict_each_other_are_malformed() {
    let (v4, v6) = (ipv4(&tcp(b"")), ipv6(6, &tcp(b"")));
    let with = |ip: &[u8], at: usize, byte: u8| {
        let mut ip = ip.to_vec();
        ip[at] = byte;
        packet(101, &ip)
    };
    for (ip, at, byte, what) in [
        (&v4, 0, 0x44, "an IPv4 header shorter than 20 bytes"),
        (&v4, 0, 0x4f, "IPv4 options where the TCP header was"),
        (&v4, 0, 0x55, "IP version 5"),
        (&v4, 3, 19, "a total length shorter than the header"),
        (&v4, 3, 39, "no room for a TCP header"),
        (&v4, 3, 59, "no room for the TCP options"),
        (&v4, 20 + 12, 0x40, "a TCP header shorter than 20 bytes"),
        (&v4, 20 + 12, 0xf0, "a TCP header longer than the packet"),
        (&v6, 5, 19, "no room for a TCP header"),
        (&v6, 5, 39, "no room for the TCP options"),
    ] {
        let is_malformed = with(ip, at, byte).is_err_and(|statistics| statistics == malformed());
        assert!(is_malformed, "{what}: {:?}", with(ip, at, byte));
    }
    assert_eq!(packet(101, &[]), Err(malformed()));
    assert_eq!(packet(1, &[0; 13]), Err(malformed()));
    assert_eq!(packet(276, &[8; 19]), Err(malformed()));
}

#[test]
fn a_mapped_address_is_given_as_ipv4() {
    let mut ip = ipv6(6, &tcp(b""));
    ip[8..24].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 5]);
    assert_eq!(packet(101, &ip).map(|packet| packet.src), Ok(SocketAddr::from(([10, 0, 0, 5], 51920))));
}
