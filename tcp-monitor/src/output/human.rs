//! Values for people: times, durations, bytes, names.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use tcp_monitor_common::record::Role;

use crate::clock::WallTime;
use crate::lifecycle::event::ClosedBy;
use crate::lifecycle::input::Process;

/// Time of day, to the microsecond; dashes if it is not known.
pub(super) struct TimeOfDay<'a> {
    pub(super) time: Option<WallTime>,
    pub(super) time_zone: &'a TimeZone,
}

impl fmt::Display for TimeOfDay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(time) = self.time else { return f.write_str("--:--:--.------") };
        let at = self.time_zone.to_datetime(timestamp(time));
        let micros = at.subsec_nanosecond() / 1000;
        write!(f, "{:02}:{:02}:{:02}.{micros:06}", at.hour(), at.minute(), at.second())
    }
}

/// Date and time zone.
pub(super) struct Day<'a> {
    pub(super) time: WallTime,
    pub(super) time_zone: &'a TimeZone,
}

impl Day<'_> {
    /// The date, without the zone.
    pub(super) fn date(&self) -> Date {
        self.time_zone.to_datetime(timestamp(self.time)).date()
    }
}

impl fmt::Display for Day<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = self.time_zone.to_offset_info(timestamp(self.time));
        write!(f, "{} {}", self.date(), zone.abbreviation())
    }
}

/// The period from `first` to `last`, with date, in the time zone of the system.
pub(crate) struct Period {
    pub(crate) first: WallTime,
    pub(crate) last: WallTime,
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time_zone = &TimeZone::system();
        let [first, last] = [self.first, self.last].map(|time| Day { time, time_zone });
        let [begin, end] = [self.first, self.last].map(|time| TimeOfDay { time: Some(time), time_zone });
        write!(f, "{first} {begin} to ")?;
        if first.date() != last.date() {
            write!(f, "{last} ")?;
        }
        write!(f, "{end}")
    }
}

fn timestamp(time: WallTime) -> Timestamp {
    // 64 bits of nanoseconds end in 2554, long before a timestamp does.
    Timestamp::from_nanosecond(time.as_unix_nanos().into()).unwrap_or(Timestamp::MAX)
}

/// A duration with three significant digits.
#[derive(Clone, Copy)]
pub(super) struct Human(pub(super) Duration);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0.as_secs(), self.0.as_micros());
        match seconds {
            0 if micros < 1000 => write!(f, "{micros} µs"),
            0 => write!(f, "{} ms", ThreeDigits(self.0.as_secs_f64() * 1e3)),
            1..120 => write!(f, "{} s", ThreeDigits(self.0.as_secs_f64())),
            120..7200 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            _ => write!(f, "{} h {} min", seconds / 3600, seconds / 60 % 60),
        }
    }
}

/// A number of bytes with three significant digits.
#[derive(Clone, Copy)]
pub(super) struct ByteCount(pub(super) u64);

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1024 => write!(f, "{} B", self.0),
            0x400..0x10_0000 => write!(f, "{} KiB", ThreeDigits(bytes / 1024.0)),
            0x10_0000..0x4000_0000 => write!(f, "{} MiB", ThreeDigits(bytes / 1_048_576.0)),
            0x4000_0000.. => write!(f, "{} GiB", ThreeDigits(bytes / 1_073_741_824.0)),
        }
    }
}

struct ThreeDigits(f64);

impl fmt::Display for ThreeDigits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = if self.0 < 9.995 {
            2
        } else if self.0 < 99.95 {
            1
        } else {
            0
        };
        write!(f, "{:.decimals$}", self.0)
    }
}

/// How often.
pub(super) struct Times(pub(super) u32);

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("once"),
            times => write!(f, "{times} times"),
        }
    }
}

/// A process by name. Processes choose their names: control characters are escaped.
pub(super) struct Name(pub(super) Process);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.0.comm.to_text().escape_debug(), self.0.pid)
    }
}

/// A network namespace by name. Names may be any bytes: control characters are escaped.
pub(super) struct NetnsLabel<'a>(pub(super) &'a str);

impl fmt::Display for NetnsLabel<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "netns:{}", self.0.escape_debug())
    }
}

/// Who or what ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The end whose FIN came first.
    ClosedBy(Role),
    /// Both FINs crossed.
    ClosedByBoth,
    /// The end that sent a RST.
    ResetBy(Role),
    TimedOut,
    Killed,
}

impl Ending {
    /// The ending that an end with this role reports.
    pub(super) const fn of(closed_by: ClosedBy, role: Role) -> Self {
        let peer = match role {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        };
        match closed_by {
            ClosedBy::Local => Self::ClosedBy(role),
            ClosedBy::Remote => Self::ClosedBy(peer),
            ClosedBy::Both => Self::ClosedByBoth,
            ClosedBy::LocalReset => Self::ResetBy(role),
            ClosedBy::RemoteReset => Self::ResetBy(peer),
            ClosedBy::TimedOut => Self::TimedOut,
            ClosedBy::Killed => Self::Killed,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClosedBy(role) => write!(f, "closed by {}", role.label()),
            Self::ClosedByBoth => f.write_str("closed by both at once"),
            Self::ResetBy(role) => write!(f, "reset by {}", role.label()),
            Self::TimedOut => f.write_str("timed out"),
            Self::Killed => f.write_str("killed"),
        }
    }
}

/// A label in words.
pub(super) fn spaced(label: &str) -> String {
    label.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{ByteCount, Human};

    #[test]
    fn numbers_have_three_significant_digits() {
        let human = |micros| Human(Duration::from_micros(micros)).to_string();
        assert_eq!(
            [human(0), human(505), human(1_234), human(59_960)],
            ["0 µs", "505 µs", "1.23 ms", "60.0 ms"]
        );
        assert_eq!([human(7_980_000), human(119_000_000)], ["7.98 s", "119 s"]);
        assert_eq!([human(125_000_000), human(7_380_000_000)], ["2 min 5 s", "2 h 3 min"]);
        let bytes = |n| ByteCount(n).to_string();
        assert_eq!([bytes(13), bytes(2048), bytes(u64::MAX)], ["13 B", "2.00 KiB", "17179869184 GiB"]);
    }
}
