//! Views of whole connections, each shown when it is over: a sequence diagram, or the tables of a
//! networking lab.

use jiff::tz::TimeZone;

use self::connections::{Connections, Occasion};
use self::record::Record;
use super::append::Append;
use super::human::{Human, LocalTime, Name, NetnsLabel};
use super::style::{Color, Style};
use super::{Context, Destination, EventSink, Skipped};
use crate::lifecycle::event::{EventKind, Lost, Stuck};
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
        Self { shape, style, time: LocalTime::new(time_zone), connections: Connections::new(limit) }
    }

    fn draw(&mut self, record: &Record, occasion: Occasion) -> String {
        let began = self.time.time_of_day(record.began_at).to_text();
        match self.shape {
            Shape::Ladder { width } => ladder::draw(record, occasion, &began, width, self.style),
            Shape::Table => table::draw(record, occasion, &began, self.style),
        }
    }

    /// An event that is shown at once.
    fn draw_line(&mut self, time: Time, text: &str, context: &Context<'_>) -> String {
        let line = (self.time.time_of_day(context.wall_time(time)), "  ", text).to_text();
        let width = match self.shape {
            Shape::Ladder { width } => width,
            Shape::Table => usize::MAX,
        };
        let words: Vec<_> = line.split(' ').map(|word| self.style.spell(word).into_owned()).collect();
        let mut lines = String::new();
        for line in ladder::wrap(&words, " ", width) {
            lines += &format!("{}\n", self.style.paint(Color::Red, line));
        }
        lines + "\n"
    }
}

impl EventSink for View {
    fn event(&mut self, event: &Event, context: &Context<'_>, to: &mut dyn Destination) {
        self.connections.add(event, context);
        let text = match &event.kind {
            EventKind::Lost(lost) => lost_records(lost),
            EventKind::Stuck(stuck) => stuck_socket(stuck, event, context),
            EventKind::Segment(_)
            | EventKind::State(_)
            | EventKind::Handshake(_)
            | EventKind::Reset(_)
            | EventKind::Retransmit(_)
            | EventKind::Closed(_) => return,
        };
        let line = self.draw_line(event.time, &text, context);
        to.take(&mut |out| out.extend_from_slice(line.as_bytes()));
    }

    fn skipped(&mut self, skipped: Skipped, time: Time, context: &Context<'_>, to: &mut dyn Destination) {
        let Skipped { connections, of } = skipped;
        let text = format!("{connections} of {of} connections are not shown: the output is too slow.");
        let line = self.draw_line(time, &text, context);
        to.take(&mut |out| out.extend_from_slice(line.as_bytes()));
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

fn lost_records(lost: &Lost) -> String {
    let (count, kind) = (lost.count, lost.kind.label());
    format!("{count} {kind} records lost: ring buffer full. Steps may be missing.")
}

fn stuck_socket(stuck: &Stuck, event: &Event, context: &Context<'_>) -> String {
    let Stuck { local, remote, state, .. } = stuck;
    let mut line = format!("{local} to {remote}: {state} for {}", Human(stuck.age).to_text());
    if let Some(process) = stuck.process {
        line += &format!(", {}", Name(process).to_text());
    }
    if let Some(netns) = context.netns(event.netns) {
        line += &format!(", {}", NetnsLabel(&netns).to_text());
    }
    line + &format!(". {}.", stuck.reason.hint())
}

const MAX_CONNECTIONS: usize = 1 << 14;

#[cfg(test)]
mod tests;
