//! Control segments: SYN, FIN and RST, and which of them a segment counts as.

/// Bits of the low eight flags of a TCP header (RFC 9293, section 3.1).
pub mod flag {
    /// The sender has no more data.
    pub const FIN: u8 = 0x01;
    /// Synchronizes sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Resets the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgment number counts.
    pub const ACK: u8 = 0x10;
}

/// The kind of a control segment; the `flags` label of `segments_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SegmentKind {
    /// SYN without ACK.
    Syn = 0,
    /// SYN with ACK.
    SynAck = 1,
    /// FIN.
    Fin = 2,
    /// RST.
    Rst = 3,
}

impl SegmentKind {
    /// Every kind, in order of its number.
    pub const ALL: [Self; 4] = [Self::Syn, Self::SynAck, Self::Fin, Self::Rst];

    /// The kind of a segment with these low eight flags; `None` without SYN, FIN and RST.
    ///
    /// A segment counts once, also with contradictory flags: RST before SYN before FIN, the order
    /// in which a receiver checks them (RFC 9293, section 3.10.7.4).
    #[inline(always)]
    #[must_use]
    pub const fn of(flags: u8) -> Option<Self> {
        if flags & flag::RST != 0 {
            Some(Self::Rst)
        } else if flags & flag::SYN != 0 {
            Some(if flags & flag::ACK != 0 { Self::SynAck } else { Self::Syn })
        } else if flags & flag::FIN != 0 {
            Some(Self::Fin)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SegmentKind::{self, Fin, Rst, Syn, SynAck};
    use super::flag::{ACK, FIN, RST, SYN};

    #[test]
    fn rst_counts_before_syn_before_fin() {
        let table = [
            (0, None),
            (ACK, None),
            // URG, PSH, ECE, CWR.
            (!(FIN | SYN | RST), None),
            (SYN, Some(Syn)),
            (SYN | FIN, Some(Syn)),
            (SYN | ACK, Some(SynAck)),
            (SYN | ACK | FIN, Some(SynAck)),
            (FIN, Some(Fin)),
            (FIN | ACK, Some(Fin)),
            (RST, Some(Rst)),
            (RST | ACK, Some(Rst)),
            (RST | SYN | FIN | ACK, Some(Rst)),
        ];
        for (flags, kind) in table {
            assert_eq!(SegmentKind::of(flags), kind, "{flags:#04x}");
        }
    }
}
