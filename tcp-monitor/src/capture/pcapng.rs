//! The pcapng format (draft-ietf-opsawg-pcapng): sections of blocks, each with its own byte order
//! and interfaces.

use tcp_monitor_common::record::Direction;

use super::{
    error::{CaptureError, CapturePart},
    fields::{ByteOrder, Fields},
    frame::{FileItem, FileItemResult, Frame},
    interface::CaptureInterface,
    options::options,
    stream::{ByteStream, CAPACITY},
};

/// A pcapng file.
#[derive(Debug)]
pub(super) struct PcapNg {
    order: ByteOrder,
    /// The interfaces of this section.
    interfaces: Vec<CaptureInterface>,
    /// How many interfaces the sections before had.
    earlier: u32,
}

impl PcapNg {
    /// Whether a file that begins with `magic` is a pcapng file.
    pub(super) fn recognises(magic: [u8; 4]) -> bool {
        magic == SECTION_HEADER.to_be_bytes()
    }

    /// A file before its first block.
    pub(super) const fn begin() -> Self {
        Self { order: ByteOrder::Little, interfaces: Vec::new(), earlier: 0 }
    }

    /// The name of an interface of this section, by its number in the file.
    pub(super) fn interface_name(&self, number: u32) -> Option<&str> {
        let interface = self.interfaces.get(number.checked_sub(self.earlier)? as usize)?;
        interface.name.as_deref()
    }

    /// Reads the next block.
    pub(super) fn step<'a>(&mut self, stream: &'a mut ByteStream) -> FileItemResult<'a> {
        let offset = stream.offset();
        let start = stream.peek(MIN_BLOCK as usize)?;
        let &[a, b, c, d, e, f, g, h, i, j, k, l] = start else {
            return if start.is_empty() {
                Ok(FileItem::End)
            } else {
                Err(truncated(offset, MIN_BLOCK.into(), start.len() as u64))
            };
        };
        // The same in both byte orders.
        let section = [a, b, c, d] == SECTION_HEADER.to_be_bytes();
        if section {
            self.order = byte_order([i, j, k, l], offset)?;
        }
        let (kind, len) = (self.order.u32([a, b, c, d]), self.order.u32([e, f, g, h]));
        let least = if section { MIN_SECTION_HEADER } else { MIN_BLOCK };
        if len < least || !len.is_multiple_of(4) {
            return Err(CaptureError::BlockLength { offset, len, least });
        }
        let block = Block { offset, len, order: self.order };
        match kind {
            SECTION_HEADER => self.begin_section(&block, stream),
            INTERFACE_DESCRIPTION => self.add_interface(&block, stream),
            ENHANCED_PACKET | OBSOLETE_PACKET | SIMPLE_PACKET if len as usize <= CAPACITY => {
                let body = Fields::new(self.order, block.take(stream)?);
                let frame = match kind {
                    SIMPLE_PACKET => self.simple_packet(body),
                    OBSOLETE_PACKET => self.obsolete_packet(body),
                    _ => self.enhanced_packet(body),
                };
                Ok(frame.map_or(FileItem::Malformed, FileItem::Frame))
            }
            ENHANCED_PACKET | OBSOLETE_PACKET | SIMPLE_PACKET => {
                block.pass(stream).map(|()| FileItem::Malformed)
            }
            CUSTOM | CUSTOM_NOT_COPIED | JOURNAL_ENTRY => block.pass(stream).map(|()| FileItem::Numbered),
            _ => block.pass(stream).map(|()| FileItem::Other),
        }
    }

    fn begin_section<'a>(&mut self, block: &Block, stream: &mut ByteStream) -> FileItemResult<'a> {
        let head = block.pass_but_keep_head(stream)?;
        let mut fields = Fields::new(block.order, head.get(BYTE_ORDER_MARK..).unwrap_or_default());
        let (major, minor) = (fields.u16().unwrap_or_default(), fields.u16().unwrap_or_default());
        // Some programs write 1.2 for 1.0.
        if (major, minor) != (1, 0) && (major, minor) != (1, 2) {
            let (offset, format, known) = (block.offset, "pcapng", "pcapng 1.0");
            return Err(CaptureError::Version { offset, format, major, minor, known });
        }
        let interfaces = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        self.earlier = self.earlier.saturating_add(interfaces);
        self.interfaces.clear();
        Ok(FileItem::Other)
    }

    fn add_interface<'a>(&mut self, block: &Block, stream: &mut ByteStream) -> FileItemResult<'a> {
        let head = block.pass_but_keep_head(stream)?;
        let interface = CaptureInterface::parse(block.order, &head).ok_or(CaptureError::BlockLength {
            offset: block.offset,
            len: block.len,
            least: MIN_INTERFACE,
        })?;
        // Packets of an interface beyond the limit are malformed.
        if self.interfaces.len() < MAX_INTERFACES {
            self.interfaces.push(interface);
        }
        Ok(FileItem::Other)
    }

    fn enhanced_packet<'a>(&self, mut body: Fields<'a>) -> Option<Frame<'a>> {
        let number = body.u32()?;
        self.timed_packet(number, body)
    }

    /// The packet block of 2004, with a drop count in place of the upper half of the interface
    /// number.
    fn obsolete_packet<'a>(&self, mut body: Fields<'a>) -> Option<Frame<'a>> {
        let (number, _drops) = (body.u16()?, body.u16()?);
        self.timed_packet(number.into(), body)
    }

    fn timed_packet<'a>(&self, number: u32, mut body: Fields<'a>) -> Option<Frame<'a>> {
        let interface = self.interfaces.get(number as usize)?;
        let ticks = u64::from(body.u32()?) << 32 | u64::from(body.u32()?);
        let (captured, original) = (body.u32()?, body.u32()?);
        let bytes = body.padded(captured as usize)?;
        let flags = options(body).find_map(|(code, value)| match (code, <[u8; 4]>::try_from(value)) {
            (FLAGS, Ok(flags)) => Some(self.order.u32(flags)),
            _ => None,
        });
        Some(Frame {
            time: Some(interface.time(ticks)),
            interface: self.earlier.saturating_add(number),
            direction: match flags.unwrap_or_default() & 0b11 {
                1 => Some(Direction::Ingress),
                2 => Some(Direction::Egress),
                _ => None,
            },
            link: interface.link,
            original_len: original.max(captured),
            bytes,
        })
    }

    /// A packet of the first interface; its captured length follows from the lengths of packet and
    /// block.
    fn simple_packet<'a>(&self, mut body: Fields<'a>) -> Option<Frame<'a>> {
        let interface = self.interfaces.first()?;
        let original = body.u32()?;
        let limit = if interface.snap_len == 0 { u32::MAX } else { interface.snap_len };
        let bytes = body.rest();
        Some(Frame {
            time: None,
            interface: self.earlier,
            direction: None,
            link: interface.link,
            original_len: original,
            bytes: bytes.get(..original.min(limit) as usize).unwrap_or(bytes),
        })
    }
}

