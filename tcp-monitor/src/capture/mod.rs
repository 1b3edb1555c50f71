//! Capture files as inputs of the tracker: pcap and pcapng, compressed by gzip or not, in constant
//! memory.
//!
//! A [`Capture`] is an iterator over TCP segments. Packets without one are skipped and counted
//! ([`Statistics`]). It ends early, with a [`CaptureError`], only where the file itself is damaged.
//!
//! A packet becomes a `Frame` (what either file format holds), whose headers a `Cursor` passes, and
//! then a [`SegmentInput`](crate::lifecycle::SegmentInput).
//!
//! Of a fragmented IP packet the first fragment is read; its payload length is that of this
//! fragment. Tunnels are not decoded: IP in IP, GRE, VXLAN, MPLS, PPPoE.

mod cursor;
mod error;
mod fields;
mod frame;
mod interface;
mod ip;
mod link;
mod options;
mod pcap;
mod pcapng;
mod reader;
mod statistics;
mod stream;

pub use error::{CaptureError, CapturePart};
pub use link::LinkType;
pub use reader::{Capture, open};
pub use statistics::Statistics;

#[cfg(test)]
mod tests;
