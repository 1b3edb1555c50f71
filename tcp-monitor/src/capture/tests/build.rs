//! Captures and packets, byte by byte.

use crate::capture::fields::ByteOrder::{self, Big, Little};

/// Options of a pcapng block.
pub(super) type Options<'a> = &'a [(u16, &'a [u8])];

/// Integers in the byte order of a file.
pub(super) struct Bytes {
    order: ByteOrder,
    pub(super) bytes: Vec<u8>,
}

impl Bytes {
    pub(super) fn new(order: ByteOrder) -> Self {
        Self { order, bytes: Vec::new() }
    }

    pub(super) fn u16(mut self, value: u16) -> Self {
        self.bytes.extend(match self.order {
            Little => value.to_le_bytes(),
            Big => value.to_be_bytes(),
        });
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.bytes.extend(match self.order {
            Little => value.to_le_bytes(),
            Big => value.to_be_bytes(),
        });
        self
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    fn pad(mut self) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }
}

/// The header of a pcap file.
pub(super) fn pcap(order: ByteOrder, magic: u32, link: u32) -> Vec<u8> {
    Bytes::new(order).u32(magic).u16(2).u16(4).u32(0).u32(0).u32(262_144).u32(link).bytes
}

/// A packet of a pcap file.
pub(super) fn record(order: ByteOrder, seconds: u32, fraction: u32, original: u32, data: &[u8]) -> Vec<u8> {
    Bytes::new(order).u32(seconds).u32(fraction).u32(len(data)).u32(original).raw(data).bytes
}

/// A pcap file of microseconds with one packet, captured whole a second after 1970 began.
pub(super) fn pcap_of(link: u32, packet: &[u8]) -> Vec<u8> {
    [pcap(Little, MICROSECONDS, link), record(Little, 1, 0, len(packet), packet)].concat()
}

/// A pcapng block.
pub(super) fn block(order: ByteOrder, kind: u32, body: Bytes) -> Vec<u8> {
    let body = body.pad().bytes;
    let len = len(&body) + 12;
    Bytes::new(order).u32(kind).u32(len).raw(&body).u32(len).bytes
}

/// A section header.
pub(super) fn section(order: ByteOrder) -> Vec<u8> {
    let body = Bytes::new(order).u32(0x1a2b_3c4d).u16(1).u16(0).u32(u32::MAX).u32(u32::MAX);
    block(order, 0x0a0d_0d0a, body)
}

/// An interface.
pub(super) fn interface(order: ByteOrder, link: u16, snap_len: u32, options: Options<'_>) -> Vec<u8> {
    block(order, 1, with_options(Bytes::new(order).u16(link).u16(0).u32(snap_len), options))
}

/// An enhanced packet, captured whole.
pub(super) fn enhanced(
    order: ByteOrder,
    number: u32,
    ticks: u64,
    packet: &[u8],
    options: Options<'_>,
) -> Vec<u8> {
    let [high, low] = [ticks >> 32, ticks & 0xffff_ffff].map(|half| u32::try_from(half).expect("32 bits"));
    let body = Bytes::new(order).u32(number).u32(high).u32(low).u32(len(packet)).u32(len(packet));
    block(order, 6, with_options(body.raw(packet).pad(), options))
}

fn with_options(mut body: Bytes, options: Options<'_>) -> Bytes {
    for (code, value) in options {
        body = body.u16(*code).u16(u16::try_from(value.len()).expect("short")).raw(value).pad();
    }
    if options.is_empty() { body } else { body.u32(0) }
}

/// A SYN from port 51920 to 8899, with a payload.
pub(super) fn tcp(payload: &[u8]) -> Vec<u8> {
    Bytes::new(Big)
        .u16(51920)
        .u16(8899)
        .u32(303_235_690)
        .u32(0)
        .raw(&[0xa0, 0x02, 0xfa, 0xf0, 0x1c, 0x46, 0, 0])
        .raw(&[2, 4, 0x05, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7])
        .raw(payload)
        .bytes
}

/// An IPv4 packet from 10.0.0.5 to 10.0.0.9.
pub(super) fn ipv4(payload: &[u8]) -> Vec<u8> {
    Bytes::new(Big)
        .raw(&[0x45, 0])
        .u16(u16::try_from(payload.len() + 20).expect("short"))
        .raw(&[0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 5, 10, 0, 0, 9])
        .raw(payload)
        .bytes
}

/// An IPv6 packet from fd00::5 to fd00::9; its header is followed by what `next` says.
pub(super) fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let address = |last| [&[0xfd][..], &[0; 14], &[last]].concat();
    Bytes::new(Big)
        .u32(6 << 28)
        .u16(u16::try_from(payload.len()).expect("short"))
        .raw(&[next, 64])
        .raw(&address(5))
        .raw(&address(9))
        .raw(payload)
        .bytes
}

/// An Ethernet frame.
pub(super) fn ethernet(ether_type: &[u16], payload: &[u8]) -> Vec<u8> {
    let (last, tags) = ether_type.split_last().expect("at least one");
    let mut frame = Bytes::new(Big).raw(&[0; 12]);
    for tag in tags {
        frame = frame.u16(*tag).u16(7);
    }
    frame.u16(*last).raw(payload).bytes
}

pub(super) fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("short")
}

pub(super) const MICROSECONDS: u32 = 0xa1b2_c3d4;
pub(super) const NANOSECONDS: u32 = 0xa1b2_3c4d;
