//! The result of the check on the numbers of a step.

/// The numbers of a step against those that follow from the segments before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// What the acknowledgment number acknowledges; `None` if that was not seen.
    pub ack: Option<AckCheck>,
    /// What the sequence number should be; `None` if what precedes it was not seen.
    pub seq: Option<SeqCheck>,
}

impl Check {
    /// Nothing is known to be wrong.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.ack.is_none_or(|ack| ack.holds) && self.seq.is_none_or(|seq| seq.holds)
    }
}

/// An acknowledgment number against the segment it acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckCheck {
    /// What is acknowledged.
    pub of: Acknowledged,
    /// Sequence number of the segment acknowledged.
    pub seq: u32,
    /// Its payload, bytes.
    pub len: u32,
    /// The acknowledgment number is [the right one](Self::expected).
    pub holds: bool,
}

impl AckCheck {
    /// `seq` + `len`, and one more for a SYN or FIN (RFC 9293, section 3.4).
    #[must_use]
    pub const fn expected(&self) -> u32 {
        self.seq.wrapping_add(self.len).wrapping_add(self.of.flag_len())
    }
}

/// What an acknowledgment number acknowledges, at its highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Acknowledged {
    /// A SYN or SYN-ACK.
    Syn,
    /// Data.
    Data,
    /// A FIN, with the data it carried.
    Fin,
}

impl Acknowledged {
    /// The name in JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::Data => "data",
            Self::Fin => "fin",
        }
    }

    /// What the flag takes of sequence space.
    #[must_use]
    pub const fn flag_len(self) -> u32 {
        match self {
            Self::Syn | Self::Fin => 1,
            Self::Data => 0,
        }
    }
}

/// A sequence number against the one that is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeqCheck {
    /// The one that the peer acknowledged last, or what follows on what the sender sent last. Of a
    /// retransmission, the one it had; of a RST that answers a SYN, 0 (RFC 9293, section 3.10.7.1).
    pub expected: u32,
    /// It is that one.
    pub holds: bool,
}
