//! IPv4 and IPv6 headers, and the TCP header behind them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::reach::{NotSegment, Reach};
use crate::lifecycle::TcpHeader;

/// A TCP segment in an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) src: SocketAddr,
    pub(super) dst: SocketAddr,
    pub(super) header: TcpHeader,
    /// Bytes, by the IP header.
    pub(super) payload_len: u32,
    /// More of it follows in other IP packets.
    pub(super) fragmented: bool,
}

/// What an IP header says of the packet behind it.
struct Envelope {
    src: IpAddr,
    dst: IpAddr,
    fragmented: bool,
}

/// Finds the segment in a packet that begins with its IP header.
pub(super) fn segment(mut packet: Reach<'_>) -> Result<Segment, NotSegment> {
    let version = packet.bytes().first().map(|byte| byte >> 4);
    let envelope = match version {
        Some(6) => open_v6(&mut packet)?,
        Some(4) => open_v4(&mut packet)?,
        Some(_) => return Err(NotSegment::Malformed),
        None => return Err(packet.take::<1>().err().unwrap_or(NotSegment::Malformed)),
    };
    let header = tcp_header(packet)?;
    let payload = packet.original() - usize::from(header.header_len);
    Ok(Segment {
        src: SocketAddr::new(envelope.src, header.src_port),
        dst: SocketAddr::new(envelope.dst, header.dst_port),
        header,
        payload_len: u32::try_from(payload).unwrap_or(u32::MAX),
        fragmented: envelope.fragmented,
    })
}

fn open_v4(packet: &mut Reach<'_>) -> Result<Envelope, NotSegment> {
    let whole = packet.original();
    let header = packet.take::<IPV4_HEADER>()?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    let total_len = match usize::from(u16::from_be_bytes([header[2], header[3]])) {
        // Too long for the field (BIG TCP), or left to the network card to fill in.
        0 => whole,
        total_len => total_len,
    };
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    if header_len < IPV4_HEADER || total_len < header_len {
        return Err(NotSegment::Malformed);
    }
    if header[9] != TCP {
        return Err(NotSegment::OtherProtocol);
    }
    if fragment & 0x1fff != 0 {
        return Err(NotSegment::LaterFragment);
    }
    packet.limit(total_len - IPV4_HEADER);
    packet.skip(header_len - IPV4_HEADER)?;
    let [.., a, b, c, d, e, f, g, h] = header;
    Ok(Envelope {
        src: Ipv4Addr::new(a, b, c, d).into(),
        dst: Ipv4Addr::new(e, f, g, h).into(),
        fragmented: fragment & 0x2000 != 0,
    })
}

fn open_v6(packet: &mut Reach<'_>) -> Result<Envelope, NotSegment> {
    let header = packet.take::<8>()?;
    let src = Ipv6Addr::from(packet.take::<16>()?).to_canonical();
    let dst = Ipv6Addr::from(packet.take::<16>()?).to_canonical();
    match u16::from_be_bytes([header[4], header[5]]) {
        // A jumbogram (BIG TCP), or left to the network card to fill in: up to the end of the packet.
        0 => {}
        payload_len => packet.limit(payload_len.into()),
    }
    let fragmented = skip_extensions(header[6], packet)?;
    Ok(Envelope { src, dst, fragmented })
}

/// Moves past the extension headers (RFC 8200, section 4) to that of TCP; says whether the packet is a first fragment.
fn skip_extensions(mut next: u8, packet: &mut Reach<'_>) -> Result<bool, NotSegment> {
    let mut fragmented = false;
    for _ in 0..=MAX_EXTENSIONS {
        if next == TCP {
            return Ok(fragmented);
        }
        let len = match next {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6 => {
                let [following, len] = packet.take()?;
                next = following;
                usize::from(len) * 8 + 6
            }
            AUTHENTICATION => {
                let [following, len] = packet.take()?;
                next = following;
                usize::from(len) * 4 + 6
            }
            FRAGMENT => {
                let [following, _, a, b] = packet.take()?;
                next = following;
                let fragment = u16::from_be_bytes([a, b]);
                if fragment & 0xfff8 != 0 {
                    return Err(if next == TCP {
                        NotSegment::LaterFragment
                    } else {
                        NotSegment::OtherProtocol
                    });
                }
                fragmented |= fragment & 1 != 0;
                4
            }
            _ => return Err(NotSegment::OtherProtocol),
        };
        packet.skip(len)?;
    }
    Err(NotSegment::Malformed)
}

/// Parses the TCP header; if the capture cut its options off, with those there are.
fn tcp_header(packet: Reach<'_>) -> Result<TcpHeader, NotSegment> {
    let fixed = packet.clone().take::<TCP_HEADER>()?;
    let header_len = (fixed[12] >> 4) * 4;
    if usize::from(header_len) < TCP_HEADER || usize::from(header_len) > packet.original() {
        return Err(NotSegment::Malformed);
    }
    let captured = packet.bytes().len() / 4 * 4;
    let mut bytes = [0; MAX_TCP_HEADER];
    let there = captured.min(header_len.into());
    bytes[..there].copy_from_slice(&packet.bytes()[..there]);
    // A header of as many options as were captured; one that was cut in two is left out.
    bytes[12] = u8::try_from(there / 4).unwrap_or_default() << 4 | fixed[12] & 0xf;
    let header = TcpHeader::parse(&bytes[..there]).map_err(|_| NotSegment::Malformed)?;
    Ok(TcpHeader { header_len, ..header })
}

const IPV4_HEADER: usize = 20;
const TCP_HEADER: usize = 20;
const MAX_TCP_HEADER: usize = 60;

/// RFC 8200 has each of its six kinds at most once, one of them twice.
const MAX_EXTENSIONS: u32 = 8;

const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;
