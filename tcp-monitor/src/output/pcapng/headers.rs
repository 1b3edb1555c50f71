//! The headers of a recorded segment: its TCP header, after an IP header rebuilt from the
//! addresses.
//!
//! Of the IP header only the addresses were recorded, and the length follows from the segment. The
//! rest is what a Linux host sends: no traffic class, identification 0 with "don't fragment", 64
//! hops left.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::lifecycle::TcpHeader;
use crate::lifecycle::event::Segment;
use crate::lifecycle::segment::Options;

/// The headers of a packet, and how long it was with its payload.
pub(super) struct Headers {
    /// From the IP header to the end of the TCP header.
    pub(super) bytes: Vec<u8>,
    /// Bytes on the wire.
    pub(super) original_len: u32,
}

impl Headers {
    pub(super) fn of(segment: &Segment) -> Self {
        let tcp = tcp_header(&segment.header);
        let tcp_len = len(&tcp).saturating_add(segment.payload_len);
        let mut bytes = match (segment.src.ip(), segment.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4_header(src, dst, tcp_len).to_vec(),
            (src, dst) => ipv6_header(v6(src), v6(dst), tcp_len).to_vec(),
        };
        let original_len = len(&bytes).saturating_add(tcp_len);
        bytes.extend(tcp);
        Self { bytes, original_len }
    }
}

fn ipv4_header(src: Ipv4Addr, dst: Ipv4Addr, payload_len: u32) -> [u8; IPV4_HEADER] {
    let mut header = [0; IPV4_HEADER];
    header[0] = 4 << 4 | (IPV4_HEADER / 4) as u8;
    // The kernel writes 0 where the field is too short (BIG TCP), and Wireshark reads it so.
    let total = payload_len.saturating_add(IPV4_HEADER as u32);
    header[2..4].copy_from_slice(&u16::try_from(total).unwrap_or(0).to_be_bytes());
    header[6] = DONT_FRAGMENT;
    header[8] = HOPS;
    header[9] = TCP;
    header[12..16].copy_from_slice(&src.octets());
    header[16..20].copy_from_slice(&dst.octets());
    let sum = internet_checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    header
}

fn ipv6_header(src: Ipv6Addr, dst: Ipv6Addr, payload_len: u32) -> [u8; IPV6_HEADER] {
    let mut header = [0; IPV6_HEADER];
    header[0] = 6 << 4;
    header[4..6].copy_from_slice(&u16::try_from(payload_len).unwrap_or(0).to_be_bytes());
    header[6] = TCP;
    header[7] = HOPS;
    header[8..24].copy_from_slice(&src.octets());
    header[24..40].copy_from_slice(&dst.octets());
    header
}

/// A header of the recorded length. In place of options that were not recorded, it ends in zeros:
/// "end of options".
fn tcp_header(header: &TcpHeader) -> Vec<u8> {
    let len = usize::from(header.header_len / 4 * 4).clamp(MIN_TCP_HEADER, MAX_TCP_HEADER);
    let [flags_high, flags_low] = header.flags.bits().to_be_bytes();
    let mut bytes = Vec::with_capacity(len);
    bytes.extend(header.src_port.to_be_bytes());
    bytes.extend(header.dst_port.to_be_bytes());
    bytes.extend(header.seq.to_be_bytes());
    bytes.extend(header.ack.to_be_bytes());
    bytes.extend([((len / 4) << 4) as u8 | flags_high, flags_low]);
    bytes.extend(header.window.to_be_bytes());
    bytes.extend(header.checksum.to_be_bytes());
    bytes.extend(header.urgent.to_be_bytes());
    let room = len - MIN_TCP_HEADER;
    let aligned = tcp_options(&header.options, true);
    // Order and padding were not recorded: those of Linux, or no padding where there was less.
    let options = if aligned.len() <= room { aligned } else { tcp_options(&header.options, false) };
    bytes.extend(options.get(..room.min(options.len())).unwrap_or_default());
    bytes.resize(len, 0);
    bytes
}

/// The options in the order of Linux (`tcp_options_write`), each group padded in front to four
/// bytes if `aligned`.
fn tcp_options(options: &Options, aligned: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAX_TCP_HEADER);
    let pad = |bytes: &mut Vec<u8>, count| {
        if aligned {
            bytes.extend([NO_OPERATION; 2].iter().take(count));
        }
    };
    if let Some(mss) = options.mss {
        bytes.extend([MSS, 4]);
        bytes.extend(mss.to_be_bytes());
    }
    if options.sack_permitted {
        if options.timestamps.is_none() {
            pad(&mut bytes, 2);
        }
        bytes.extend([SACK_PERMITTED, 2]);
    }
    if let Some(timestamps) = options.timestamps {
        if !options.sack_permitted {
            pad(&mut bytes, 2);
        }
        bytes.extend([TIMESTAMPS, 10]);
        bytes.extend(timestamps.value.to_be_bytes());
        bytes.extend(timestamps.echo.to_be_bytes());
    }
    if let Some(shift) = options.window_scale {
        pad(&mut bytes, 1);
        bytes.extend([WINDOW_SCALE, 3, shift]);
    }
    bytes
}

/// RFC 1071, of an even number of bytes.
fn internet_checksum(bytes: &[u8; IPV4_HEADER]) -> u16 {
    let (words, _) = bytes.as_chunks();
    let mut sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    while let carry @ 1.. = sum >> 16 {
        sum = (sum & 0xffff) + carry;
    }
    !(sum as u16)
}

