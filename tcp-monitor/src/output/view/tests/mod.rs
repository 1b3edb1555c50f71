//! Views of scripted connections.

use jiff::tz::TimeZone;

use super::{Context, EventSink, Shape, Style, View};
use crate::clock::WallClock;
use crate::lifecycle::{Event, Time};
use crate::output::NoNames;

mod connections;
mod pictures;
mod script;

const PLAIN: Style = Style { color: false, ascii: false };
const LADDER: Shape = Shape::Ladder { width: 80 };

/// A view and what it has shown.
struct Screen {
    view: View,
    clock: WallClock,
    text: Vec<u8>,
}

impl Screen {
    fn new(shape: Shape, style: Style, limit: usize) -> Self {
        let view = View::with(shape, style, TimeZone::UTC, limit);
        Self { view, clock: WallClock::of_capture(), text: Vec::new() }
    }

    fn show(&mut self, events: &[Event]) {
        for event in events {
            self.advance(event.time);
            self.view.event(event, &Context::new(&self.clock, &NoNames), &mut self.text);
        }
    }

    fn advance(&mut self, now: Time) {
        self.view.advance(now, &Context::new(&self.clock, &NoNames), &mut self.text);
    }

    fn finish(&mut self) {
        self.view.finish(&Context::new(&self.clock, &NoNames), &mut self.text);
    }

    /// What was written since the last call.
    fn text(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.text)).expect("views are UTF-8")
    }
}

/// All that a view shows of these events.
fn picture(shape: Shape, style: Style, events: &[Event]) -> String {
    let mut screen = Screen::new(shape, style, 100);
    screen.show(events);
    screen.finish();
    screen.text()
}
