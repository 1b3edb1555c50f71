//! Single values as people write them.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use tcp_monitor_common::record::Role;

use crate::lifecycle::Time;
use crate::lifecycle::event::ClosedBy;
use crate::lifecycle::input::Process;

/// Time of day, to the microsecond.
pub(super) struct Clock<'a> {
    pub(super) time: Time,
    pub(super) time_zone: &'a TimeZone,
}

impl fmt::Display for Clock<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.time_zone.to_datetime(timestamp(self.time));
        let micros = at.subsec_nanosecond() / 1000;
        write!(f, "{:02}:{:02}:{:02}.{micros:06}", at.hour(), at.minute(), at.second())
    }
}

/// Date and time zone.
pub(super) struct Day<'a> {
    pub(super) time: Time,
    pub(super) time_zone: &'a TimeZone,
}

impl Day<'_> {
    /// What other times of the same day have, and no others.
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

/// From when to when, with date and time zone of the system.
pub(crate) struct Timestamps {
    pub(crate) first: Time,
    pub(crate) last: Time,
}

impl fmt::Display for Timestamps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time_zone = &TimeZone::system();
        let [first, last] = [self.first, self.last].map(|time| Day { time, time_zone });
        let [begin, end] = [self.first, self.last].map(|time| Clock { time, time_zone });
        write!(f, "{first} {begin} to ")?;
        if first.date() != last.date() {
            write!(f, "{last} ")?;
        }
        write!(f, "{end}")
    }
}

fn timestamp(time: Time) -> Timestamp {
    // 64 bits of nanoseconds end in 2554, long before a timestamp does.
    Timestamp::from_nanosecond(time.as_nanos().into()).unwrap_or(Timestamp::MAX)
}

/// A duration with three digits that count.
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

/// A number of bytes with three digits that count.
#[derive(Clone, Copy)]
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
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

/// A process by name. A process chooses its name; what could move a terminal's cursor is escaped.
pub(super) struct Name(pub(super) Process);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.0.comm.to_text().escape_debug(), self.0.pid)
    }
}

/// Who or what ended a connection, as the end with this role has it.
pub(super) const fn ended(closed_by: ClosedBy, role: Role) -> &'static str {
    match (closed_by, role) {
        (ClosedBy::Local, Role::Server) | (ClosedBy::Remote, Role::Client) => "closed by server",
        (ClosedBy::Local, Role::Client) | (ClosedBy::Remote, Role::Server) => "closed by client",
        (ClosedBy::Both, _) => "closed by both at once",
        (ClosedBy::LocalReset, Role::Server) | (ClosedBy::RemoteReset, Role::Client) => "reset by server",
        (ClosedBy::LocalReset, Role::Client) | (ClosedBy::RemoteReset, Role::Server) => "reset by client",
        (ClosedBy::TimedOut, _) => "timed out",
        (ClosedBy::Killed, _) => "killed",
    }
}

/// A label in words.
pub(super) fn spaced(label: &str) -> String {
    label.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Bytes, Human};

    #[test]
    fn numbers_have_three_digits_that_count() {
        let human = |micros| Human(Duration::from_micros(micros)).to_string();
        assert_eq!(
            [human(0), human(505), human(1_234), human(59_960)],
            ["0 µs", "505 µs", "1.23 ms", "60.0 ms"]
        );
        assert_eq!([human(7_980_000), human(119_000_000)], ["7.98 s", "119 s"]);
        assert_eq!([human(125_000_000), human(7_380_000_000)], ["2 min 5 s", "2 h 3 min"]);
        let bytes = |n| Bytes(n).to_string();
        assert_eq!([bytes(13), bytes(2048), bytes(u64::MAX)], ["13 B", "2.00 KiB", "17179869184 GiB"]);
    }
}
