//! Builds IP packets: TCP segments from any address, and the ICMP errors that answer them.

use std::net::{IpAddr, SocketAddr};

/// The fields of a TCP segment that trials choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    /// Payload, bytes.
    pub(crate) len: usize,
}

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 1 << 1;
pub(crate) const RST: u8 = 1 << 2;
pub(crate) const ACK: u8 = 1 << 4;

impl Segment {
    /// Without payload.
    pub(crate) fn new(flags: u8, seq: u32, ack: u32) -> Self {
        Self { flags, seq, ack, len: 0 }
    }

    /// The packet that carries this segment from `src` to `dst`, which are of the same IP version.
    pub(crate) fn packet(&self, src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
        let mut tcp = Vec::with_capacity(TCP_HEADER + self.len);
        tcp.extend(src.port().to_be_bytes());
        tcp.extend(dst.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([(TCP_HEADER as u8 / 4) << 4, self.flags]);
        tcp.extend(WINDOW.to_be_bytes());
        // Checksum and urgent pointer.
        tcp.extend([0; 4]);
        tcp.resize(TCP_HEADER + self.len, b'.');
        let sum = pseudo_header(src.ip(), dst.ip(), IPPROTO_TCP, tcp.len()) + sum(&tcp);
        tcp[16..18].copy_from_slice(&checksum(sum).to_be_bytes());
        packet(src.ip(), dst.ip(), IPPROTO_TCP, &tcp)
    }

    /// The segment in an IP packet without options, with its source and destination.
    pub(crate) fn parse(packet: &[u8]) -> Option<(SocketAddr, SocketAddr, Self)> {
        let (src, dst, tcp) = match packet.first()? >> 4 {
            4 if packet.get(9) == Some(&IPPROTO_TCP) => (v4(packet, 12)?, v4(packet, 16)?, packet.get(20..)?),
            6 if packet.get(6) == Some(&IPPROTO_TCP) => (v6(packet, 8)?, v6(packet, 24)?, packet.get(40..)?),
            _ => return None,
        };
        let header = usize::from(tcp.get(12)? >> 4) * 4;
        let segment = Self {
            flags: *tcp.get(13)?,
            seq: u32::from_be_bytes(bytes(tcp, 4)?),
            ack: u32::from_be_bytes(bytes(tcp, 8)?),
            len: tcp.len().checked_sub(header)?,
        };
        let port = |at| Some(u16::from_be_bytes(bytes(tcp, at)?));
        Some((SocketAddr::new(src, port(0)?), SocketAddr::new(dst, port(2)?), segment))
    }
}

/// Why a packet did not arrive (ICMP destination unreachable, RFC 792).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Unreachable {
    Net = 0,
    Host = 1,
    Port = 3,
}

impl Unreachable {
    /// The ICMP error that answers an IPv4 packet.
    pub(crate) fn packet(self, unreached: &[u8]) -> Option<Vec<u8>> {
        const TYPE: u8 = 3;
        // The header and the first eight bytes behind it.
        let quoted = unreached.get(..28)?;
        let mut icmp = vec![TYPE, self as u8, 0, 0, 0, 0, 0, 0];
        icmp.extend(quoted);
        let sum = checksum(sum(&icmp));
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        Some(packet(v4(unreached, 16)?, v4(unreached, 12)?, IPPROTO_ICMP, &icmp))
    }
}

fn packet(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(40 + payload.len());
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            packet.extend([0x45, 0]);
            packet.extend((20 + payload.len() as u16).to_be_bytes());
            packet.extend([0, 0, 0, 0, HOPS, protocol, 0, 0]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
            let sum = checksum(sum(&packet));
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(_), _) | (_, IpAddr::V6(_)) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend((payload.len() as u16).to_be_bytes());
            packet.extend([protocol, HOPS]);
            packet.extend(octets(src));
            packet.extend(octets(dst));
        }
    }
    packet.extend(payload);
    packet
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    }
}

fn v4(packet: &[u8], at: usize) -> Option<IpAddr> {
    Some(IpAddr::from(bytes::<4>(packet, at)?))
}

fn v6(packet: &[u8], at: usize) -> Option<IpAddr> {
    Some(IpAddr::from(bytes::<16>(packet, at)?))
}

fn bytes<const N: usize>(packet: &[u8], at: usize) -> Option<[u8; N]> {
    packet.get(at..at + N)?.try_into().ok()
}

fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> u64 {
    sum(&octets(src)) + sum(&octets(dst)) + u64::from(protocol) + len as u64
}

/// The sum of 16-bit words (RFC 1071), not folded yet.
fn sum(bytes: &[u8]) -> u64 {
    let number = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    bytes.chunks(2).map(number).sum()
}

fn checksum(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

const TCP_HEADER: usize = 20;
const WINDOW: u16 = 64_240;
const HOPS: u8 = 64;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_TCP: u8 = 6;
