//! Where tshark and tcp-monitor differ, and why neither is mended.

/// A difference that is known.
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
        reason: "who answers a SYN with his own sends that again, but with an ACK: it is the answer",
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
        reason: "the second section has the packets of the first once more, seen on other interfaces: copies, told once",
    },
    Explained {
        capture: "sections.pcapng",
        stream: Some(0),
        field: "retransmissions",
        reason: "tshark takes copies seen on other interfaces for retransmissions",
    },
    Explained {
        capture: "short.pcap",
        stream: None,
        field: "segments in conversations",
        reason: "tshark gives a segment up whose options are cut off before it gets to that table",
    },
];
