//! Counts of the packets of a capture.

use std::collections::BTreeMap;

use super::{cursor::NotSegment, link::LinkType};

/// How many packets there were, and how many TCP segments. Each other packet is in exactly one
/// count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// All packets.
    pub packets: u64,
    /// TCP segments that were returned.
    pub tcp: u64,
    /// Of another protocol, or TCP in a tunnel.
    pub not_tcp: u64,
    /// Fragments of IP packets after the first, without the TCP header.
    pub later_fragments: u64,
    /// Truncated by the capture's snap length before the end of the fixed TCP header.
    pub truncated: u64,
    /// With headers that contradict each other or the length of the packet, or of an interface that
    /// the file does not describe.
    pub malformed: u64,
    /// Of a link type that is not supported; by link type, of which there are at most 65,536.
    pub unknown_link: BTreeMap<LinkType, u64>,
    /// Returned segments without a timestamp (Simple Packet Blocks of pcapng), which have the time
    /// of the packet before, if one had a time.
    pub untimed: u64,
}

impl Statistics {
    /// Adds those of another capture.
    pub fn add(&mut self, other: &Self) {
        let Self { packets, tcp, not_tcp, later_fragments, truncated, malformed, unknown_link, untimed } =
            other;
        self.packets += packets;
        self.tcp += tcp;
        self.not_tcp += not_tcp;
        self.later_fragments += later_fragments;
        self.truncated += truncated;
        self.malformed += malformed;
        for (link, count) in unknown_link {
            *self.unknown_link.entry(*link).or_default() += count;
        }
        self.untimed += untimed;
    }

    pub(super) fn count(&mut self, reason: NotSegment, link: LinkType) {
        let count = match reason {
            NotSegment::OtherProtocol => &mut self.not_tcp,
            NotSegment::LaterFragment => &mut self.later_fragments,
            NotSegment::Truncated => &mut self.truncated,
            NotSegment::Malformed => &mut self.malformed,
            NotSegment::UnknownLink => self.unknown_link.entry(link).or_default(),
        };
        *count += 1;
    }
}
