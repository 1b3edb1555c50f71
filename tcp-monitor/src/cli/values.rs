//! The values that flags take: parsed once, valid from then on.

use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use thiserror::Error;

/// The format of standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// A log for people
    #[default]
    Text,
    /// One JSON object a line, with a versioned schema
    Json,
    /// Nothing but the summary; a running monitor has its metrics as well
    None,
}

/// What text for people shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TextView {
    /// Each event, in a line, as it happens
    #[default]
    Log,
    /// Each connection, when it is over, as a sequence diagram of its handshake and teardown
    Ladder,
    /// Each connection, when it is over, as tables of the segments of its handshake and teardown
    Table,
}

/// When text is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorMode {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always, whatever NO_COLOR says
    Always,
    /// Never
    Never,
}

impl ColorMode {
    /// Whether to colour, given whether the output is a terminal and the value of the variable
    /// `NO_COLOR`.
    ///
    /// `NO_COLOR` counts when it is set and not empty (<https://no-color.org>).
    #[must_use]
    pub fn colors(self, terminal: bool, no_color: Option<&OsStr>) -> bool {
        match self {
            Self::Auto => terminal && no_color.is_none_or(OsStr::is_empty),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Where metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// On this address.
    At(SocketAddr),
    /// Nowhere.
    Off,
}

impl Default for Listen {
    fn default() -> Self {
        Self::At(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT))
    }
}

impl FromStr for Listen {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| ValueError::Listen)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Off => f.write_str("none"),
        }
    }
}

/// The network namespaces to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetnsOption {
    /// Every one.
    #[default]
    All,
    /// The one of this process.
    Own,
    /// The one with this name in `/run/netns`.
    Named(String),
}

impl FromStr for NetnsOption {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            "self" => Ok(Self::Own),
            "" | "." | ".." => Err(ValueError::Netns),
            name if name.contains(['/', '\0']) => Err(ValueError::Netns),
            name => Ok(Self::Named(name.to_owned())),
        }
    }
}

/// The name of a network interface, by the kernel's rule (`dev_valid_name`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name: 1 to 15 bytes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = ValueError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let valid = (1..=MAX_INTERFACE_NAME).contains(&name.len())
            && name != "."
            && name != ".."
            && !name
                .bytes()
                .any(|byte| byte == b'/' || byte == b':' || byte == 0 || byte.is_ascii_whitespace());
        if valid { Ok(Self(name.to_owned())) } else { Err(ValueError::Interface) }
    }
}

/// Bytes of the ring buffer: a power of two from 4 KiB to 1 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSize(u32);

impl RingSize {
    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

impl Default for RingSize {
    fn default() -> Self {
        Self(4 << 20)
    }
}

impl FromStr for RingSize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (digits, shift) = match text.char_indices().next_back() {
            Some((end, 'K' | 'k')) => (&text[..end], 10),
            Some((end, 'M' | 'm')) => (&text[..end], 20),
            Some((end, 'G' | 'g')) => (&text[..end], 30),
            Some(_) | None => (text, 0),
        };
        let bytes = digits.parse::<u32>().ok().and_then(|number| number.checked_mul(1 << shift));
        let bytes = bytes.filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let bytes = bytes.ok_or(ValueError::RingSizeUnreadable)?;
        if !(MIN_RING_SIZE..=MAX_RING_SIZE).contains(&bytes) {
            return Err(ValueError::RingSizeOutOfRange);
        }
        if !bytes.is_power_of_two() {
            let above = Self(bytes.next_power_of_two());
            return Err(ValueError::RingSizeNotPowerOfTwo { below: Self(above.0 / 2), above });
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for RingSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.trailing_zeros() {
            30.. => write!(f, "{}G", self.0 >> 30),
            20..30 => write!(f, "{}M", self.0 >> 20),
            _ => write!(f, "{}K", self.0 >> 10),
        }
    }
}