/// Both ends of a segment are of one family; if they were not, an IPv6 packet could carry both.
fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// The most that is recorded of a packet, bytes.
pub(super) const SNAP_LEN: u32 = (IPV6_HEADER + MAX_TCP_HEADER) as u32;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const MIN_TCP_HEADER: usize = 20;
const MAX_TCP_HEADER: usize = 60;
const DONT_FRAGMENT: u8 = 0x40;
const HOPS: u8 = 64;
const TCP: u8 = 6;

const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const TIMESTAMPS: u8 = 8;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{Headers, SNAP_LEN, tcp_header};
    use crate::lifecycle::TcpHeader;
    use crate::lifecycle::event::Segment;
    use crate::output::samples;

    /// A SYN of Linux, and an ACK with timestamps.
    const SYN: [u8; 40] = [
        0xca, 0xd0, 0x22, 0xc3, 0x12, 0x13, 0x02, 0x6a, 0, 0, 0, 0, 0xa0, 0x02, 0xfa, 0xf0, 0x1c, 0x46, 0, 0,
        2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0x01, 0x02, 0x03, 0x04, 0, 0, 0, 0, 1, 3, 3, 7,
    ];
    const ACK: [u8; 32] = [
        0xca, 0xd0, 0x22, 0xc3, 0x12, 0x13, 0x02, 0x6b, 0, 0, 0, 9, 0x80, 0x10, 0x01, 0xf6, 0x1c, 0x46, 0, 0,
        1, 1, 8, 10, 0x01, 0x02, 0x03, 0x04, 0, 0, 0, 7,
    ];

    fn segment(src: &str, dst: &str, header: TcpHeader, payload_len: u32) -> Segment {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        Segment { src: address(src), dst: address(dst), header, payload_len, ..samples::syn() }
    }

    fn parse(bytes: &[u8]) -> TcpHeader {
        TcpHeader::parse(bytes).expect("a header")
    }

    #[test]
    fn headers_of_linux_come_out_byte_for_byte() {
        assert_eq!(tcp_header(&parse(&SYN)), SYN);
        assert_eq!(tcp_header(&parse(&ACK)), ACK);
        // Without timestamps: MSS, two NOPs and SACK permitted, NOP and window scale.
        let mut plain = [&SYN[..20], &[2, 4, 5, 180, 1, 1, 4, 2, 1, 3, 3, 7]].concat();
        plain[12] = 8 << 4;
        assert_eq!(tcp_header(&parse(&plain)), plain);
    }

    #[test]
    fn options_that_were_not_recorded_are_an_end_of_options() {
        // Timestamps and the first block of a SACK option, which is not kept.
        let mut header = parse(&ACK);
        header.header_len = 44;
        let bytes = tcp_header(&header);
        assert_eq!((bytes.len(), &bytes[20..32], &bytes[32..]), (44, &ACK[20..], &[0; 12][..]));
        assert_eq!(parse(&bytes), header);
    }

    #[test]
    fn whatever_header_was_parsed_is_written_with_the_same_meaning() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut headers = 0;
        for _ in 0..200_000 {
            let mut bytes = [0; 60];
            for byte in &mut bytes {
                // xorshift64
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // Most options are kinds that mean something.
                *byte = (random >> 32) as u8 & if random & 7 == 0 { 0xff } else { 0x0f };
            }
            bytes[12] |= (5 + (random % 11) as u8) << 4;
            let Ok(header) = TcpHeader::parse(&bytes) else { continue };
            headers += 1;
            let written = tcp_header(&header);
            assert_eq!(written.len(), usize::from(header.header_len));
            assert_eq!(parse(&written), header, "{bytes:?}");
        }
        assert!(headers > 100_000);
    }

    #[test]
    fn an_ipv4_header_has_the_right_length_and_checksum() {
        let packet = Headers::of(&segment("10.0.0.5:51920", "10.0.0.9:8899", parse(&SYN), 7));
        let header = [0x45, 0, 0, 67, 0, 0, 0x40, 0, 64, 6, 0x26, 0xa8, 10, 0, 0, 5, 10, 0, 0, 9];
        assert_eq!(packet.bytes, [&header[..], &SYN].concat());
        assert_eq!(packet.original_len, 67);
    }

    #[test]
    fn an_ipv6_header_has_the_right_length() {
        let mut header = parse(&SYN);
        header.header_len = 60;
        let packet = Headers::of(&segment("[fd00::5]:51920", "[fd00::9]:8899", header, 7));
        assert_eq!(packet.bytes[..8], [0x60, 0, 0, 0, 0, 67, 6, 64]);
        assert_eq!((packet.bytes[8], packet.bytes[23], packet.bytes[39]), (0xfd, 5, 9));
        assert_eq!((packet.bytes.len(), packet.original_len), (SNAP_LEN as usize, 107));
    }

    #[test]
    fn a_length_that_the_field_cannot_hold_is_0() {
        for (src, dst, at, len) in
            [("1.1.1.1:1", "1.1.1.2:2", 2, 100_060), ("[fd00::5]:1", "[fd00::9]:2", 4, 100_080)]
        {
            let packet = Headers::of(&segment(src, dst, parse(&SYN), 100_000));
            assert_eq!((&packet.bytes[at..at + 2], packet.original_len), (&[0, 0][..], len));
        }
    }
}
