//! The one place that reads clocks. The program counts in monotonic time; the wall clock is only
//! printed.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::lifecycle::Time;

/// The time now, as the kernel programs count it (`bpf_ktime_get_ns`): `CLOCK_MONOTONIC` of the
/// initial time namespace, whichever one this process is in.
#[must_use]
pub fn now() -> Time {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    let offset = *OFFSET.get_or_init(time_namespace_offset);
    Time::from_nanos(read(ClockId::Monotonic).saturating_add_signed(offset.saturating_neg()))
}

/// The CPU time of the calling thread so far, including the kernel's work for it.
pub(crate) fn thread_cpu_time() -> Duration {
    Duration::from_nanos(read(ClockId::ThreadCPUTime))
}

/// A time of the wall clock: nanoseconds since the Unix epoch, UTC, up to the year 2554.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallTime(u64);

impl WallTime {
    /// The time `nanos` nanoseconds after the Unix epoch.
    #[must_use]
    pub const fn from_unix_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn as_unix_nanos(self) -> u64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / NANOS_PER_SEC.cast_unsigned()
    }

    /// Nanoseconds since the beginning of the second.
    #[must_use]
    pub const fn nanos(self) -> u32 {
        (self.0 % NANOS_PER_SEC.cast_unsigned()) as u32
    }
}

/// Converts times to wall clock time, for output.
///
/// The wall clock may be set or slewed at any time. So each reading of it counts from then on: a
/// time is converted as the wall clock showed it then, whatever happened to the clock since.
#[derive(Clone, Debug)]
pub struct WallClock {
    /// From when on the wall clock was ahead of monotonic time by how many nanoseconds; in order
    /// of time, never empty.
    offsets: VecDeque<(Time, i64)>,
}

impl WallClock {
    /// The system's wall clock.
    #[must_use]
    pub fn system() -> Self {
        let (now, wall, _) = read_both();
        Self::new(now, wall)
    }

    /// Of a capture, whose packets carry wall clock time: it is taken over as it is.
    #[must_use]
    pub fn of_capture() -> Self {
        Self::new(Time::default(), WallTime::default())
    }

    /// A clock that shows `wall` at `now`.
    #[must_use]
    pub fn new(now: Time, wall: WallTime) -> Self {
        Self { offsets: VecDeque::from([(now, offset(now, wall))]) }
    }

    /// Reads the system's wall clock. To be called often: between two readings, a step shows late.
    pub fn update(&mut self) {
        let (now, wall, uncertainty) = read_both();
        self.set_within(now, wall, uncertainty);
    }

    /// The wall clock shows `wall` at `now`, which is later than at the last call.
    pub fn set(&mut self, now: Time, wall: WallTime) {
        self.set_within(now, wall, 0);
    }

    /// As [`Self::set`], by a reading that may be wrong by `uncertainty` nanoseconds. Both clocks
    /// are slewed alike (adjtimex(2)): what differs by less is no step of the wall clock.
    fn set_within(&mut self, now: Time, wall: WallTime, uncertainty: u64) {
        let (offset, least) = (offset(now, wall), RESOLUTION.max(uncertainty));
        let is_new = self.offsets.back().is_none_or(|(_, last)| last.abs_diff(offset) >= least);
        if is_new {
            self.offsets.push_back((now, offset));
        }
        while self.offsets.len() > MAX_OFFSETS {
            self.offsets.pop_front();
        }
    }

    /// What the wall clock showed at `time`.
    #[must_use]
    pub fn at(&self, time: Time) -> WallTime {
        let known = self.offsets.iter().rev().find(|(since, _)| *since <= time);
        let offset = known.or(self.offsets.front()).map_or(0, |(_, offset)| *offset);
        WallTime(time.as_nanos().saturating_add_signed(offset))
    }
}

/// By how much the wall clock is ahead. Both clocks stay below 2^63 ns until 2262.
const fn offset(now: Time, wall: WallTime) -> i64 {
    wall.0.wrapping_sub(now.as_nanos()).cast_signed()
}

/// Both clocks at one moment, and by how many nanoseconds that may be wrong: the process may be
/// preempted between the readings.
fn read_both() -> (Time, WallTime, u64) {
    let before = now().as_nanos();
    let wall = read(ClockId::Realtime);
    let after = now().as_nanos();
    (Time::from_nanos(before.midpoint(after)), WallTime(wall), after.saturating_sub(before))
}

/// Nanoseconds; neither clock is negative.
fn read(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    let seconds = now.tv_sec.cast_unsigned().wrapping_mul(NANOS_PER_SEC.cast_unsigned());
    seconds.wrapping_add(now.tv_nsec.cast_unsigned())
}

/// By how many nanoseconds `CLOCK_MONOTONIC` is ahead of that of the initial time namespace.
fn time_namespace_offset() -> i64 {
    // The file shows the offsets of the namespace for children, which may be another one.
    let is_initial = fs::metadata(OWN_NAMESPACE).is_ok_and(|own| own.ino() == INITIAL_NAMESPACE);
    if is_initial {
        return 0;
    }
    // Before Linux 5.6 there are neither time namespaces nor this file.
    fs::read_to_string(OFFSETS).ok().and_then(|text| parse_offset(&text)).unwrap_or(0)
}

