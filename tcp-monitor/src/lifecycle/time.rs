//! A point in time, as inputs and events carry it.

use std::num::NonZeroU64;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds of a clock that is never set: CLOCK_MONOTONIC on a running agent, and in a capture
/// the time of its packets. Arithmetic saturates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time {
    /// One more than the nanoseconds, so that an `Option<Time>` takes no more memory. There are
    /// many.
    successor: NonZeroU64,
}

impl Time {
    /// The point `nanos` nanoseconds after the start of the clock.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self { successor: NonZeroU64::MIN.saturating_add(nanos) }
    }

    /// Nanoseconds since the start of the clock.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.successor.get() - 1
    }

    /// How long after `earlier` this is; zero if it is before: records of two CPUs can be slightly
    /// out of order.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.successor.get().saturating_sub(earlier.successor.get()))
    }
}

impl Default for Time {
    /// The start of the clock.
    fn default() -> Self {
        Self::from_nanos(0)
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self { successor: self.successor.saturating_add(nanos(duration)) }
    }
}

impl Sub<Duration> for Time {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self::from_nanos(self.as_nanos().saturating_sub(nanos(duration)))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Duration, Time};

    #[test]
    fn times_end_where_they_cannot_be_counted_any_more() {
        let (first, last) = (Time::default(), Time::from_nanos(u64::MAX));
        assert_eq!((first.as_nanos(), last.as_nanos()), (0, u64::MAX - 1));
        assert_eq!((first - Duration::from_secs(1), last + Duration::from_secs(1)), (first, last));
        let later = first + Duration::from_nanos(7);
        assert_eq!(
            (later.as_nanos(), later.since(first), first.since(later)),
            (7, Duration::from_nanos(7), Duration::ZERO)
        );
        assert_eq!(size_of::<Option<Time>>(), size_of::<Time>());
    }
}
