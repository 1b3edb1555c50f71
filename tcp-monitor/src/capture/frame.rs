//! A captured packet, as both file formats have it.

use tcp_monitor_common::record::Direction;

use super::{error::CaptureError, link::LinkType};
use crate::lifecycle::Time;

/// One packet with its link-layer header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    /// When it was captured; `None` in a block without a timestamp.
    pub(super) time: Option<Time>,
    /// Number of the interface within the file.
    pub(super) interface: u32,
    /// Which way it went, if the file says so.
    pub(super) direction: Option<Direction>,
    /// The type of its link-layer header.
    pub(super) link: LinkType,
    /// Its length on the wire.
    pub(super) original_len: u32,
    /// The captured bytes.
    pub(super) bytes: &'a [u8],
}

/// The next item of a file.
#[derive(Debug)]
pub(super) enum FileItem<'a> {
    /// A packet.
    Frame(Frame<'a>),
    /// A malformed packet in an intact file.
    Malformed,
    /// Something else that Wireshark counts as a frame.
    Numbered,
    /// Something else.
    Other,
    /// The end of the file.
    End,
}

pub(super) type FileItemResult<'a> = Result<FileItem<'a>, CaptureError>;

/// The longest packet that tcpdump and Wireshark capture on the link types read here (libpcap:
/// `MAXIMUM_SNAPLEN`).
pub(super) const MAX_PACKET: u32 = 256 << 10;
