//! Lines of a child's output, read by a thread of their own so that a test can await one.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long anything is awaited before a test fails; long enough for a machine that does much else.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);

/// What was read so far, one item a line.
pub(crate) struct LineReader<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    items: Vec<T>,
    ended: bool,
}

impl<T: Clone + Send + 'static> LineReader<T> {
    /// Reads `source` to its end, in the background.
    pub(crate) fn read(source: impl Read + Send + 'static, parse: fn(&str) -> T) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { items: Vec::new(), ended: false }),
            changed: Condvar::new(),
        });
        let writer = Arc::clone(&shared);
        thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                let item = parse(&String::from_utf8_lossy(&line));
                writer.lock().items.push(item);
                writer.changed.notify_all();
            }
            writer.lock().ended = true;
            writer.changed.notify_all();
        });
        Self { shared }
    }

    /// The first thing that `find` sees in the items, now or as soon as they are there.
    pub(crate) fn wait_for<R>(&self, what: &str, find: impl Fn(&[T]) -> Option<R>) -> Result<R> {
        self.wait_at_most(DEADLINE, what, find)
    }

    pub(crate) fn wait_at_most<R>(
        &self,
        limit: Duration,
        what: &str,
        find: impl Fn(&[T]) -> Option<R>,
    ) -> Result<R> {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = find(&state.items) {
                return Ok(found);
            }
            if state.ended {
                bail!("output ended before {what}");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("waited {limit:?} in vain for {what}");
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }

    /// Everything, once the child has closed its end.
    pub(crate) fn to_end(&self) -> Result<Vec<T>> {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.shared.lock();
        while !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("waited {DEADLINE:?} in vain for the end of the output");
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
        Ok(state.items.clone())
    }

    /// What is there now.
    pub(crate) fn so_far(&self) -> Vec<T> {
        self.shared.lock().items.clone()
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
