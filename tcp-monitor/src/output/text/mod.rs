//! The text log, for people: a line for each event, in local time. It is no contract.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Role;

use label::Label;

use super::append::{Append, Spaces};
use super::details::Details;
use super::human::{ByteCount, Ending, Human, LocalTime, NO_TIME, Name, NetnsLabel, Spaced, Times};
use super::style::{Color, Style};
use super::{Context, Destination, EventSink, Skipped};
use crate::clock::WallTime;
use crate::lifecycle::event::{
    Closed, EventKind, Evidence, Handshake, Lost, Reset, Retransmit, Segment, StateChange, Stuck,
};
use crate::lifecycle::input::ResetDirection;
use crate::lifecycle::{Event, Time};

mod handshake;
mod label;
mod segment;

/// Emits lines for people.
#[derive(Debug)]
pub struct Text {
    style: Style,
    time: LocalTime,
    layout: LineLayout,
    /// The line of the latest event, in its parts and as it is written. Their memory is used again.
    parts: LineParts,
    line: String,
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
#[derive(Debug)]
struct LineParts {
    style: Style,
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
        Self {
            style,
            time: LocalTime::new(time_zone),
            layout: LineLayout::Columns { addresses: 0, terminal: Box::new(|| None) },
            parts: LineParts::new(style),
            line: String::new(),
            handshake_end: None,
            of_capture: false,
            day: None,
        }
    }

    /// The line of an event, if it has one.
    pub(super) fn line(&mut self, event: &Event, context: &Context<'_>) -> Option<&str> {
        let parts = &mut self.parts;
        match &event.kind {
            EventKind::Segment(segment) => parts.set_segment(segment),
            EventKind::State(change) => {
                if ends_handshake(change) {
                    self.handshake_end = Some(*change);
                    return None;
                }
                parts.set_state(change, self.of_capture);
            }
            EventKind::Handshake(handshake) => parts.set_handshake(handshake, self.handshake_end.take()),
            EventKind::Reset(reset) => parts.set_reset(reset),
            EventKind::Retransmit(retransmit) => parts.set_retransmit(retransmit),
            EventKind::Closed(closed) => parts.set_closed(closed),
            EventKind::Stuck(stuck) => parts.set_stuck(stuck),
            EventKind::Lost(lost) => parts.set_lost(lost),
        }
        if let Some(name) = context.netns(event.netns) {
            parts.details.phrase(NetnsLabel(&name));
        }
        self.lay_out(event.time, context);
        Some(&self.line)
    }

    pub(super) fn skipped_line(&mut self, skipped: Skipped, time: Time, context: &Context<'_>) -> &str {
        self.parts.set_skipped(skipped);
        self.lay_out(time, context);
        &self.line
    }

    fn lay_out(&mut self, time: Time, context: &Context<'_>) {
        self.line.clear();
        self.layout.lay_out(&self.parts, context.wall_time(time), &mut self.time, &mut self.line);
    }

    /// A line for each day of a capture.
    fn day(&mut self, time: Option<WallTime>) -> Option<String> {
        let time = time.filter(|_| self.of_capture)?;
        let date = Some(self.time.date(time));
        if self.day == date {
            return None;
        }
        self.day = date;
        let mut line = String::new();
        self.style.append_painted(Color::Dim, self.time.day(time), &mut line);
        Some(line + "\n")
    }
}

