//! The text log, for people: a line for each event, in local time. It is no contract.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Role;

use label::Label;

use super::details::Details;
use super::human::{ByteCount, Day, Ending, Human, Name, NetnsLabel, TimeOfDay, Times, spaced};
use super::style::{Color, Style};
use super::{Context, Destination, EventSink};
use crate::clock::WallTime;
use crate::lifecycle::Event;
use crate::lifecycle::event::{
    Closed, EventKind, Evidence, Handshake, Lost, Reset, Retransmit, Segment, StateChange, Stuck,
};
use crate::lifecycle::input::ResetDirection;

mod handshake;
mod label;
mod segment;

/// Emits lines for people.
#[derive(Debug)]
pub struct Text {
    style: Style,
    time_zone: TimeZone,
    layout: LineLayout,
    /// The transition that ended a handshake: part of the line of the next event.
    handshake_end: Option<StateChange>,
    /// The events are those of a capture: of any day, and all states inferred from segments.
    of_capture: bool,
    /// The day shown last.
    day: Option<Date>,
}

/// How lines are laid out.
enum LineLayout {
    /// One below the other: with the time, and in columns.
    Columns {
        /// Width of the addresses: that of the widest so far.
        addresses: usize,
        /// The width of the terminal, if there is one.
        terminal: Box<dyn Fn() -> Option<usize> + Send>,
    },
    /// Each alone, beside a time.
    Single,
}

/// What a line shows beside the time.
struct TextLine {
    label: Label,
    color: Color,
    addresses: String,
    details: Details,
}

impl Text {
    /// A log in the system's time zone.
    #[must_use]
    pub fn new(style: Style) -> Self {
        Self::in_time_zone(style, TimeZone::system())
    }

    /// A log of a capture. It shows the date, and does not mark each state as inferred from a
    /// segment.
    #[must_use]
    pub fn of_capture(style: Style) -> Self {
        Self { of_capture: true, ..Self::new(style) }
    }

    /// Breaks long lines between fields, for a terminal of as many columns as `width` returns.
    #[must_use]
    pub fn wrapped(mut self, width: impl Fn() -> Option<usize> + Send + 'static) -> Self {
        self.layout = LineLayout::Columns { addresses: 0, terminal: Box::new(width) };
        self
    }

    /// Lines that each stand alone, beside a time.
    pub(super) fn of_single_lines() -> Self {
        Self { layout: LineLayout::Single, ..Self::in_time_zone(Style::default(), TimeZone::UTC) }
    }

    /// A log in `time_zone`, of events that happen now.
    pub(super) fn in_time_zone(style: Style, time_zone: TimeZone) -> Self {
        let layout = LineLayout::Columns { addresses: 0, terminal: Box::new(|| None) };
        Self { style, time_zone, layout, handshake_end: None, of_capture: false, day: None }
    }

    /// The line of an event, if it has one.
    pub(super) fn line(&mut self, event: &Event, context: &Context<'_>) -> Option<String> {
        let mut line = match &event.kind {
            EventKind::Segment(segment) => self.segment(segment),
            EventKind::State(change) => self.state(change)?,
            EventKind::Handshake(handshake) => self.handshake(handshake),
            EventKind::Reset(reset) => self.reset(reset),
            EventKind::Retransmit(retransmit) => self.retransmit(retransmit),
            EventKind::Closed(closed) => self.closed(closed),
            EventKind::Stuck(stuck) => self.stuck(stuck),
            EventKind::Lost(lost) => self.lost(lost),
        };
        if let Some(name) = context.netns(event.netns) {
            line.details.phrase(NetnsLabel(&name));
        }
        Some(self.layout.lay_out(&line, context.wall_time(event.time), &self.time_zone, self.style))
    }

    /// A line for each day.
    fn day(&mut self, time: WallTime) -> Option<String> {
        let day = Day { time, time_zone: &self.time_zone };
        let date = Some(day.date());
        if !self.of_capture || self.day == date {
            return None;
        }
        self.day = date;
        Some(format!("{}\n", self.style.paint(Color::Dim, day)))
    }

