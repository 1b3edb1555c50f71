//! Views of whole connections, each shown when it is over: a sequence diagram, or the tables of a
//! networking lab.

use jiff::tz::TimeZone;

use self::connections::{Connections, Occasion};
use self::record::Record;
use super::append::Append;
use super::human::{LocalTime, NO_TIME};
use super::style::Style;
use super::text::Text;
use super::{Context, Destination, EventSink, Skipped};
use crate::lifecycle::event::EventKind;
use crate::lifecycle::{Event, Time};

mod connections;
mod ladder;
mod numbers;
mod record;
mod summary;
mod table;

/// Emits each connection when it is over.
#[derive(Debug)]
pub struct View {
    shape: Shape,
    style: Style,
    time: LocalTime,
    connections: Connections,
    /// Of the events that are shown at once.
    log: Text,
}

/// How a connection is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As a sequence diagram of its handshake and teardown.
    Ladder {
        /// Columns of the terminal; between 60 and 100 are used.
        width: usize,
    },
    /// As tables of the segments of its handshake and teardown, in Markdown.
    Table,
}

impl View {
    /// A view in the system's time zone. It keeps at most 9 KB of each open connection, mostly 3
    /// KB, and no more than 16,384 connections.
    #[must_use]
    pub fn new(shape: Shape, style: Style) -> Self {
        Self::with(shape, style, TimeZone::system(), MAX_CONNECTIONS)
    }

    fn with(shape: Shape, style: Style, time_zone: TimeZone, limit: usize) -> Self {
        let log = Text::in_time_zone(style, time_zone.clone());
        let log = match shape {
            Shape::Ladder { width } => log.wrapped(move || Some(width)),
            Shape::Table => log,
        };
        Self { shape, style, time: LocalTime::new(time_zone), connections: Connections::new(limit), log }
    }

    fn draw(&mut self, record: &Record, occasion: Occasion) -> String {
        let began = match record.began_at {
            Some(time) => self.time.time_of_day(time).to_text(),
            None => NO_TIME.to_owned(),
        };
        match self.shape {
            Shape::Ladder { width } => ladder::draw(record, occasion, &began, width, self.style),
            Shape::Table => table::draw(record, occasion, &began, self.style),
        }
    }
}

impl EventSink for View {
    fn event(&mut self, event: &Event, context: &Context<'_>, to: &mut dyn Destination) {
        self.connections.add(event, context);
        match &event.kind {
            EventKind::Lost(_) | EventKind::Stuck(_) => {
                let line = self.log.line(event, context).unwrap_or_default();
                take_line(line, to);
            }
            EventKind::Segment(_)
            | EventKind::State(_)
            | EventKind::Handshake(_)
            | EventKind::Reset(_)
            | EventKind::Retransmit(_)
            | EventKind::Closed(_) => {}
        }
    }

    fn skipped(&mut self, skipped: Skipped, time: Time, context: &Context<'_>, to: &mut dyn Destination) {
        let line = self.log.skipped_line(skipped, time, context);
        take_line(line, to);
    }

    fn advance(&mut self, now: Time, _: &Context<'_>, to: &mut dyn Destination) {
        while !to.is_full()
            && let Some((record, occasion)) = self.connections.pop(now)
        {
            let text = self.draw(&record, occasion);
            to.take(&mut |out| out.extend_from_slice(text.as_bytes()));
        }
    }

    fn finish(&mut self, _: &Context<'_>, to: &mut dyn Destination) {
        while !to.is_full()
            && let Some((record, occasion)) = self.connections.pop_last()
        {
            let text = self.draw(&record, occasion);
            to.take(&mut |out| out.extend_from_slice(text.as_bytes()));
        }
    }
}

/// A line of the log, and an empty one.
fn take_line(line: &str, to: &mut dyn Destination) {
    to.take(&mut |out| {
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    });
}

const MAX_CONNECTIONS: usize = 1 << 14;

#[cfg(test)]
mod tests;
