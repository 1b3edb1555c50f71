//! Views of scripted connections.

use jiff::tz::TimeZone;

use super::{Shape, Sink, Style, View};
use crate::lifecycle::{Event, Time};

mod matching;
mod pictures;
mod script;

const PLAIN: Style = Style { color: false, ascii: false };
const LADDER: Shape = Shape::Ladder { width: 80 };

/// A view, asked as a report asks it.
struct Screen {
    view: View,
    text: Vec<u8>,
}

impl Screen {
    fn new(shape: Shape, style: Style, limit: usize) -> Self {
        Self { view: View::with(shape, style, TimeZone::UTC, limit), text: Vec::new() }
    }

    fn show(&mut self, events: &[Event]) {
        for event in events {
            self.advance(event.time);
            self.view.write(event, &mut self.text).expect("a vector takes any bytes");
        }
    }

    fn advance(&mut self, now: Time) {
        self.until_silent(|view, text| view.advance(now, text));
    }

    fn finish(&mut self) {
        self.until_silent(View::finish);
    }

    fn until_silent(
        &mut self,
        mut write: impl FnMut(&mut View, &mut dyn std::io::Write) -> std::io::Result<()>,
    ) {
        loop {
            let before = self.text.len();
            write(&mut self.view, &mut self.text).expect("a vector takes any bytes");
            if self.text.len() == before {
                break;
            }
        }
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
