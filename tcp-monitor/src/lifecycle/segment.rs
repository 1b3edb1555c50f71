//! The TCP header of a segment (RFC 9293, section 3.1), parsed from its bytes.

use std::error::Error;
use std::fmt;

use tcp_monitor_common::rules::control::SegmentKind;

/// What a TCP header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpHeader {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number; means something only with [`Flags::ACK`].
    pub ack: u32,
    /// Control bits.
    pub flags: Flags,
    /// Window, unscaled.
    pub window: u16,
    /// Checksum as sent; on the sending host it is often left to the network card and then wrong.
    pub checksum: u16,
    /// Urgent pointer; means something only with [`Flags::URG`].
    pub urgent: u16,
    /// Length of the header with its options, bytes.
    pub header_len: u8,
    /// The options.
    pub options: Options,
}

/// Why bytes are no TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// Shorter than the fixed part.
    Truncated {
        /// Bytes there are.
        len: usize,
    },
    /// The data offset is less than the fixed part, or past the end.
    DataOffset {
        /// Bytes there are.
        len: usize,
        /// Bytes the data offset claims.
        header_len: usize,
    },
}

impl fmt::Display for BadHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { len } => {
                write!(f, "a TCP header of {len} bytes: the fixed part alone has {MIN_HEADER_LEN}")
            }
            Self::DataOffset { len, header_len } => {
                write!(f, "a TCP header of {len} bytes whose data offset says {header_len}")
            }
        }
    }
}

impl Error for BadHeader {}

impl TcpHeader {
    /// Parses the header that `bytes` begins with. Of malformed options, those before the first bad
    /// one are kept.
    ///
    /// # Errors If `bytes` holds less than one whole header.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadHeader> {
        let len = bytes.len();
        let Some((fixed, rest)) = bytes.split_first_chunk::<MIN_HEADER_LEN>() else {
            return Err(BadHeader::Truncated { len });
        };
        let header_len = (fixed[12] >> 4) * 4;
        let options = usize::from(header_len).checked_sub(MIN_HEADER_LEN).and_then(|n| rest.get(..n));
        let Some(options) = options else {
            return Err(BadHeader::DataOffset { len, header_len: header_len.into() });
        };
        Ok(Self {
            src_port: u16::from_be_bytes([fixed[0], fixed[1]]),
            dst_port: u16::from_be_bytes([fixed[2], fixed[3]]),
            seq: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ack: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
            flags: Flags(u16::from_be_bytes([fixed[12] & 1, fixed[13]])),
            window: u16::from_be_bytes([fixed[14], fixed[15]]),
            checksum: u16::from_be_bytes([fixed[16], fixed[17]]),
            urgent: u16::from_be_bytes([fixed[18], fixed[19]]),
            header_len,
            options: Options::parse(options),
        })
    }
}

/// The nine control bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// ECN nonce (RFC 3540, historic).
    pub const NS: Self = Self(1 << 8);
    /// Congestion window reduced.
    pub const CWR: Self = Self(1 << 7);
    /// ECN echo.
    pub const ECE: Self = Self(1 << 6);
    /// The urgent pointer is significant.
    pub const URG: Self = Self(1 << 5);
    /// The acknowledgment number is significant.
    pub const ACK: Self = Self(1 << 4);
    /// Push.
    pub const PSH: Self = Self(1 << 3);
    /// Reset the connection.
    pub const RST: Self = Self(1 << 2);
    /// Synchronize sequence numbers.
    pub const SYN: Self = Self(1 << 1);
    /// No more data from the sender.
    pub const FIN: Self = Self(1);

    /// Those of the low eight bits: byte 13 of the header, all but NS.
    #[must_use]
    pub const fn from_low_byte(byte: u8) -> Self {
        Self(byte as u16)
    }

    /// All nine, as in bytes 12 and 13 of the header.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Which control segment a segment with these flags counts as, if it is one.
    #[must_use]
    pub const fn kind(self) -> Option<SegmentKind> {
        SegmentKind::of((self.0 & 0xff) as u8)
    }

    /// Whether every bit of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These bits and those of `other`.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The names of the bits that are set, high bit first: the order of the event contract.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        FLAG_NAMES.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| name)
    }
}

/// The options that connections are set up with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size, bytes.
    pub mss: Option<u16>,
    /// Window scale: a shift count (RFC 7323).
    pub window_scale: Option<u8>,
    /// Selective acknowledgments are understood (RFC 2018).
    pub sack_permitted: bool,
    /// Timestamps (RFC 7323).
    pub timestamps: Option<Timestamps>,
}

/// The timestamps option, in ticks of the sender's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    /// The sender's clock (TSval).
    pub value: u32,
    /// The peer's clock, echoed (TSecr).
    pub echo: u32,
}

