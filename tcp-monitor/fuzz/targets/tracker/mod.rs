//! The bytes are a script: segments, socket events and pauses, possible and impossible ones. The
//! events that the tracker reports are checked.

use tcp_monitor::lifecycle::{Event, Options, Tracker};

use judge::Judge;
use rules::Rules;
use scene::Scene;

mod judge;
mod kernel;
mod rules;
mod scene;
mod wire;

/// Bytes that are read one by one; zeros after the last.
pub(crate) struct Script<'a>(&'a [u8]);

pub(crate) fn run(data: &[u8]) {
    let mut script = Script(data);
    let rules = Rules::from_byte(script.byte());
    let mut tracker =
        Tracker::with(Options { infer_from: rules.infer_from, max_connections: rules.max_connections });
    let (mut scene, mut judge) = (Scene::new(rules), Judge::new(rules));
    let mut events = Vec::<Event>::new();
    while !script.is_over() {
        let before = scene.now();
        let deferred = tracker.earliest_deferred(before);
        let input = scene.next(&mut script);
        match input {
            Some(input) => tracker.handle(input, &mut events),
            None => tracker.expire(scene.now(), &mut events),
        }
        judge.check(&events, &tracker, deferred, before..scene.now(), &scene);
        events.clear();
    }
    let before = scene.now();
    let deferred = tracker.earliest_deferred(before);
    scene.let_days_pass();
    tracker.expire(scene.now(), &mut events);
    judge.check(&events, &tracker, deferred, before..scene.now(), &scene);
    judge.check_end(&scene, &tracker);
}

impl Script<'_> {
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// One of several.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }
}