    fn state(&mut self, change: &StateChange) -> Option<TextLine> {
        let StateChange { from, to, .. } = *change;
        let ends_handshake = match from {
            TcpState::SynSent | TcpState::SynRecv | TcpState::NewSynRecv => {
                matches!(to, TcpState::Established | TcpState::Close)
            }
            TcpState::Established
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::TimeWait
            | TcpState::Close
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Listen
            | TcpState::Closing => false,
        };
        if ends_handshake {
            self.handshake_end = Some(*change);
            return None;
        }
        let mut details = Details::new(self.style);
        details.phrase(format_args!("{from} → {to}"));
        details.gap();
        if let Some(spent) = change.state_duration {
            details.phrase(format_args!("after {}", Human(spent)));
        }
        match change.evidence {
            Evidence::Kernel => {}
            Evidence::Segment if self.of_capture => {}
            Evidence::Segment => details.phrase("inferred from segment"),
            Evidence::Timer => details.phrase("inferred (timeout)"),
        }
        if let Some(process) = change.process {
            details.phrase(Name(process));
        }
        let addresses = match change.remote {
            Some(remote) => self.connection(change.local, remote, change.role),
            None => change.local.to_string(),
        };
        Some(TextLine::new(Label::State, addresses, details))
    }

    fn handshake(&mut self, handshake: &Handshake) -> TextLine {
        let label = if handshake.result.is_ok() { Label::Open } else { Label::Failed };
        let mut details = Details::new(self.style);
        handshake::add(handshake, self.handshake_end.take(), &mut details);
        TextLine::new(label, self.connection(handshake.local, handshake.remote, handshake.role), details)
    }

    fn segment(&self, segment: &Segment) -> TextLine {
        let label = Label::of(segment.step);
        let is_right = segment.check.holds() && segment.unexpected.is_none();
        let color = if is_right { label.color() } else { Color::Red };
        let mut details = Details::new(self.style);
        segment::add(segment, &mut details);
        TextLine { color, ..TextLine::new(label, self.arrow(segment.src, '→', segment.dst), details) }
    }

    fn closed(&self, closed: &Closed) -> TextLine {
        let mut details = Details::new(self.style);
        details.phrase(Ending::of(closed.closed_by, closed.role));
        if let Some(duration) = closed.duration {
            details.phrase(Human(duration));
        }
        let (sent, received) = (closed.bytes_sent.map(ByteCount), closed.bytes_received.map(ByteCount));
        match (sent, received) {
            (Some(sent), Some(received)) => details.phrase(format_args!("{sent} out {received} in")),
            (Some(sent), None) => details.phrase(format_args!("{sent} out")),
            (None, Some(received)) => details.phrase(format_args!("{received} in")),
            (None, None) => {}
        }
        if let Some(rtt) = closed.rtt_us {
            details.phrase(format_args!("rtt {}", Human(Duration::from_micros(rtt.into()))));
        }
        if let Some(times) = closed.retransmits.filter(|times| *times > 0) {
            details.phrase(format_args!("retransmitted {}", Times(times)));
        }
        if let Some(process) = closed.process {
            details.phrase(Name(process));
        }
        if closed.partial {
            details.phrase("opened before monitoring started");
        }
        TextLine::new(Label::Closed, self.connection(closed.local, closed.remote, closed.role), details)
    }

    fn stuck(&self, stuck: &Stuck) -> TextLine {
        let mut details = Details::new(self.style);
        details.phrase(format_args!("{} for {}", stuck.state, Human(stuck.age)));
        if stuck.unread_bytes > 0 {
            details.phrase(format_args!("{} unread", ByteCount(stuck.unread_bytes.into())));
        }
        if let Some(process) = stuck.process {
            details.phrase(Name(process));
        }
        details.phrase(stuck.reason.hint());
        TextLine::new(Label::Stuck, self.connection(stuck.local, stuck.remote, stuck.role), details)
    }

    fn reset(&self, reset: &Reset) -> TextLine {
        let arrow = match reset.direction {
            ResetDirection::Sent => '→',
            ResetDirection::Received => '←',
        };
        let addresses = match reset.remote {
            Some(remote) => self.arrow(reset.local, arrow, remote),
            None => self.arrow(reset.local, arrow, "?"),
        };
        let mut details = Details::new(self.style);
        details.phrase(reset.direction.label());
        let phase = reset.phase.label();
        details.phrase(spaced(phase));
        // Without a socket, that is the kernel's reason as well.
        if reset.reason != "unknown" && reset.reason != phase {
            details.phrase(reset.reason);
        }
        TextLine::new(Label::Reset, addresses, details)
    }

    fn retransmit(&self, retransmit: &Retransmit) -> TextLine {
        let mut details = Details::new(self.style);
        let kind = spaced(retransmit.kind.label());
        details.phrase(format_args!("{kind} retransmitted in {}", retransmit.state));
        TextLine::new(Label::Retrans, self.arrow(retransmit.local, '→', retransmit.remote), details)
    }

