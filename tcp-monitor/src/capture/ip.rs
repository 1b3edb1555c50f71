//! IPv4 and IPv6 headers, and the TCP header behind them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::cursor::{Cursor, NotSegment};
use crate::lifecycle::TcpHeader;

/// The addresses of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IpHeader {
    /// Source. A v4-mapped address is given as IPv4.
    pub(super) src: IpAddr,
    /// Destination.
    pub(super) dst: IpAddr,
}

/// Moves `packet` from its IP header to the TCP header.
pub(super) fn ip_header(packet: &mut Cursor<'_>) -> Result<IpHeader, NotSegment> {
    let version = packet.bytes().first().map(|byte| byte >> 4);
    match version {
        Some(6) => ipv6_header(packet),
        Some(4) => ipv4_header(packet),
        Some(_) => Err(NotSegment::Malformed),
        None => Err(packet.take::<1>().err().unwrap_or(NotSegment::Malformed)),
    }
}

fn ipv4_header(packet: &mut Cursor<'_>) -> Result<IpHeader, NotSegment> {
    let whole = packet.original();
    let header = packet.take::<IPV4_HEADER>()?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    let total_len = match usize::from(u16::from_be_bytes([header[2], header[3]])) {
        // Too long for the field (BIG TCP), or the network card fills it in.
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
    Ok(IpHeader { src: Ipv4Addr::new(a, b, c, d).into(), dst: Ipv4Addr::new(e, f, g, h).into() })
}

fn ipv6_header(packet: &mut Cursor<'_>) -> Result<IpHeader, NotSegment> {
    let header = packet.take::<8>()?;
    let [src, dst] =
        [packet.take::<16>()?, packet.take::<16>()?].map(|bytes| Ipv6Addr::from(bytes).to_canonical());
    match u16::from_be_bytes([header[4], header[5]]) {
        // A jumbogram (BIG TCP), or the network card fills it in: up to the end of the packet.
        0 => {}
        payload_len => packet.limit(payload_len.into()),
    }
    skip_extensions(header[6], packet)?;
    Ok(IpHeader { src, dst })
}

/// Moves past the extension headers (RFC 8200, section 4) to that of TCP.
fn skip_extensions(mut next: u8, packet: &mut Cursor<'_>) -> Result<(), NotSegment> {
    for _ in 0..=MAX_EXTENSIONS {
        if next == TCP {
            return Ok(());
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
                4
            }
            _ => return Err(NotSegment::OtherProtocol),
        };
        packet.skip(len)?;
    }
    Err(NotSegment::Malformed)
}

/// Parses the TCP header that `packet` is at. If the capture cut its options off, with those that
/// are whole.
pub(super) fn tcp_header(packet: Cursor<'_>) -> Result<TcpHeader, NotSegment> {
    let fixed = packet.clone().take::<TCP_HEADER>()?;
    let header_len = (fixed[12] >> 4) * 4;
    if usize::from(header_len) < TCP_HEADER || usize::from(header_len) > packet.original() {
        return Err(NotSegment::Malformed);
    }
    let captured = packet.bytes().len() / 4 * 4;
    let mut bytes = [0; MAX_TCP_HEADER];
    let available = captured.min(header_len.into());
    bytes[..available].copy_from_slice(&packet.bytes()[..available]);
    // A header with the options that were captured; one that was cut in two is left out.
    bytes[12] = u8::try_from(available / 4).unwrap_or_default() << 4 | fixed[12] & 0xf;
    let header = TcpHeader::parse(&bytes[..available]).map_err(|_| NotSegment::Malformed)?;
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
