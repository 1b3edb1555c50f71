//! Blocks of the pcapng format (draft-ietf-opsawg-pcapng), as bytes. Integers are little-endian.

use tcp_monitor_common::record::Direction;

use crate::clock::WallTime;

/// A Section Header Block: where the section was made.
pub(super) struct SectionBlock<'a> {
    /// The machine.
    pub(super) hardware: &'a str,
    /// The operating system.
    pub(super) os: &'a str,
    /// The program.
    pub(super) application: &'a str,
}

/// An Interface Description Block. Timestamps of its packets are nanoseconds.
pub(super) struct InterfaceBlock<'a> {
    /// The link type of its packets: a number of <https://www.tcpdump.org/linktypes.html>.
    pub(super) link: u16,
    /// The most bytes kept of a packet.
    pub(super) snap_len: u32,
    /// Its name, if known.
    pub(super) name: Option<&'a str>,
    /// More about it.
    pub(super) description: &'a str,
}

/// An Enhanced Packet Block.
pub(super) struct PacketBlock<'a> {
    /// Which interface of the section, counted from 0.
    pub(super) interface: u32,
    /// When it passed.
    pub(super) time: WallTime,
    /// The recorded bytes.
    pub(super) bytes: &'a [u8],
    /// How long it was, bytes.
    pub(super) original_len: u32,
    /// Its direction at the interface, if known.
    pub(super) direction: Option<Direction>,
    /// Comments on it.
    pub(super) comments: &'a [String],
}

impl SectionBlock<'_> {
    /// Appends the block to `out`.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        block(out, SECTION_HEADER, |out| {
            out.extend(BYTE_ORDER_MARK.to_le_bytes());
            // Version 1.0.
            out.extend(1_u16.to_le_bytes());
            out.extend(0_u16.to_le_bytes());
            // The length of the section is not known yet.
            out.extend(u64::MAX.to_le_bytes());
            option(out, HARDWARE, self.hardware.as_bytes());
            option(out, OS, self.os.as_bytes());
            option(out, APPLICATION, self.application.as_bytes());
            end_options(out);
        });
    }
}

impl InterfaceBlock<'_> {
    /// Appends the block to `out`.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        block(out, INTERFACE_DESCRIPTION, |out| {
            out.extend(self.link.to_le_bytes());
            out.extend([0; 2]);
            out.extend(self.snap_len.to_le_bytes());
            if let Some(name) = self.name {
                option(out, INTERFACE_NAME, name.as_bytes());
            }
            option(out, DESCRIPTION, self.description.as_bytes());
            option(out, RESOLUTION, &[NANOSECONDS]);
            end_options(out);
        });
    }
}

impl PacketBlock<'_> {
    /// Appends the block to `out`.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let nanos = self.time.as_unix_nanos();
        block(out, ENHANCED_PACKET, |out| {
            out.extend(self.interface.to_le_bytes());
            // The upper half comes first, whatever the byte order.
            out.extend(((nanos >> 32) as u32).to_le_bytes());
            out.extend((nanos as u32).to_le_bytes());
            out.extend(len(self.bytes).to_le_bytes());
            out.extend(self.original_len.to_le_bytes());
            padded(out, self.bytes);
            for comment in self.comments {
                option(out, COMMENT, comment.as_bytes());
            }
            let direction: Option<u32> = self.direction.map(|direction| match direction {
                Direction::Ingress => 1,
                Direction::Egress => 2,
            });
            if let Some(direction) = direction {
                option(out, FLAGS, &direction.to_le_bytes());
            }
            end_options(out);
        });
    }
}

/// Appends a block, whose body `body` appends.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let total = (len(&out[start..]) + 4).to_le_bytes();
    out[start + 4..start + 8].copy_from_slice(&total);
    out.extend(total);
}

/// Appends an option, truncated to the longest possible one.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.extend(code.to_le_bytes());
    out.extend(len.to_le_bytes());
    padded(out, &value[..len.into()]);
}

fn end_options(out: &mut Vec<u8>) {
    out.extend([0; 4]);
}

