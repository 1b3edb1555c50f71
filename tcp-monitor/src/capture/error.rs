//! Why a capture cannot be read, or not to its end.

use std::{fmt, io};

use thiserror::Error;

/// Why reading stopped. Offsets count bytes of the capture itself: of a compressed one, after
/// decompression.
///
/// Every packet before the offset has been returned.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The file cannot be opened, for the system's reason.
    #[error("it cannot be opened: {0}")]
    Open(io::Error),
    /// Reading from the file failed.
    #[error("reading failed at byte {offset}: {source}; earlier packets were processed")]
    Read {
        /// How many bytes were read.
        offset: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// The compressed data is truncated or damaged.
    #[error(
        "the gzip data is damaged or truncated at byte {offset} of the decompressed capture: {source}; \
         earlier packets were processed; `gzip -t` checks the file"
    )]
    Gzip {
        /// How many bytes were decompressed.
        offset: u64,
        /// The decompressor's reason.
        source: io::Error,
    },
    /// The file is empty.
    #[error("it is empty: a capture has at least a header")]
    Empty,
    /// Compressed by something other than gzip.
    #[error("it is compressed by {0}: decompress it first, as in `{0} -dc FILE | tcp-monitor read -`")]
    Compression(&'static str),
    /// Not a capture file, or in another format.
    #[error(
        "it is neither pcap nor pcapng: it begins with the bytes {start:02x?}; \
         if Wireshark opens it, `editcap -F pcapng FILE NEW.pcapng` converts it"
    )]
    Format {
        /// Its first bytes, at most four.
        start: Vec<u8>,
    },
    /// The file ends within a header, a packet or a block.
    #[error(
        "it is truncated: the {part} at byte {offset} has {len} bytes, the file only {available} of them; \
         earlier packets were processed; the capture was probably interrupted or the disk full"
    )]
    Truncated {
        /// What is incomplete.
        part: CapturePart,
        /// Where it begins.
        offset: u64,
        /// Its length, bytes.
        len: u64,
        /// How many of them the file has.
        available: u64,
    },
    /// An impossible length of a packet: the bytes are no packet header.
    #[error(
        "the packet at byte {offset} has a captured length of {len} bytes, the maximum is {limit}: \
         the file is damaged from there on, or was concatenated instead of merged with mergecap; \
         earlier packets were processed"
    )]
    PacketLength {
        /// Where it begins.
        offset: u64,
        /// Its length field.
        len: u32,
        /// The longest packet of any capture.
        limit: u32,
    },
    /// A pcapng block with an impossible length.
    #[error(
        "the block at byte {offset} has a length of {len} bytes, which must be a multiple of 4 and at least {least}: \
         the file is damaged from there on; earlier packets were processed"
    )]
    BlockLength {
        /// Where it begins.
        offset: u64,
        /// Its length field.
        len: u32,
        /// The shortest block of its type.
        least: u32,
    },
    /// A pcapng block with two different lengths, at its beginning and its end.
    #[error(
        "the block at byte {offset} has a length of {first} bytes at its beginning and {last} at its end: \
         the file is damaged from there on; earlier packets were processed"
    )]
    BlockLengths {
        /// Where it begins.
        offset: u64,
        /// The length at its beginning.
        first: u32,
        /// The length at its end.
        last: u32,
    },
    /// A pcapng section without a valid byte-order mark.
    #[error(
        "the section at byte {offset} has the byte-order mark {mark:02x?} instead of 1a2b3c4d or its reverse: \
         the file is damaged from there on; earlier packets were processed"
    )]
    ByteOrder {
        /// Where its header begins.
        offset: u64,
        /// The bytes at its place.
        mark: [u8; 4],
    },
    /// A version of the format that is not supported.
    #[error(
        "it is {format} {major}.{minor} from byte {offset} on, and only {known} is supported; \
         `editcap -F pcap FILE NEW.pcap` may convert it"
    )]
    Version {
        /// Where the header with the version begins.
        offset: u64,
        /// The format's name.
        format: &'static str,
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
        /// The version that is supported.
        known: &'static str,
    },
}

impl CaptureError {
    /// The byte where reading stopped; `None` if it did not begin.
    #[must_use]
    pub const fn offset(&self) -> Option<u64> {
        match self {
            Self::Open(_) | Self::Empty | Self::Compression(_) | Self::Format { .. } => None,
            Self::Read { offset, .. }
            | Self::Gzip { offset, .. }
            | Self::Truncated { offset, .. }
            | Self::PacketLength { offset, .. }
            | Self::BlockLength { offset, .. }
            | Self::BlockLengths { offset, .. }
            | Self::ByteOrder { offset, .. }
            | Self::Version { offset, .. } => Some(*offset),
        }
    }
}

/// A part of a capture file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapturePart {
    /// The header of a pcap file.
    FileHeader,
    /// A packet with its own header.
    Packet,
    /// A pcapng block.
    Block,
}

impl fmt::Display for CapturePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FileHeader => "file header",
            Self::Packet => "packet",
            Self::Block => "block",
        })
    }
}
