//! Views of whole connections, each shown when it is over: a sequence diagram, or the tables of a networking lab.

use std::io;

use jiff::tz::TimeZone;

use self::account::Account;
use self::connections::{Connections, Occasion};
use super::Sink;
use super::human::{Clock, Human, Name};
use super::style::{Color, Style};
use crate::lifecycle::event::{Lost, Stuck};
use crate::lifecycle::{Event, EventKind, Time};

mod account;
mod connections;
mod ladder;
mod numbers;
mod story;
mod table;

/// Shows each connection when it is over.
#[derive(Debug)]
pub struct View {
    shape: Shape,
    style: Style,
    time_zone: TimeZone,
    connections: Connections,
}

/// What a connection is shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A sequence diagram of its handshake and teardown.
    Ladder {
        /// Columns there are; at least 60 are taken, at most 100.
        width: usize,
    },
    /// The record tables of its handshake and teardown, which are Markdown tables too.
    Table,
}

impl View {
    /// A view in the system's time zone. It keeps at most 9 KB of each open connection, mostly 3 KB, and of no more
    /// than 16,384.
    #[must_use]
    pub fn new(shape: Shape, style: Style) -> Self {
        Self::with(shape, style, TimeZone::system(), MAX_CONNECTIONS)
    }

    fn with(shape: Shape, style: Style, time_zone: TimeZone, limit: usize) -> Self {
        Self { shape, style, time_zone, connections: Connections::new(limit) }
    }

    fn show(&self, account: &Account, occasion: Occasion, out: &mut dyn io::Write) -> io::Result<()> {
        let began = Clock { time: account.began, time_zone: &self.time_zone }.to_string();
        let text = match self.shape {
            Shape::Ladder { width } => ladder::draw(account, occasion, &began, width, self.style),
            Shape::Table => table::draw(account, occasion, &began, self.style),
        };
        out.write_all(text.as_bytes())
    }

    fn show_lost(&self, time: Time, lost: &Lost, out: &mut dyn io::Write) -> io::Result<()> {
        let time = Clock { time, time_zone: &self.time_zone };
        let lost = format!(
            "{time}  {} {} records lost: no room in the ring buffer. Steps may be missing.",
            lost.count,
            lost.kind.label()
        );
        writeln!(out, "{}\n", self.style.paint(Color::Red, lost))
    }

    fn show_stuck(&self, time: Time, stuck: &Stuck, out: &mut dyn io::Write) -> io::Result<()> {
        let time = Clock { time, time_zone: &self.time_zone };
        let Stuck { local, remote, state, .. } = stuck;
        let mut line = format!("{time}  {local} to {remote}: {state} for {}", Human(stuck.age));
        if let Some(process) = stuck.process {
            line += &format!(", {}", Name(process));
        }
        line += &format!(". {}.", stuck.neglect.hint());
        writeln!(out, "{}\n", self.style.paint(Color::Red, line))
    }
}

impl Sink for View {
    fn write(&mut self, event: &Event, out: &mut dyn io::Write) -> io::Result<()> {
        self.connections.take(event);
        match &event.kind {
            EventKind::Lost(lost) => self.show_lost(event.time, lost, out),
            EventKind::Stuck(stuck) => self.show_stuck(event.time, stuck, out),
            EventKind::Segment(_)
            | EventKind::State(_)
            | EventKind::Handshake(_)
            | EventKind::Reset(_)
            | EventKind::Retransmit(_)
            | EventKind::Closed(_) => Ok(()),
        }
    }

    fn advance(&mut self, now: Time, out: &mut dyn io::Write) -> io::Result<()> {
        match self.connections.pop(now) {
            Some((account, occasion)) => self.show(&account, occasion, out),
            None => Ok(()),
        }
    }

    fn finish(&mut self, out: &mut dyn io::Write) -> io::Result<()> {
        match self.connections.pop_last() {
            Some((account, occasion)) => self.show(&account, occasion, out),
            None => Ok(()),
        }
    }
}

const MAX_CONNECTIONS: usize = 1 << 14;

#[cfg(test)]
mod tests;
