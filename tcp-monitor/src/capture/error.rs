//! Why a capture could not be read, or not to its end.

use std::{fmt, io};

use thiserror::Error;

/// Why reading stopped. Offsets count bytes of the capture itself: of a compressed one, after decompression.
///
/// Every packet before the offset has been handed out.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The file cannot be opened, for the system's reason.
    #[error("it cannot be opened: {0}")]
    Open(io::Error),
    /// The system stopped handing out bytes.
    #[error("reading failed at byte {offset}: {source}; what came before it was read")]
    Read {
        /// Bytes that were read.
        offset: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// The compressed data end too early, or are damaged.
    #[error(
        "the gzip data are damaged or cut off where byte {offset} of the capture would be: {source}; \
         what came before it was read, and `gzip -t` checks the file"
    )]
    Gzip {
        /// Bytes that were decompressed.
        offset: u64,
        /// The decompressor's reason.
        source: io::Error,
    },
    /// Nothing to read.
    #[error("there is nothing in it, not even the header of a capture: was it ever written to?")]
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
        "it is cut off: the {part} at byte {offset} takes {len} bytes, and there are {available}; \
         what came before it was read, and capturing was probably interrupted or the disk full"
    )]
    CutOff {
        /// What is incomplete.
        part: Part,
        /// Where it begins.
        offset: u64,
        /// Its length, bytes.
        len: u64,
        /// How much of it there is, bytes.
        available: u64,
    },
    /// A packet that no capture has, so the bytes are not those of a packet's header.
    #[error(
        "the packet at byte {offset} claims {len} captured bytes, and no capture holds more than {limit} of one: \
         the file is damaged from there on, or was joined by other means than mergecap; what came before it was read"
    )]
    PacketLength {
        /// Where it begins.
        offset: u64,
        /// The length it claims.
        len: u32,
        /// The most there can be.
        limit: u32,
    },
    /// A pcapng block with an impossible length.
    #[error(
        "the block at byte {offset} claims a length of {len} bytes, which must be a multiple of 4 and at least {least}: \
         the file is damaged from there on; what came before it was read"
    )]
    BlockLength {
        /// Where it begins.
        offset: u64,
        /// The length it claims.
        len: u32,
        /// The least a block of its type can have.
        least: u32,
    },
    /// A pcapng block whose length at the end is not the one at its beginning.
    #[error(
        "the block at byte {offset} claims {first} bytes at its beginning and {last} at its end: \
         the file is damaged from there on; what came before it was read"
    )]
    BlockLengths {
        /// Where it begins.
        offset: u64,
        /// The length at its beginning.
        first: u32,
        /// The length at its end.
        last: u32,
    },
    /// A pcapng section that does not say in which byte order it is.
    #[error(
        "the section at byte {offset} has the byte-order mark {mark:02x?} instead of 1a2b3c4d or its reverse: \
         the file is damaged from there on; what came before it was read"
    )]
    ByteOrder {
        /// Where its header begins.
        offset: u64,
        /// What is there instead.
        mark: [u8; 4],
    },
    /// A version of the format that did not exist when this was written.
    #[error(
        "it is {format} {major}.{minor} from byte {offset} on, and {known} is what is read here; \
         `editcap -F pcap FILE NEW.pcap` may convert it"
    )]
    Version {
        /// Where the header begins that says so.
        offset: u64,
        /// The format's name.
        format: &'static str,
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
        /// The version that can be read.
        known: &'static str,
    },
}

impl CaptureError {
    /// Where in the capture reading stopped; `None` if it did not begin.
    #[must_use]
    pub const fn offset(&self) -> Option<u64> {
        match self {
            Self::Open(_) | Self::Empty | Self::Compression(_) | Self::Format { .. } => None,
            Self::Read { offset, .. }
            | Self::Gzip { offset, .. }
            | Self::CutOff { offset, .. }
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
pub enum Part {
    /// What a pcap file begins with.
    FileHeader,
    /// A packet with its own header.
    Packet,
    /// A pcapng block.
    Block,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FileHeader => "file header",
            Self::Packet => "packet",
            Self::Block => "block",
        })
    }
}