/// Whether the line of the next event, the end of a handshake, shows this transition.
const fn ends_handshake(change: &StateChange) -> bool {
    match change.from {
        TcpState::SynSent | TcpState::SynRecv | TcpState::NewSynRecv => {
            matches!(change.to, TcpState::Established | TcpState::Close)
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
    }
}

impl LineParts {
    fn new(style: Style) -> Self {
        let details = Details::new(style);
        Self { style, label: Label::Lost, color: Color::Plain, addresses: String::new(), details }
    }

    fn set_state(&mut self, change: &StateChange, of_capture: bool) {
        match change.remote {
            Some(remote) => self.begin_connection(Label::State, change.local, remote, change.role),
            None => self.begin(Label::State, change.local),
        }
        let details = &mut self.details;
        details.phrase((change.from, " → ", change.to));
        details.gap();
        if let Some(spent) = change.state_duration {
            details.phrase(("after ", Human(spent)));
        }
        match change.evidence {
            Evidence::Kernel => {}
            Evidence::Segment if of_capture => {}
            Evidence::Segment => details.phrase("inferred from segment"),
            Evidence::Timer => details.phrase("inferred (timeout)"),
        }
        if let Some(process) = change.process {
            details.phrase(Name(process));
        }
    }

    fn set_handshake(&mut self, handshake: &Handshake, end: Option<StateChange>) {
        let label = if handshake.result.is_ok() { Label::Open } else { Label::Failed };
        self.begin_connection(label, handshake.local, handshake.remote, handshake.role);
        handshake::add(handshake, end, &mut self.details);
    }

    fn set_segment(&mut self, segment: &Segment) {
        self.begin(Label::of(segment.step), (segment.src, " → ", segment.dst));
        if !segment.check.holds() || segment.unexpected.is_some() {
            self.color = Color::Red;
        }
        segment::add(segment, &mut self.details);
    }

    fn set_closed(&mut self, closed: &Closed) {
        self.begin_connection(Label::Closed, closed.local, closed.remote, closed.role);
        let details = &mut self.details;
        details.phrase(Ending::of(closed.closed_by, closed.role));
        if let Some(duration) = closed.duration {
            details.phrase(Human(duration));
        }
        let (sent, received) = (closed.bytes_sent.map(ByteCount), closed.bytes_received.map(ByteCount));
        match (sent, received) {
            (Some(sent), Some(received)) => details.phrase((sent, " out ", received, " in")),
            (Some(sent), None) => details.phrase((sent, " out")),
            (None, Some(received)) => details.phrase((received, " in")),
            (None, None) => {}
        }
        if let Some(rtt) = closed.rtt_us {
            details.phrase(("rtt ", Human(Duration::from_micros(rtt.into()))));
        }
        if let Some(times) = closed.retransmits.filter(|times| *times > 0) {
            details.phrase(("retransmitted ", Times(times)));
        }
        if let Some(process) = closed.process {
            details.phrase(Name(process));
        }
        if closed.partial {
            details.phrase("opened before monitoring started");
        }
    }

    fn set_stuck(&mut self, stuck: &Stuck) {
        self.begin_connection(Label::Stuck, stuck.local, stuck.remote, stuck.role);
        let details = &mut self.details;
        details.phrase((stuck.state, " for ", Human(stuck.age)));
        if stuck.unread_bytes > 0 {
            details.phrase((ByteCount(stuck.unread_bytes.into()), " unread"));
        }
        if let Some(process) = stuck.process {
            details.phrase(Name(process));
        }
        details.phrase(stuck.reason.hint());
    }

    fn set_reset(&mut self, reset: &Reset) {
        let arrow = match reset.direction {
            ResetDirection::Sent => " → ",
            ResetDirection::Received => " ← ",
        };
        match reset.remote {
            Some(remote) => self.begin(Label::Reset, (reset.local, arrow, remote)),
            None => self.begin(Label::Reset, (reset.local, arrow, '?')),
        }
        let details = &mut self.details;
        details.phrase(reset.direction.label());
        let phase = reset.phase.label();
        details.phrase(Spaced(phase));
        // Without a socket, that is the kernel's reason as well.
        if reset.reason != "unknown" && reset.reason != phase {
            details.phrase(reset.reason);
        }
    }

    fn set_retransmit(&mut self, retransmit: &Retransmit) {
        self.begin(Label::Retrans, (retransmit.local, " → ", retransmit.remote));
        self.details.phrase((Spaced(retransmit.kind.label()), " retransmitted in ", retransmit.state));
    }

    fn set_lost(&mut self, lost: &Lost) {
        self.begin(Label::Lost, (lost.count, ' ', lost.kind.label(), " records: ring buffer full"));
    }

    fn set_skipped(&mut self, Skipped { connections, of }: Skipped) {
        self.begin(Label::Skipped, ((connections, " of ", of), " connections: the output is too slow"));
    }

    /// The arrow points from the end that opened the connection.
    fn begin_connection(&mut self, label: Label, local: SocketAddr, remote: SocketAddr, role: Role) {
        match role {
            Role::Server => self.begin(label, (local, " ← ", remote)),
            Role::Client => self.begin(label, (local, " → ", remote)),
        }
    }

    /// Begins the line of another event.
    fn begin(&mut self, label: Label, addresses: impl Append) {
        (self.label, self.color) = (label, label.color());
        self.addresses.clear();
        addresses.append_to(&mut self.addresses);
        if let Cow::Owned(spelled) = self.style.spell(&self.addresses) {
            self.addresses = spelled;
        }
        self.details.clear();
    }
}

impl EventSink for Text {
    fn event(&mut self, event: &Event, context: &Context<'_>, to: &mut dyn Destination) {
        if self.line(event, context).is_none() {
            return;
        }
        let day = self.day(context.wall_time(event.time)).unwrap_or_default();
        to.take(&mut |out| {
            out.extend_from_slice(day.as_bytes());
            out.extend_from_slice(self.line.as_bytes());
        });
    }

    fn skipped(&mut self, skipped: Skipped, time: Time, context: &Context<'_>, to: &mut dyn Destination) {
        let line = self.skipped_line(skipped, time, context);
        to.take(&mut |out| out.extend_from_slice(line.as_bytes()));
    }
}

impl LineLayout {
    /// Appends the lines of an event, each with its line end.
    fn lay_out(&mut self, parts: &LineParts, time: Option<WallTime>, local: &mut LocalTime, to: &mut String) {
        let LineParts { style, label, color, addresses, details } = parts;
        let (widest, terminal) = match self {
            Self::Single => {
                ((label.name(), ' ', addresses), "  ", details.as_str(), '\n').append_to(to);
                return;
            }
            Self::Columns { addresses, terminal } => (addresses, terminal()),
        };
        let width = addresses.chars().count();
        if !details.is_empty() {
            *widest = width.max(*widest).min(MAX_ADDRESSES);
        }
        match time {
            Some(time) => style.append_painted(Color::Dim, local.time_of_day(time), to),
            None => style.append_painted(Color::Dim, NO_TIME, to),
        }
        to.push_str("  ");
        style.append_painted(*color, label.padded(), to);
        ("  ", addresses).append_to(to);
        let Some(terminal) = terminal else {
            let padding = if details.is_empty() { 0 } else { widest.saturating_sub(width) + 2 };
            (Spaces(padding), details.as_str(), '\n').append_to(to);
            return;
        };
        // In a narrow terminal, addresses of exceptional width do not take the columns of the
        // others.
        let padding = (*widest).min(widest_in(terminal)).saturating_sub(width) + 2;
        let start = ADDRESSES + width + padding;
        let has_room = terminal >= start + MIN_DETAILS;
        let (room, indent) = (terminal.saturating_sub(start), if has_room { start } else { ADDRESSES });
        let rest = terminal.saturating_sub(indent).max(1);
        for (number, part) in details.lines(room, rest).into_iter().enumerate() {
            if number > 0 {
                to.push('\n');
            }
            if !part.is_empty() {
                let padding = if number > 0 { indent } else { padding };
                (Spaces(padding), part).append_to(to);
            }
        }
        to.push('\n');
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

/// The column of the addresses: after time and label, each with two spaces.
const ADDRESSES: usize = 15 + 2 + Label::WIDTH + 2;
/// Width of two IPv4 addresses with their ports and an arrow, and of two IPv6 addresses.
const MAX_IPV4_ADDRESSES: usize = 2 * 21 + 3;
const MAX_ADDRESSES: usize = 2 * 47 + 3;
/// Columns that details should have beside the addresses; else they continue below them.
const MIN_DETAILS: usize = 40;

#[cfg(test)]
mod tests;
