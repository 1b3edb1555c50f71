//! The pcap format (draft-ietf-opsawg-pcap): a file header, then packets.

use super::{
    error::{CaptureError, CapturePart},
    fields::ByteOrder,
    frame::{FileItem, FileItemResult, Frame, MAX_PACKET},
    link::LinkType,
    stream::ByteStream,
};
use crate::lifecycle::Time;

/// A pcap file, past its header.
#[derive(Debug)]
pub(super) struct Pcap {
    order: ByteOrder,
    fraction: Fraction,
    record_header: usize,
    link: LinkType,
}

/// The unit of the second half of a timestamp.
#[derive(Clone, Copy, Debug)]
enum Fraction {
    Microseconds,
    Nanoseconds,
}

impl Pcap {
    /// Whether a file that begins with `magic` is a pcap file.
    pub(super) fn recognises(magic: [u8; 4]) -> bool {
        variant(magic).is_some()
    }

    /// Reads the file header.
    pub(super) fn begin(stream: &mut ByteStream) -> Result<Self, CaptureError> {
        let header = stream.take(FILE_HEADER)?;
        let Some(&[a, b, c, d, e, f, g, h, .., i, j, k, l]) = header.first_chunk::<FILE_HEADER>() else {
            return Err(truncated(CapturePart::FileHeader, 0, FILE_HEADER as u64, header.len() as u64));
        };
        let start = [a, b, c, d];
        let (order, fraction, record_header) =
            variant(start).ok_or(CaptureError::Format { start: start.into() })?;
        let (major, minor) = (order.u16([e, f]), order.u16([g, h]));
        if major != 2 {
            return Err(CaptureError::Version { offset: 0, format: "pcap", major, minor, known: "pcap 2" });
        }
        // The upper half is about frame check sequences, which the IP length does not include.
        let link = order.u32([i, j, k, l]) & 0xffff;
        Ok(Self { order, fraction, record_header, link: LinkType(u16::try_from(link).unwrap_or_default()) })
    }

    /// Reads the next packet.
    pub(super) fn step<'a>(&mut self, stream: &'a mut ByteStream) -> FileItemResult<'a> {
        let offset = stream.offset();
        let header = stream.peek(self.record_header)?;
        if header.is_empty() {
            return Ok(FileItem::End);
        }
        let (true, Some(fixed)) = (header.len() == self.record_header, header.first_chunk::<RECORD_HEADER>())
        else {
            return Err(truncated(
                CapturePart::Packet,
                offset,
                self.record_header as u64,
                header.len() as u64,
            ));
        };
        let field = |at: usize| self.order.u32([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let (seconds, fraction, captured, original) = (field(0), field(4), field(8), field(12));

        let limit = if self.link.is_known() { MAX_PACKET } else { MAX_OTHER_PACKET };
        if captured > limit {
            return Err(CaptureError::PacketLength { offset, len: captured, limit });
        }
        let len = self.record_header as u64 + u64::from(captured);
        let bytes = if captured <= MAX_PACKET {
            // Fits into the buffer: the limit is half of it.
            let record = stream.take(self.record_header + captured as usize)?;
            if (record.len() as u64) < len {
                return Err(truncated(CapturePart::Packet, offset, len, record.len() as u64));
            }
            &record[self.record_header..]
        } else {
            let available = stream.skip(len)?;
            if available < len {
                return Err(truncated(CapturePart::Packet, offset, len, available));
            }
            &[]
        };
        Ok(FileItem::Frame(Frame {
            time: Some(self.time(seconds, fraction)),
            interface: 0,
            direction: None,
            link: self.link,
            original_len: original.max(captured),
            bytes,
        }))
    }

    fn time(&self, seconds: u32, fraction: u32) -> Time {
        let nanos = match self.fraction {
            Fraction::Microseconds => u64::from(fraction) * 1_000,
            Fraction::Nanoseconds => u64::from(fraction),
        };
        // 2^32 seconds are less than 2^63 nanoseconds.
        Time::from_nanos(u64::from(seconds) * 1_000_000_000 + nanos)
    }
}

/// Byte order, unit of timestamps and length of packet headers, from the first four bytes.
fn variant(magic: [u8; 4]) -> Option<(ByteOrder, Fraction, usize)> {
    [ByteOrder::Little, ByteOrder::Big].into_iter().find_map(|order| match order.u32(magic) {
        MICROSECONDS => Some((order, Fraction::Microseconds, RECORD_HEADER)),
        NANOSECONDS => Some((order, Fraction::Nanoseconds, RECORD_HEADER)),
        MODIFIED => Some((order, Fraction::Microseconds, MODIFIED_RECORD_HEADER)),
        _ => None,
    })
}

const fn truncated(part: CapturePart, offset: u64, len: u64, available: u64) -> CaptureError {
    CaptureError::Truncated { part, offset, len, available }
}

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Written by a patched libpcap of the 1990s; the header of each packet also names its interface
/// and protocol.
const MODIFIED: u32 = 0xa1b2_cd34;

const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
const MODIFIED_RECORD_HEADER: usize = 24;

/// The longest packet of USB captures (Wireshark: `WTAP_MAX_PACKET_SIZE_USBPCAP`).
const MAX_OTHER_PACKET: u32 = 128 << 20;
