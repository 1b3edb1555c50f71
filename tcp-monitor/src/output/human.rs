//! Values for people: times, durations, bytes, names.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use tcp_monitor_common::record::Role;

use super::append::{Append, Digits, SecondText};
use crate::clock::WallTime;
use crate::lifecycle::event::ClosedBy;
use crate::lifecycle::input::Process;

/// In place of a time of day that is not known.
pub(super) const NO_TIME: &str = "--:--:--.------";

/// Times of day to the microsecond, and dates, in a time zone.
#[derive(Clone, Debug)]
pub(super) struct LocalTime {
    time_zone: TimeZone,
    second: SecondText,
}

impl LocalTime {
    pub(super) fn new(time_zone: TimeZone) -> Self {
        Self { time_zone, second: SecondText::default() }
    }

    /// The time of day.
    pub(super) fn time_of_day(&mut self, time: WallTime) -> (&str, Digits<6>) {
        let Self { time_zone, second } = self;
        let (seconds, micros) = (time.seconds(), time.nanos() / 1000);
        let text = second.of(seconds, |text| {
            let at = time_zone.to_datetime(timestamp(time));
            let [hour, minute, second] = [at.hour(), at.minute(), at.second()];
            format_args!("{hour:02}:{minute:02}:{second:02}.").append_to(text);
        });
        (text, Digits(micros))
    }

    /// The date, without the zone.
    pub(super) fn date(&self, time: WallTime) -> Date {
        self.time_zone.to_datetime(timestamp(time)).date()
    }

    /// Date and time zone.
    pub(super) fn day(&self, time: WallTime) -> String {
        let zone = self.time_zone.to_offset_info(timestamp(time));
        format!("{} {}", self.date(time), zone.abbreviation())
    }
}

/// The period from `first` to `last`, with date, in the time zone of the system.
pub(crate) struct Period {
    pub(crate) first: WallTime,
    pub(crate) last: WallTime,
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = *self;
        let mut local = LocalTime::new(TimeZone::system());
        write!(f, "{} {} to ", local.day(first), local.time_of_day(first).to_text())?;
        if local.date(first) != local.date(last) {
            write!(f, "{} ", local.day(last))?;
        }
        f.write_str(&local.time_of_day(last).to_text())
    }
}

fn timestamp(time: WallTime) -> Timestamp {
    // 64 bits of nanoseconds end in 2554, long before a timestamp does.
    Timestamp::from_nanosecond(time.as_unix_nanos().into()).unwrap_or(Timestamp::MAX)
}

/// A duration with three significant digits.
#[derive(Clone, Copy)]
pub(super) struct Human(pub(super) Duration);

impl Append for Human {
    fn append_to(&self, to: &mut String) {
        let (seconds, micros) = (self.0.as_secs(), self.0.as_micros());
        match seconds {
            0 if micros < 1000 => (micros, " µs").append_to(to),
            0 => (ThreeDigits(self.0.as_secs_f64() * 1e3), " ms").append_to(to),
            1..120 => (ThreeDigits(self.0.as_secs_f64()), " s").append_to(to),
            120..7200 => (seconds / 60, " min ", seconds % 60, " s").append_to(to),
            _ => (seconds / 3600, " h ", seconds / 60 % 60, " min").append_to(to),
        }
    }
}

/// A number of bytes with three significant digits.
#[derive(Clone, Copy)]
pub(super) struct ByteCount(pub(super) u64);

impl Append for ByteCount {
    fn append_to(&self, to: &mut String) {
        let bytes = self.0 as f64;
        match self.0 {
            0..1024 => (self.0, " B").append_to(to),
            0x400..0x10_0000 => (ThreeDigits(bytes / 1024.0), " KiB").append_to(to),
            0x10_0000..0x4000_0000 => (ThreeDigits(bytes / 1_048_576.0), " MiB").append_to(to),
            0x4000_0000.. => (ThreeDigits(bytes / 1_073_741_824.0), " GiB").append_to(to),
        }
    }
}

struct ThreeDigits(f64);

impl Append for ThreeDigits {
    fn append_to(&self, to: &mut String) {
        let decimals = if self.0 < 9.995 {
            2
        } else if self.0 < 99.95 {
            1
        } else {
            0
        };
        format_args!("{:.decimals$}", self.0).append_to(to);
    }
}

/// How often.
pub(super) struct Times(pub(super) u32);

impl Append for Times {
    fn append_to(&self, to: &mut String) {
        match self.0 {
            1 => to.push_str("once"),
            times => (times, " times").append_to(to),
        }
    }
}

/// A process by name. Processes choose their names: control characters are escaped.
pub(super) struct Name(pub(super) Process);

impl Append for Name {
    fn append_to(&self, to: &mut String) {
        append_escaped(&self.0.comm.to_text(), to);
        ('[', self.0.pid, ']').append_to(to);
    }
}

/// A network namespace by name. Names may be any bytes: control characters are escaped.
pub(super) struct NetnsLabel<'a>(pub(super) &'a str);

impl Append for NetnsLabel<'_> {
    fn append_to(&self, to: &mut String) {
        to.push_str("netns:");
        append_escaped(self.0, to);
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

impl Append for Ending {
    fn append_to(&self, to: &mut String) {
        match self {
            Self::ClosedBy(role) => ("closed by ", role.label()).append_to(to),
            Self::ClosedByBoth => to.push_str("closed by both at once"),
            Self::ResetBy(role) => ("reset by ", role.label()).append_to(to),
            Self::TimedOut => to.push_str("timed out"),
            Self::Killed => to.push_str("killed"),
        }
    }
}

/// A label in words.
pub(super) struct Spaced(pub(super) &'static str);

impl Append for Spaced {
    fn append_to(&self, to: &mut String) {
        for (index, word) in self.0.split('_').enumerate() {
            if index > 0 {
                to.push(' ');
            }
            to.push_str(word);
        }
    }
}

fn append_escaped(text: &str, to: &mut String) {
    if text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\')) {
        to.push_str(text);
    } else {
        to.extend(text.escape_debug());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Append, ByteCount, Human};

    #[test]
    fn numbers_have_three_significant_digits() {
        let human = |micros| Human(Duration::from_micros(micros)).to_text();
        assert_eq!(
            [human(0), human(505), human(1_234), human(59_960)],
            ["0 µs", "505 µs", "1.23 ms", "60.0 ms"]
        );
        assert_eq!([human(7_980_000), human(119_000_000)], ["7.98 s", "119 s"]);
        assert_eq!([human(125_000_000), human(7_380_000_000)], ["2 min 5 s", "2 h 3 min"]);
        let bytes = |n| ByteCount(n).to_text();
        assert_eq!([bytes(13), bytes(2048), bytes(u64::MAX)], ["13 B", "2.00 KiB", "17179869184 GiB"]);
    }
}