    fn lost(&self, lost: &Lost) -> TextLine {
        let lost = format!("{} {} records: ring buffer full", lost.count, lost.kind.label());
        TextLine::new(Label::Lost, lost, Details::new(self.style))
    }

    /// The arrow points from the end that opened the connection.
    fn connection(&self, local: SocketAddr, remote: SocketAddr, role: Role) -> String {
        match role {
            Role::Server => self.arrow(local, '←', remote),
            Role::Client => self.arrow(local, '→', remote),
        }
    }

    fn arrow(&self, left: SocketAddr, arrow: char, right: impl fmt::Display) -> String {
        let addresses = format!("{left} {arrow} {right}");
        self.style.spell(&addresses).into_owned()
    }
}

impl EventSink for Text {
    fn event(&mut self, event: &Event, context: &Context<'_>, to: &mut dyn Destination) {
        let Some(line) = self.line(event, context) else { return };
        let day = self.day(context.wall_time(event.time)).unwrap_or_default();
        to.take(&mut |out| {
            out.extend_from_slice(day.as_bytes());
            out.extend_from_slice(line.as_bytes());
        });
    }
}

impl TextLine {
    fn new(label: Label, addresses: String, details: Details) -> Self {
        Self { label, color: label.color(), addresses, details }
    }
}

impl LineLayout {
    /// The lines of an event, each with its line end.
    fn lay_out(&mut self, line: &TextLine, time: WallTime, time_zone: &TimeZone, style: Style) -> String {
        let TextLine { label, color, addresses, details } = line;
        let (widest, terminal) = match self {
            Self::Single => return format!("{} {addresses}  {}\n", label.name(), details.as_str()),
            Self::Columns { addresses, terminal } => (addresses, terminal()),
        };
        let width = addresses.chars().count();
        if !details.is_empty() {
            *widest = width.max(*widest).min(MAX_ADDRESSES);
        }
        let time = style.paint(Color::Dim, TimeOfDay { time, time_zone });
        let name = style.paint(*color, format!("{:<LABEL$}", label.name()));
        let Some(terminal) = terminal else {
            let padding = if details.is_empty() { 0 } else { widest.saturating_sub(width) + 2 };
            return format!("{time}  {name}  {addresses}{:padding$}{}\n", "", details.as_str());
        };
        // In a narrow terminal, addresses of exceptional width do not take the columns of the
        // others.
        let padding = (*widest).min(widest_in(terminal)).saturating_sub(width) + 2;
        let start = ADDRESSES + width + padding;
        let has_room = terminal >= start + MIN_DETAILS;
        let (room, indent) = (terminal.saturating_sub(start), if has_room { start } else { ADDRESSES });
        let rest = terminal.saturating_sub(indent).max(1);
        let mut text = format!("{time}  {name}  {addresses}");
        for (number, part) in details.lines(room, rest).into_iter().enumerate() {
            if number > 0 {
                text.push('\n');
            }
            if !part.is_empty() {
                let padding = if number > 0 { indent } else { padding };
                text.push_str(&format!("{:padding$}{part}", ""));
            }
        }
        text.push('\n');
        text
    }
}

impl fmt::Debug for LineLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Columns { addresses, .. } => {
                f.debug_struct("Columns").field("addresses", addresses).finish_non_exhaustive()
            }
            Self::Single => f.write_str("Single"),
        }
    }
}

/// The widest addresses that others are aligned with in a terminal.
const fn widest_in(terminal: usize) -> usize {
    let widest = terminal.saturating_sub(ADDRESSES + 2 + MIN_DETAILS);
    if widest > MAX_IPV4_ADDRESSES { widest } else { MAX_IPV4_ADDRESSES }
}

/// Width of the label: `SYN-ACK`.
const LABEL: usize = 7;
/// The column of the addresses: after time and label, each with two spaces.
const ADDRESSES: usize = 15 + 2 + LABEL + 2;
/// Width of two IPv4 addresses with their ports and an arrow, and of two IPv6 addresses.
const MAX_IPV4_ADDRESSES: usize = 2 * 21 + 3;
const MAX_ADDRESSES: usize = 2 * 47 + 3;
/// Columns that details should have beside the addresses; else they continue below them.
const MIN_DETAILS: usize = 40;

#[cfg(test)]
mod tests;