/// Why a value cannot be used. clap puts the value and the flag before the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ValueError {
    /// `--listen`.
    #[error("not an IP address and a port: write 127.0.0.1:9899, [::1]:9899, 0.0.0.0:9899 or none")]
    Listen,
    /// `--netns`.
    #[error("not a network namespace: write all, self or a name that `ip netns` lists")]
    Netns,
    /// `--interface`.
    #[error("not an interface name: write one that `ip link` lists, of 1 to 15 bytes")]
    Interface,
    /// `--ring-size`: no number.
    #[error("not a size: write bytes, or a number with K, M or G, such as 256K or 16M")]
    RingSizeUnreadable,
    /// `--ring-size`: too small or too large.
    #[error("out of range: write a power of two from 4K to 1G")]
    RingSizeOutOfRange,
    /// `--ring-size`: the kernel takes powers of two only.
    #[error("not a power of two: write {below} or {above}")]
    RingSizeNotPowerOfTwo {
        /// The next smaller size that would do.
        below: RingSize,
        /// The next larger one.
        above: RingSize,
    },
    /// `--max-ports`, `--max-connections`, `--count`.
    #[error("write a whole number from 1 to {max}")]
    Number {
        /// The largest that will do.
        max: u64,
    },
    /// `--duration`, `--stuck-after`: no number.
    #[error("not a duration: write seconds, or a number with s, m or h, such as 30, 1.5, 10s or 5m")]
    DurationUnreadable,
    /// `--duration`, `--stuck-after`: 0 or too long.
    #[error("out of range: write more than 0 and at most 8760h")]
    DurationOutOfRange,
}

/// Parses `30`, `1.5`, `10s`, `5m` or `2h`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    let (number, unit) = match text.char_indices().next_back() {
        Some((end, 's')) => (&text[..end], 1.0),
        Some((end, 'm')) => (&text[..end], 60.0),
        Some((end, 'h')) => (&text[..end], 3600.0),
        Some(_) | None => (text, 1.0),
    };
    // Rust would also read `1e9`, `inf` and `-1`.
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(ValueError::DurationUnreadable);
    }
    let seconds = number.parse::<f64>().map_err(|_| ValueError::DurationUnreadable)? * unit;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() && duration <= MAX_DURATION => Ok(duration),
        Ok(_) | Err(_) => Err(ValueError::DurationOutOfRange),
    }
}

/// Parses as many ports as may have counters of their own.
pub(super) fn parse_max_ports(text: &str) -> Result<u16, ValueError> {
    parse_number(text, MAX_PORTS)
}

/// Parses as many connections as may be remembered.
pub(super) fn parse_max_connections(text: &str) -> Result<u32, ValueError> {
    parse_number(text, MAX_CONNECTIONS)
}

/// Parses as many events as may be written.
pub(super) fn parse_count(text: &str) -> Result<NonZeroU64, ValueError> {
    parse_number(text, NonZeroU64::MAX)
}

/// Parses a number from 1 to `max`.
fn parse_number<N: Copy + TryFrom<u64> + Into<u64>>(text: &str, max: N) -> Result<N, ValueError> {
    let max = max.into();
    let number = text.parse().ok().filter(|number| (1..=max).contains(number));
    number.and_then(|number| N::try_from(number).ok()).ok_or(ValueError::Number { max })
}

const DEFAULT_PORT: u16 = 9899;
/// The counters of as many ports take about 25 MiB per CPU.
const MAX_PORTS: u16 = 4096;
/// They take about 12 GiB.
const MAX_CONNECTIONS: u32 = 1 << 24;
/// `IFNAMSIZ` less the terminating NUL.
const MAX_INTERFACE_NAME: usize = 15;
/// The page size of most machines: the kernel demands a multiple of it.
const MIN_RING_SIZE: u32 = 4 << 10;
const MAX_RING_SIZE: u32 = 1 << 30;
const MAX_DURATION: Duration = Duration::from_secs(8760 * 3600);
