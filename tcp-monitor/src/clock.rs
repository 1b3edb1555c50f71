//! The clock of the kernel programs' records.

use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`, nanoseconds.
pub(crate) fn monotonic_now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Never negative: the clock begins at boot.
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
