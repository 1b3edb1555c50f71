//! What is written if events come faster than an output can take them: whole connections, and never
//! parts of one.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use super::{Context, Destination, EventSink};
use crate::lifecycle::{Event, Time};

/// Passes on the events of some connections if the destination has no room for those of all: no
/// connection is begun while there is none, and each that was begun is passed on to its end.
pub struct WholeConnections {
    sink: Box<dyn EventSink>,
    /// The connection that was met last, as connections are numbered.
    newest: u64,
    /// The first and the last of consecutive connections that are skipped, in order.
    gaps: VecDeque<(u64, u64)>,
    /// What to report, and when the last report was.
    unreported: Skipped,
    reported_at: Time,
    now: Time,
}

/// How many connections were skipped in a second or more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Those without any event.
    pub connections: u64,
    /// All that were met.
    pub of: u64,
}

impl WholeConnections {
    /// Passes them on to `sink`.
    #[must_use]
    pub fn new(sink: Box<dyn EventSink>) -> Self {
        Self {
            sink,
            newest: 0,
            gaps: VecDeque::new(),
            unreported: Skipped::default(),
            reported_at: Time::default(),
            now: Time::default(),
        }
    }

    /// Whether the connection with this number is passed on. `has_room` decides about one that is
    /// met now.
    fn admits(&mut self, number: u64, has_room: bool) -> bool {
        if number <= self.newest {
            return !self.is_skipped(number);
        }
        // Those in between are met too: the order of events is not quite that of numbers.
        let (first, count) = (self.newest + 1, number - self.newest);
        self.newest = number;
        self.unreported.of += count;
        if has_room {
            return true;
        }
        self.unreported.connections += count;
        match self.gaps.back_mut() {
            Some((_, last)) if *last + 1 == first => *last = number,
            Some(_) | None => self.gaps.push_back((first, number)),
        }
        if self.gaps.len() > MAX_GAPS {
            self.gaps.pop_front();
        }
        false
    }

    fn is_skipped(&self, number: u64) -> bool {
        let after = self.gaps.partition_point(|(first, _)| *first <= number);
        after.checked_sub(1).and_then(|at| self.gaps.get(at)).is_some_and(|(_, last)| number <= *last)
    }

    fn report(&mut self, context: &Context<'_>, to: &mut dyn Destination) {
        let skipped = mem::take(&mut self.unreported);
        if skipped.connections > 0 {
            self.sink.skipped(skipped, self.now, context, to);
        }
        self.reported_at = self.now;
    }
}

impl EventSink for WholeConnections {
    fn event(&mut self, event: &Event, context: &Context<'_>, to: &mut dyn Destination) {
        let is_admitted = match event.connection {
            Some(id) => self.admits(id.get(), to.has_room()),
            None => true,
        };
        if is_admitted {
            self.sink.event(event, context, to);
        }
    }

    fn skipped(&mut self, skipped: Skipped, time: Time, context: &Context<'_>, to: &mut dyn Destination) {
        self.sink.skipped(skipped, time, context, to);
    }

    fn advance(&mut self, now: Time, context: &Context<'_>, to: &mut dyn Destination) {
        self.now = now;
        if now.since(self.reported_at) >= REPORT_INTERVAL {
            self.report(context, to);
        }
        self.sink.advance(now, context, to);
    }

    fn finish(&mut self, context: &Context<'_>, to: &mut dyn Destination) {
        self.report(context, to);
        self.sink.finish(context, to);
    }
}

const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Gaps that are remembered. Between two, an output has caught up with megabytes: a connection that
/// outlasts so many shows its end without its beginning.
const MAX_GAPS: usize = 4096;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::{Duration, EventSink, Time, WholeConnections};
    use crate::clock::WallClock;
    use crate::lifecycle::{ConnectionId, Event};
    use crate::output::{Context, Destination, Json, NoNames, Outcome, samples};

    struct Narrow {
        bytes: Vec<u8>,
        has_room: bool,
    }

    impl Destination for Narrow {
        fn take(&mut self, append: &mut dyn FnMut(&mut Vec<u8>)) {
            append(&mut self.bytes);
        }

        fn has_room(&self) -> bool {
            self.has_room
        }

        fn finish(self: Box<Self>) -> Outcome {
            Outcome::default()
        }
    }

    /// The numbers of the connections of which an event is written, and what is said of the others.
    /// Each input is a number, the millisecond, and whether there is room.
    fn written(inputs: &[(u64, u64, bool)]) -> (Vec<u64>, Vec<(u64, u64)>) {
        let clock = WallClock::of_capture();
        let context = Context::new(&clock, &NoNames);
        let mut to = Narrow { bytes: Vec::new(), has_room: true };
        let mut whole = WholeConnections::new(Box::new(Json::default()));
        for (number, millis, has_room) in inputs {
            to.has_room = *has_room;
            let connection = NonZeroU64::new(*number).map(ConnectionId::new);
            let time = Time::default() + Duration::from_millis(*millis);
            whole.advance(time, &context, &mut to);
            whole.event(&Event { connection, time, ..samples::stuck() }, &context, &mut to);
        }
        whole.finish(&context, &mut to);
        let (mut numbers, mut skipped) = (Vec::new(), Vec::new());
        for line in to.bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let event: serde_json::Value = serde_json::from_slice(line).expect("JSON");
            let number = |name: &str| event[name].as_u64().unwrap_or_default();
            match event["event"].as_str() {
                Some("skipped") => skipped.push((number("connections"), number("of"))),
                Some(_) | None => numbers.push(number("conn")),
            }
        }
        (numbers, skipped)
    }

    #[test]
    fn a_connection_is_written_to_its_end_or_not_at_all() {
        let (numbers, skipped) = written(&[
            (1, 0, true),
            (2, 1, false),
            (1, 2, false),
            (4, 3, false),
            (5, 4, true),
            // Met after a later one: not one of its events was written.
            (3, 5, true),
            (2, 6, true),
            (6, 7, false),
            (5, 8, false),
            (4, 9, true),
            (6, 10, true),
            (7, 11, true),
        ]);
        assert_eq!(numbers, [1, 1, 5, 5, 7]);
        assert_eq!(skipped, [(4, 7)]);
    }

    #[test]
    fn what_belongs_to_no_connection_is_written() {
        assert_eq!(written(&[(0, 0, false), (0, 1, true)]), (vec![0, 0], vec![]));
    }

    #[test]
    fn the_skipped_are_reported_once_a_second_and_at_the_end() {
        let (_, skipped) = written(&[
            (1, 1000, false),
            (2, 1500, true),
            (3, 2000, true),
            (4, 2500, true),
            (5, 4000, true),
            (6, 4500, false),
        ]);
        assert_eq!(skipped, [(1, 2), (1, 2)]);
    }
}
