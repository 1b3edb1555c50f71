//! One packet, as tshark decodes it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};

/// The columns that [`Packet::parse`] expects, in this order.
pub(crate) const FIELDS: [&str; 25] = [
    "tcp.stream",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.flags",
    "tcp.seq_raw",
    "tcp.ack_raw",
    "tcp.seq",
    "tcp.ack",
    "tcp.window_size_value",
    "tcp.checksum",
    "tcp.urgent_pointer",
    "tcp.hdr_len",
    "tcp.len",
    "tcp.options.mss_val",
    "tcp.options.wscale.shift",
    "tcp.options.sack_perm",
    "tcp.options.timestamp.tsval",
    "tcp.options.timestamp.tsecr",
    "tcp.analysis.retransmission",
    "tcp.analysis.fast_retransmission",
    "tcp.analysis.spurious_retransmission",
];

/// A TCP segment with Wireshark's analysis.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// Which connection of the capture.
    pub(crate) stream: u32,
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) seq_rel: u32,
    pub(crate) ack_rel: u32,
    pub(crate) len: u32,
    /// Every other number of the header, by its name in the agent's output.
    pub(crate) header: [(&'static str, u64); 4],
    pub(crate) options: Options,
    pub(crate) retransmission: bool,
}

/// TCP options, left out where the segment has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) mss: Option<u64>,
    pub(crate) wscale: Option<u64>,
    pub(crate) sack_permitted: bool,
    pub(crate) ts_val: Option<u64>,
    pub(crate) ts_ecr: Option<u64>,
}

pub(crate) const FIN: u16 = 1;
pub(crate) const SYN: u16 = 1 << 1;
pub(crate) const RST: u16 = 1 << 2;
pub(crate) const ACK: u16 = 1 << 4;

impl Packet {
    /// A line of tshark's table.
    pub(crate) fn parse(line: &str) -> Result<Self> {
        let cells: Vec<&str> = line.split('\t').collect();
        let [
            stream,
            ip_src,
            ip_dst,
            ipv6_src,
            ipv6_dst,
            src_port,
            dst_port,
            flags,
            seq,
            ack,
            seq_rel,
            ack_rel,
            window,
            checksum,
            urgent,
            header_len,
            len,
            mss,
            wscale,
            sack_permitted,
            ts_val,
            ts_ecr,
            retransmission,
            fast_retransmission,
            spurious_retransmission,
        ] = cells[..]
        else {
            bail!("tshark printed {} columns: {line}", cells.len());
        };
        let address = |v4: &str, v6: &str, port: &str| -> Result<SocketAddr> {
            let ip: IpAddr = if v4.is_empty() { v6 } else { v4 }.parse()?;
            Ok(SocketAddr::new(ip, port.parse()?))
        };
        let optional = |cell: &str| if cell.is_empty() { Ok(None) } else { number(cell).map(Some) };
        Ok(Self {
            stream: small(stream)?,
            src: address(ip_src, ipv6_src, src_port)?,
            dst: address(ip_dst, ipv6_dst, dst_port)?,
            flags: u16::try_from(number(flags)?)?,
            seq: small(seq)?,
            ack: small(ack)?,
            seq_rel: small(seq_rel)?,
            ack_rel: small(ack_rel)?,
            len: small(len)?,
            header: [
                ("window", number(window)?),
                ("checksum", number(checksum)?),
                ("urgent", number(urgent)?),
                ("header_len", number(header_len)?),
            ],
            options: Options {
                mss: optional(mss)?,
                wscale: optional(wscale)?,
                sack_permitted: !sack_permitted.is_empty(),
                ts_val: optional(ts_val)?,
                ts_ecr: optional(ts_ecr)?,
            },
            retransmission: [retransmission, fast_retransmission, spurious_retransmission]
                .iter()
                .any(|cell| !cell.is_empty()),
        })
    }

    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The acknowledgement number of a peer that received all of this segment (RFC 9293, 3.4: SYN
    /// and FIN count as one each).
    pub(crate) fn end(&self) -> u32 {
        let controls = u32::from(self.has(SYN)) + u32::from(self.has(FIN));
        self.seq.wrapping_add(self.len).wrapping_add(controls)
    }

    /// The names of the flags, in the order of the header.
    pub(crate) fn flag_names(&self) -> Vec<&'static str> {
        let names = ["NS", "CWR", "ECE", "URG", "ACK", "PSH", "RST", "SYN", "FIN"];
        names.iter().enumerate().filter(|(i, _)| self.has(1 << (8 - i))).map(|(_, name)| *name).collect()
    }
}

fn small(cell: &str) -> Result<u32> {
    Ok(u32::try_from(number(cell)?)?)
}

fn number(cell: &str) -> Result<u64> {
    match cell.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => cell.parse(),
    }
    .with_context(|| format!("tshark printed {cell:?} where a number belongs"))
}
