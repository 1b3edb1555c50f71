//! Reads the lines of a child process's output on a thread, so that a trial can wait for one.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::support::deadline;

/// The lines read so far, each parsed to an item.
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
        Self::read_some(source, move |line| Some(parse(line)))
    }

    /// The same, without the lines that are parsed to `None`.
    pub(crate) fn read_some(
        source: impl Read + Send + 'static,
        parse: impl Fn(&str) -> Option<T> + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { items: Vec::new(), ended: false }),
            changed: Condvar::new(),
        });
        let writer = Arc::clone(&shared);
        thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                writer.lock().items.extend(parse(&String::from_utf8_lossy(&line)));
                writer.changed.notify_all();
            }
            writer.lock().ended = true;
            writer.changed.notify_all();
        });
        Self { shared }
    }

    /// The first result of `find` on the items read so far, tried again with each item that is
    /// read.
    ///
    /// # Errors
    /// If the output ends first, or nothing is read for too long.
    pub(crate) fn wait_for<R>(&self, what: &str, find: impl Fn(&[T]) -> Option<R>) -> Result<R> {
        let found = deadline::wait_for(&self.shared.changed, self.shared.lock(), |state| {
            let found = find(&state.items);
            (found.is_some() || state.ended).then_some(found)
        });
        found
            .with_context(|| format!("waited for {what}"))?
            .with_context(|| format!("the output ended before {what}"))
    }

    /// The same, or `None` if it is not read within `limit`.
    pub(crate) fn find_within<R>(&self, limit: Duration, find: impl Fn(&[T]) -> Option<R>) -> Option<R> {
        let end = Instant::now() + limit;
        let mut state = self.shared.lock();
        loop {
            let found = find(&state.items);
            let left = end.saturating_duration_since(Instant::now());
            if found.is_some() || state.ended || left.is_zero() {
                return found;
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everything, once the child has closed its end.
    pub(crate) fn to_end(&self) -> Result<Vec<T>> {
        deadline::wait_for(&self.shared.changed, self.shared.lock(), |state| {
            state.ended.then(|| state.items.clone())
        })
        .context("waited for the end of the output")
    }

    /// Whether the child has closed its end.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.lock().ended
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
