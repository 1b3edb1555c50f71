//! How long a trial waits for something: as long as there is progress, within a bound.
//!
//! On a machine that is busy with other work everything takes several times as long, so no wait is
//! limited by the time that a quiet machine needs. What ends a wait is that nothing changes any
//! more.

use std::{
    fmt::Debug,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Condvar, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// A wait fails after so long without progress. The longest step without a visible sign is the
/// start of an agent: it verifies and attaches its programs in less than 1 s, and in some 10 s with
/// the processors shared by ten other tasks.
pub(crate) const STALLED: Duration = Duration::from_secs(60);
/// A wait fails after so long in any case: something changes all the time, and what is awaited does
/// not come.
const BOUND: Duration = Duration::from_secs(300);

/// The end of a wait, which progress puts off.
pub(crate) struct Deadline {
    begun: Instant,
    progressed: Instant,
    patience: Duration,
    /// Hash of what was observed last.
    observed: Option<u64>,
}

impl Deadline {
    pub(crate) fn new() -> Self {
        Self::after(Duration::ZERO)
    }

    /// A deadline after a pause that is known to come first.
    pub(crate) fn after(pause: Duration) -> Self {
        let begun = Instant::now() + pause;
        Self { begun, progressed: begun, patience: STALLED, observed: None }
    }

    /// The same, but ends after so long without progress.
    pub(crate) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Something was read, or has changed.
    pub(crate) fn progress(&mut self) {
        self.progressed = self.progressed.max(Instant::now());
    }

    /// What differs from the observation before is progress.
    pub(crate) fn observe(&mut self, what: &impl Hash) {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        if self.observed.replace(hasher.finish()) != Some(hasher.finish()) {
            self.progress();
        }
    }

    /// How long there may be no progress from now on.
    pub(crate) fn left(&self) -> Duration {
        let end = (self.progressed + self.patience).min(self.begun + BOUND);
        end.saturating_duration_since(Instant::now())
    }

    /// # Errors
    /// If the wait is over.
    pub(crate) fn check(&self) -> Result<()> {
        if !self.left().is_zero() {
            return Ok(());
        }
        if self.begun.elapsed() < BOUND {
            bail!("no progress for {:?}", self.patience);
        }
        bail!("not within {BOUND:?}, though there was progress");
    }
}

/// Observes something until it is as expected, where there is no notification to wait for.
///
/// # Errors
/// If it cannot be observed, or is not `reached` in time; then with the last observation.
pub(crate) fn poll_until<T: Hash + Debug>(
    what: &str,
    observe: impl FnMut() -> Result<T>,
    reached: impl Fn(&T) -> bool,
) -> Result<T> {
    poll_by(Deadline::new(), what, observe, reached)
}

/// The same with a deadline of the caller.
pub(crate) fn poll_by<T: Hash + Debug>(
    mut deadline: Deadline,
    what: &str,
    mut observe: impl FnMut() -> Result<T>,
    reached: impl Fn(&T) -> bool,
) -> Result<T> {
    let mut pause = SHORTEST_PAUSE;
    loop {
        let observed = observe()?;
        if reached(&observed) {
            return Ok(observed);
        }
        deadline.observe(&observed);
        deadline.check().with_context(|| format!("waited for {what}, and observed {observed:#?}"))?;
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits until `find` finds something in what a mutex guards. Each notification of `changed` is
/// progress.
///
/// # Errors
/// If it does not in time.
pub(crate) fn wait_for<T, R>(
    changed: &Condvar,
    mut guard: MutexGuard<'_, T>,
    mut find: impl FnMut(&mut T) -> Option<R>,
) -> Result<R> {
    let mut deadline = Deadline::new();
    loop {
        if let Some(found) = find(&mut guard) {
            return Ok(found);
        }
        deadline.check()?;
        let (next, timeout) =
            changed.wait_timeout(guard, deadline.left()).unwrap_or_else(PoisonError::into_inner);
        guard = next;
        if !timeout.timed_out() {
            deadline.progress();
        }
    }
}

/// Between two observations.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