/// Appends `bytes`, and zeros up to a multiple of four.
fn padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes);
    let padding = bytes.len().next_multiple_of(4) - bytes.len();
    out.resize(out.len() + padding, 0);
}

/// Blocks, packets and options are far shorter than 4 GiB.
fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER_MARK: u32 = 0x1a2b_3c4d;
/// Timestamps count 10^-9 seconds.
const NANOSECONDS: u8 = 9;

const COMMENT: u16 = 1;
/// Of a section: `shb_hardware`, `shb_os`, `shb_userappl`.
const HARDWARE: u16 = 2;
const OS: u16 = 3;
const APPLICATION: u16 = 4;
/// Of an interface: `if_name`, `if_description`, `if_tsresol`.
const INTERFACE_NAME: u16 = 2;
const DESCRIPTION: u16 = 3;
const RESOLUTION: u16 = 9;
/// Of a packet: `epb_flags`.
const FLAGS: u16 = 2;

#[cfg(test)]
mod tests {
    use super::{InterfaceBlock, PacketBlock, SectionBlock};
    use crate::clock::WallTime;
    use tcp_monitor_common::record::Direction;

    #[test]
    fn a_section_has_its_origin() {
        let mut out = Vec::new();
        SectionBlock { hardware: "x86_64", os: "Linux", application: "tcp-monitor" }.write(&mut out);
        let expected = [
            &[0x0a, 0x0d, 0x0d, 0x0a, 72, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0][..],
            &[0xff; 8],
            &[2, 0, 6, 0],
            b"x86_64\0\0",
            &[3, 0, 5, 0],
            b"Linux\0\0\0",
            &[4, 0, 11, 0],
            b"tcp-monitor\0",
            &[0, 0, 0, 0, 72, 0, 0, 0],
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn an_interface_counts_nanoseconds_and_may_have_no_name() {
        let mut out = Vec::new();
        InterfaceBlock { link: 101, snap_len: 100, name: Some("lo"), description: "d" }.write(&mut out);
        let start = [1, 0, 0, 0, 48, 0, 0, 0, 101, 0, 0, 0, 100, 0, 0, 0];
        let named = [2, 0, 2, 0, b'l', b'o', 0, 0];
        let rest = [3, 0, 1, 0, b'd', 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(out, [&start[..], &named, &rest, &[48, 0, 0, 0]].concat());

        out.clear();
        InterfaceBlock { link: 101, snap_len: 100, name: None, description: "d" }.write(&mut out);
        assert_eq!((out.len(), &out[16..36]), (40, &rest[..]));
    }

    #[test]
    fn a_packet_has_its_comments_and_its_direction() {
        let packet = PacketBlock {
            interface: 3,
            time: WallTime::from_unix_nanos(0x0123_4567_89ab_cdef),
            bytes: b"12345",
            original_len: 1500,
            direction: Some(Direction::Egress),
            comments: &["one".to_owned(), "four".to_owned()],
        };
        let mut out = Vec::new();
        packet.write(&mut out);
        let expected = [
            &[6, 0, 0, 0, 68, 0, 0, 0, 3, 0, 0, 0][..],
            &[0x67, 0x45, 0x23, 0x01, 0xef, 0xcd, 0xab, 0x89],
            &[5, 0, 0, 0, 0xdc, 0x05, 0, 0],
            b"12345\0\0\0",
            &[1, 0, 3, 0],
            b"one\0",
            &[1, 0, 4, 0],
            b"four",
            &[2, 0, 4, 0, 2, 0, 0, 0],
            &[0, 0, 0, 0, 68, 0, 0, 0],
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn a_comment_that_is_too_long_is_truncated() {
        let comments = ["x".repeat(70_000)];
        let mut out = Vec::new();
        let (time, bytes, original_len, direction) = (WallTime::default(), &[][..], 0, None);
        PacketBlock { interface: 0, time, bytes, original_len, direction, comments: &comments }
            .write(&mut out);
        assert_eq!(out.len(), 28 + 4 + 65_536 + 4 + 4);
        assert_eq!(out[28..32], [1, 0, 0xff, 0xff]);
    }
}
