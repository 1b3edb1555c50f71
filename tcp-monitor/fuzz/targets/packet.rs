//! The bytes are a link type, the number of bytes that were not captured, and the packet. They are
//! parsed as a TCP header, too.

use std::io::Cursor;

use tcp_monitor::capture::Capture;
use tcp_monitor::lifecycle::{Input, TcpHeader};

pub(crate) fn run(data: &[u8]) {
    parse_header(data);
    let Some((&[link, missing], packet)) = data.split_first_chunk() else { return };
    let link = LINK_TYPES[usize::from(link) % LINK_TYPES.len()];
    let segments: Vec<_> = Capture::read(Cursor::new(file(link, missing.into(), packet)))
        .expect("the file is well-formed")
        .map(|segment| segment.expect("the file is well-formed"))
        .collect();
    let [Input::Segment(segment)] = &segments[..] else { return assert!(segments.is_empty()) };
    let len = packet.len() + usize::from(missing);
    let header_len = usize::from(segment.header.header_len);
    assert!((20..=60).contains(&header_len), "{segment:?}");
    assert!(header_len + segment.payload_len as usize <= len, "longer than the packet: {segment:?}");
    assert_eq!((segment.src.port(), segment.dst.port()), (segment.header.src_port, segment.header.dst_port));
}

fn parse_header(bytes: &[u8]) {
    if let Ok(header) = TcpHeader::parse(bytes) {
        assert!((20..=60).contains(&header.header_len) && usize::from(header.header_len) <= bytes.len());
        assert_eq!(header.seq.to_be_bytes(), bytes[4..8]);
        assert!(header.flags.names().count() <= 9);
    }
}

/// A pcap file with this packet, of which `missing` bytes more were on the wire.
fn file(link: u32, missing: u32, packet: &[u8]) -> Vec<u8> {
    let captured = u32::try_from(packet.len()).expect("libFuzzer's inputs are short");
    let fields =
        [0xa1b2_c3d4, 0x0004_0002, 0, 0, 1 << 18, link, 1, 0, captured, captured.saturating_add(missing)];
    let header = fields.into_iter().flat_map(u32::to_le_bytes);
    header.chain(packet.iter().copied()).collect()
}

/// Of tcpdump.org/linktypes.html: null, Ethernet, raw (as OpenBSD and others number it), loop,
/// cooked, raw IPv4 and IPv6, cooked version 2, and one that is not read.
const LINK_TYPES: [u32; 10] = [0, 1, 12, 101, 108, 113, 228, 229, 276, 9];
