//! Capture files as a stream of TCP segments: pcap and pcapng, compressed by gzip or not, in constant memory.
//!
//! A [`Capture`] is an iterator. Packets that hold no TCP segment are left out and counted ([`Statistics`]). It
//! ends early, with a [`CaptureError`], only where the file itself makes no sense any more.
//!
//! Fragments and tunnels: the first fragment of an IP packet is read, what it says of its payload goes for itself
//! alone; what is encapsulated once more (IP in IP, GRE, VXLAN, MPLS, PPPoE) is not looked into.

mod error;
mod fields;
mod frame;
mod interface;
mod ip;
mod link;
mod options;
mod pcap;
mod pcapng;
mod reach;
mod reader;
mod statistics;
mod stream;

pub use error::{CaptureError, Part};
pub use link::LinkType;
pub use reader::{Capture, Packet, open};
pub use statistics::Statistics;

#[cfg(test)]
mod tests;