/// The position and length of a block.
struct Block {
    offset: u64,
    len: u32,
    order: ByteOrder,
}

impl Block {
    /// Takes a block that is no longer than [`CAPACITY`], and returns its body.
    fn take<'a>(&self, stream: &'a mut ByteStream) -> Result<&'a [u8], CaptureError> {
        let block = stream.take(self.len as usize)?;
        if block.len() < self.len as usize {
            return Err(truncated(self.offset, self.len.into(), block.len() as u64));
        }
        let (body, trailer) = block.split_last_chunk().unwrap_or((block, &[0; TRAILER]));
        self.check_trailer(*trailer)?;
        Ok(body.get(HEADER..).unwrap_or_default())
    }

    /// Moves past a block of any length.
    fn pass(&self, stream: &mut ByteStream) -> Result<(), CaptureError> {
        let len = u64::from(self.len);
        let mut available = stream.skip(len - TRAILER as u64)?;
        let trailer = stream.take(TRAILER)?;
        available += trailer.len() as u64;
        match trailer.first_chunk() {
            Some(trailer) => self.check_trailer(*trailer),
            None => Err(truncated(self.offset, len, available)),
        }
    }

    /// Moves past a block of any length, and returns the beginning of its body.
    fn pass_but_keep_head(&self, stream: &mut ByteStream) -> Result<Vec<u8>, CaptureError> {
        let len = (self.len as usize - TRAILER).min(HEAD);
        let head = stream.peek(len)?.get(HEADER..).unwrap_or_default().to_vec();
        self.pass(stream)?;
        Ok(head)
    }

    fn check_trailer(&self, trailer: [u8; TRAILER]) -> Result<(), CaptureError> {
        let last = self.order.u32(trailer);
        if last == self.len {
            Ok(())
        } else {
            Err(CaptureError::BlockLengths { offset: self.offset, first: self.len, last })
        }
    }
}

fn byte_order(mark: [u8; 4], offset: u64) -> Result<ByteOrder, CaptureError> {
    [ByteOrder::Little, ByteOrder::Big]
        .into_iter()
        .find(|order| order.u32(mark) == 0x1a2b_3c4d)
        .ok_or(CaptureError::ByteOrder { offset, mark })
}

const fn truncated(offset: u64, len: u64, available: u64) -> CaptureError {
    CaptureError::Truncated { part: CapturePart::Block, offset, len, available }
}

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
const JOURNAL_ENTRY: u32 = 9;
const CUSTOM: u32 = 0x0bad;
const CUSTOM_NOT_COPIED: u32 = 0x4000_0bad;

/// The option with a packet's direction.
const FLAGS: u16 = 2;

/// Type and length.
const HEADER: usize = 8;
/// The length again.
const TRAILER: usize = 4;
/// Length of the mark at the beginning of a section header's body.
const BYTE_ORDER_MARK: usize = 4;

/// The shortest block of each kind.
const MIN_BLOCK: u32 = 12;
const MIN_SECTION_HEADER: u32 = 28;
const MIN_INTERFACE: u32 = 20;

/// How much of the blocks of sections and interfaces is searched for options.
const HEAD: usize = 64 << 10;
/// Many times as many as any section has.
const MAX_INTERFACES: usize = 1 << 16;
