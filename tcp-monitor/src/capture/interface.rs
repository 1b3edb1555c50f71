//! An interface of a pcapng section: its link type and how its timestamps count.

use super::{
    fields::{ByteOrder, Fields},
    link::LinkType,
    options::options,
};
use crate::lifecycle::Time;

/// An CaptureInterface Description Block.
#[derive(Clone, Debug)]
pub(super) struct CaptureInterface {
    /// The type of its link-layer headers.
    pub(super) link: LinkType,
    /// The most bytes captured of a packet, 0 for no limit.
    pub(super) snap_len: u32,
    /// Its name on the capturing host.
    pub(super) name: Option<Box<str>>,
    resolution: Resolution,
    /// Seconds to add to each timestamp.
    offset: i64,
}

/// The unit of timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolution {
    /// Units of 10^-n seconds.
    Decimal(u8),
    /// Units of 2^-n seconds.
    Binary(u8),
}

impl CaptureInterface {
    /// Parses the body of the block; `None` if it is too short.
    pub(super) fn parse(order: ByteOrder, body: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(order, body);
        let (link, _reserved, snap_len) = (fields.u16()?, fields.u16()?, fields.u32()?);
        let mut interface = Self {
            link: LinkType(link),
            snap_len,
            name: None,
            resolution: Resolution::Decimal(6),
            offset: 0,
        };
        for (code, value) in options(fields) {
            match (code, value) {
                (NAME, name) if name.len() <= MAX_NAME => {
                    interface.name = str::from_utf8(name).ok().map(Into::into);
                }
                (TSRESOL, &[resolution]) => interface.resolution = Resolution::parse(resolution),
                (TSOFFSET, &[a, b, c, d, e, f, g, h]) => {
                    interface.offset = order.i64([a, b, c, d, e, f, g, h]);
                }
                _ => {}
            }
        }
        Some(interface)
    }

    /// The time of a timestamp, clamped to the years 1970 to 2554.
    pub(super) fn time(&self, ticks: u64) -> Time {
        let nanos = self.resolution.nanos(ticks) + i128::from(self.offset) * 1_000_000_000;
        Time::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
    }
}

impl Resolution {
    const fn parse(value: u8) -> Self {
        let exponent = value & 0x7f;
        if value & 0x80 == 0 { Self::Decimal(exponent) } else { Self::Binary(exponent) }
    }

    fn nanos(self, ticks: u64) -> i128 {
        let ticks = i128::from(ticks);
        match self {
            Self::Decimal(exponent @ 0..=9) => ticks * 10_i128.pow(u32::from(9 - exponent)),
            // From 10^-29 seconds on, 2^64 units are less than a nanosecond.
            Self::Decimal(exponent @ 10..=28) => ticks / 10_i128.pow(u32::from(exponent - 9)),
            Self::Decimal(_) => 0,
            Self::Binary(exponent) => (ticks * 1_000_000_000) >> exponent,
        }
    }
}

const NAME: u16 = 2;
const TSRESOL: u16 = 9;
const TSOFFSET: u16 = 14;

/// Four times as long as the device names of Windows, the longest in use.
const MAX_NAME: usize = 255;