/// The offset of the monotonic clock in a file as `/proc/PID/timens_offsets`
/// (time_namespaces(7)): lines of clock, seconds and nanoseconds.
fn parse_offset(text: &str) -> Option<i64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        // Linux 5.6 wrote the clock's number.
        words.next().filter(|clock| matches!(*clock, "monotonic" | "1"))?;
        let (seconds, nanos): (i64, i64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        seconds.checked_mul(NANOS_PER_SEC)?.checked_add(nanos)
    })
}

const NANOS_PER_SEC: i64 = 1_000_000_000;
/// Smaller changes do not show in a log, which has microseconds.
const RESOLUTION: u64 = 1_000;
/// Steps of the wall clock that are remembered. The latest event to be written is a tenth of a
/// second old.
const MAX_OFFSETS: usize = 64;
const OFFSETS: &str = "/proc/self/timens_offsets";
const OWN_NAMESPACE: &str = "/proc/self/ns/time";
/// Kernel: `PROC_TIME_INIT_INO`.
const INITIAL_NAMESPACE: u64 = 0xefff_fffa;

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::{Duration, MAX_OFFSETS, Time, WallClock, WallTime, now, parse_offset};

    const HOUR: u64 = 3600 * SECOND;
    const SECOND: u64 = 1_000_000_000;
    const START: u64 = 1_800_000_000 * SECOND;

    fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    fn wall(nanos: u64) -> WallTime {
        WallTime::from_unix_nanos(nanos)
    }

    #[test]
    fn an_uncertain_reading_is_no_step_of_the_clock() {
        let mut clock = WallClock::new(at(0), wall(START));
        clock.set_within(at(SECOND), wall(START + SECOND + 40_000), 50_000);
        assert_eq!(clock.at(at(2 * SECOND)), wall(START + 2 * SECOND));
        clock.set_within(at(3 * SECOND), wall(START + 3 * SECOND + 60_000), 50_000);
        assert_eq!(clock.at(at(4 * SECOND)), wall(START + 4 * SECOND + 60_000));
    }

    #[test]
    fn a_time_is_converted_as_the_wall_clock_showed_it_then() {
        for step in [HOUR, 120 * SECOND, HOUR.wrapping_neg()] {
            let mut clock = WallClock::new(at(0), wall(START));
            clock.set(at(5 * SECOND), wall(START + 5 * SECOND));
            clock.set(at(6 * SECOND), wall((START + 6 * SECOND).wrapping_add(step)));
            assert_eq!(clock.at(at(5 * SECOND + 7)), wall(START + 5 * SECOND + 7));
            assert_eq!(clock.at(at(6 * SECOND)), wall((START + 6 * SECOND).wrapping_add(step)));
            assert_eq!(clock.at(at(9 * SECOND)), wall((START + 9 * SECOND).wrapping_add(step)));
        }
    }

    #[test]
    fn a_slewed_clock_keeps_few_readings_and_none_is_kept_of_a_steady_one() {
        let mut clock = WallClock::new(at(SECOND), wall(START));
        for reading in 1..1000 {
            clock.set(at(SECOND + reading * 50), wall(START + reading * 50));
        }
        assert_eq!(clock.offsets.len(), 1);
        for reading in 1..1000 {
            clock.set(at(reading * SECOND), wall(START + reading * SECOND + reading * 2000));
        }
        assert_eq!(clock.offsets.len(), MAX_OFFSETS);
        assert_eq!(clock.at(at(999 * SECOND)), wall(START + 999 * (SECOND + 2000)));
        // Before the first reading that is kept, that one counts.
        let oldest = 1000 - MAX_OFFSETS as u64;
        assert_eq!(clock.at(at(0)), wall(START + oldest * 2000));
    }

    #[test]
    fn packets_have_their_own_time() {
        let clock = WallClock::of_capture();
        for nanos in [0, 1, START, u64::MAX - 1] {
            assert_eq!(clock.at(at(nanos)).as_unix_nanos(), nanos);
        }
    }

    #[test]
    fn the_system_clock_shows_the_time_of_day() {
        let shown = Duration::from_nanos(WallClock::system().at(now()).as_unix_nanos());
        let expected = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
        assert!(expected.abs_diff(shown) < Duration::from_secs(1), "{expected:?} {shown:?}");
    }

    #[test]
    fn the_offset_of_a_time_namespace_is_read() {
        let both = "monotonic      86400         7\nboottime       100000         0\n";
        assert_eq!(parse_offset(both), Some(86_400_000_000_007));
        assert_eq!(parse_offset("1 -2 500000000\n"), Some(-1_500_000_000));
        for text in
            ["", "boottime 1 0\n", "monotonic\n", "monotonic x 0\n", "monotonic 9223372036854775807 0"]
        {
            assert_eq!(parse_offset(text), None, "{text}");
        }
    }
}
