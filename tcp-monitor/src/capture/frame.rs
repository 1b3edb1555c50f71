//! What both file formats hold: packets as they were captured.

use tcp_monitor_common::record::Direction;

use super::{error::CaptureError, link::LinkType};
use crate::lifecycle::Time;

/// One packet with its link-layer header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    /// When it was captured; `None` where the format has no room for it.
    pub(super) time: Option<Time>,
    /// Number of the interface within the file.
    pub(super) interface: u32,
    /// Which way it went, if the file says so.
    pub(super) direction: Option<Direction>,
    /// What its bytes begin with.
    pub(super) link: LinkType,
    /// Its length on the wire.
    pub(super) original_len: u32,
    /// What was captured of it.
    pub(super) bytes: &'a [u8],
}

/// What was found at one place of a file.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// A packet.
    Frame(Frame<'a>),
    /// A packet that makes no sense, in a file that still does.
    Malformed,
    /// Something else that Wireshark numbers along with the packets.
    Numbered,
    /// Something else.
    Other,
    /// The end of the file.
    End,
}

pub(super) type StepResult<'a> = Result<Step<'a>, CaptureError>;

/// The longest packet that tcpdump and Wireshark capture on the link types read here (libpcap: `MAXIMUM_SNAPLEN`).
pub(super) const MAX_PACKET: u32 = 256 << 10;