impl Options {
    fn parse(mut bytes: &[u8]) -> Self {
        let mut options = Self::default();
        while let Some((&kind, rest)) = bytes.split_first() {
            match kind {
                END => break,
                NO_OPERATION => {
                    bytes = rest;
                    continue;
                }
                _ => {}
            }
            let Some(len) = rest.first().map(|len| usize::from(*len)).filter(|len| *len >= 2) else { break };
            let Some((option, rest)) = bytes.split_at_checked(len) else { break };
            match (kind, &option[2..]) {
                (MSS, &[a, b]) => options.mss = Some(u16::from_be_bytes([a, b])),
                (WINDOW_SCALE, &[shift]) => options.window_scale = Some(shift),
                (SACK_PERMITTED, []) => options.sack_permitted = true,
                (TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => {
                    options.timestamps = Some(Timestamps {
                        value: u32::from_be_bytes([a, b, c, d]),
                        echo: u32::from_be_bytes([e, f, g, h]),
                    });
                }
                (MSS | WINDOW_SCALE | SACK_PERMITTED | TIMESTAMPS, _) => break,
                _ => {}
            }
            bytes = rest;
        }
        options
    }
}

/// Length of a header without options.
const MIN_HEADER_LEN: usize = 20;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const TIMESTAMPS: u8 = 8;

const FLAG_NAMES: [(Flags, &str); 9] = [
    (Flags::NS, "NS"),
    (Flags::CWR, "CWR"),
    (Flags::ECE, "ECE"),
    (Flags::URG, "URG"),
    (Flags::ACK, "ACK"),
    (Flags::PSH, "PSH"),
    (Flags::RST, "RST"),
    (Flags::SYN, "SYN"),
    (Flags::FIN, "FIN"),
];

#[cfg(test)]
mod tests {
    use super::{BadHeader, Flags, Options, TcpHeader, Timestamps};

    /// A SYN of Linux: MSS 1460, SACK permitted, timestamps, NOP, window scale 7.
    const SYN: [u8; 40] = [
        0xca, 0xd0, 0x22, 0xc3, 0x12, 0x13, 0x02, 0x6a, 0, 0, 0, 0, 0xa0, 0x02, 0xfa, 0xf0, 0x1c, 0x46, 0, 0,
        2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0x01, 0x02, 0x03, 0x04, 0, 0, 0, 0, 1, 3, 3, 7,
    ];

    #[test]
    fn a_syn_of_linux_is_read_whole() {
        assert_eq!(
            TcpHeader::parse(&SYN),
            Ok(TcpHeader {
                src_port: 51920,
                dst_port: 8899,
                seq: 303_235_690,
                ack: 0,
                flags: Flags::SYN,
                window: 64240,
                checksum: 0x1c46,
                urgent: 0,
                header_len: 40,
                options: Options {
                    mss: Some(1460),
                    window_scale: Some(7),
                    sack_permitted: true,
                    timestamps: Some(Timestamps { value: 0x0102_0304, echo: 0 }),
                },
            })
        );
    }

    #[test]
    fn nine_flags_are_named_high_bit_first() {
        let mut bytes = SYN;
        bytes[12] |= 1;
        bytes[13] = 0xff;
        let header = TcpHeader::parse(&bytes).expect("the length did not change");
        let names: Vec<_> = header.flags.names().collect();
        assert_eq!(names, ["NS", "CWR", "ECE", "URG", "ACK", "PSH", "RST", "SYN", "FIN"]);
    }

    #[test]
    fn options_before_a_malformed_one_are_kept() {
        let mss = Options { mss: Some(1460), ..Options::default() };
        for malformed in
            [&[3, 0][..], &[3, 1], &[3, 4, 7, 7], &[3, 200, 7], &[3], &[8, 9, 0, 0, 0, 0, 0, 0, 0]]
        {
            let bytes = [&[2, 4, 0x05, 0xb4], malformed, &[4, 2]].concat();
            // A length that lies swallows what follows, or there is too little left: never more
            // than the MSS.
            assert_eq!(Options::parse(&bytes), mss, "{bytes:?}");
        }
        assert_eq!(Options::parse(&[2, 4, 0x05, 0xb4, 0, 4, 2]), mss, "after the end of options");
        let sack = Options { sack_permitted: true, ..mss };
        assert_eq!(
            Options::parse(&[2, 4, 0x05, 0xb4, 254, 3, 0, 4, 2]),
            sack,
            "an unknown option is skipped"
        );
    }

    #[test]
    fn short_headers_are_refused() {
        assert_eq!(TcpHeader::parse(&SYN[..19]), Err(BadHeader::Truncated { len: 19 }));
        assert_eq!(TcpHeader::parse(&SYN[..39]), Err(BadHeader::DataOffset { len: 39, header_len: 40 }));
        let mut bytes = SYN;
        bytes[12] = 0x40;
        assert_eq!(TcpHeader::parse(&bytes), Err(BadHeader::DataOffset { len: 40, header_len: 16 }));
    }

    #[test]
    fn no_bytes_make_the_parser_panic() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..200_000_u32 {
            let mut bytes = [0; 64];
            for byte in &mut bytes {
                // xorshift64
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                *byte = random.to_le_bytes()[0];
            }
            let len = (round % 65) as usize;
            if let Ok(header) = TcpHeader::parse(&bytes[..len]) {
                assert!((20..=60).contains(&header.header_len) && usize::from(header.header_len) <= len);
                assert_eq!(header.seq.to_be_bytes(), bytes[4..8]);
            }
        }
    }
}
