//! How many hash tables were looked into, for the test of what a segment costs.

#[cfg(test)]
use std::cell::Cell;

#[cfg(test)]
thread_local! {
    static LOOKUPS: Cell<u32> = const { Cell::new(0) };
}

/// A hash table is looked into, once or for the same key again and again.
#[inline]
pub(super) fn count() {
    #[cfg(test)]
    LOOKUPS.with(|lookups| lookups.set(lookups.get() + 1));
}

/// How many there were since the last call.
#[cfg(test)]
pub(super) fn take() -> u32 {
    LOOKUPS.with(|lookups| lookups.replace(0))
}
