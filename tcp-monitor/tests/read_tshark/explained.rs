//! Where tshark and tcp-monitor differ, and why.

/// A known difference.
pub(crate) struct Explained {
    pub(crate) capture: &'static str,
    /// `None`: in any stream of the capture.
    pub(crate) stream: Option<usize>,
    pub(crate) field: &'static str,
    pub(crate) reason: &'static str,
}

pub(crate) const EXPLAINED: &[Explained] = &[
    Explained {
        capture: "scenarios/simultaneous_open.pcap",
        stream: Some(0),
        field: "retransmissions",
        reason: "an end that answers a SYN with its own retransmits that with an ACK: it is the answer",
    },
    Explained {
        capture: "scenarios/simultaneous_open.pcap",
        stream: Some(0),
        field: "handshake time",
        reason: "both in SYN_RECV, they are ESTABLISHED when they receive the SYN-ACK; tshark waits for an ACK",
    },
    Explained {
        capture: "sections.pcapng",
        stream: Some(0),
        field: "SYNs",
        reason: "the second section has the packets of the first once more, seen on other interfaces: duplicates, shown once",
    },
    Explained {
        capture: "sections.pcapng",
        stream: Some(0),
        field: "retransmissions",
        reason: "tshark takes duplicates seen on other interfaces for retransmissions",
    },
    Explained {
        capture: "short.pcap",
        stream: None,
        field: "segments in conversations",
        reason: "tshark leaves a segment with truncated options out of that table",
    },
];
