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

    fn in_time_zone(style: Style, time_zone: TimeZone) -> Self {
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
        // In a narrow terminal, addresses of exceptional width do not take the columns of the others.
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
mod tests {
    use jiff::tz::{Offset, TimeZone};

    use super::{ADDRESSES, Context, EventSink, Style, Text};
    use crate::clock::WallClock;
    use crate::lifecycle::Event;
    use crate::output::{Names, NoNames, samples};

    fn text(style: Style) -> Text {
        Text::in_time_zone(style, TimeZone::fixed(Offset::constant(2)))
    }

    fn write(mut text: Text, names: &dyn Names, events: &[Event]) -> String {
        let clock = WallClock::of_capture();
        let mut out = Vec::new();
        for event in events {
            text.event(event, &Context::new(&clock, names), &mut out);
        }
        String::from_utf8(out).expect("the log is UTF-8")
    }

    fn log(style: Style, events: &[Event]) -> String {
        write(text(style), &NoNames, events)
    }

    /// The lines without the time, on a terminal of `width` columns.
    fn on_terminal(width: usize, events: &[Event]) -> String {
        write(text(PLAIN).wrapped(move || Some(width)), &NoNames, events)
    }

    /// The column at which a line has `text`.
    fn column(line: &str, text: &str) -> usize {
        line.find(text).map_or(0, |at| line[..at].chars().count())
    }

    #[test]
    fn each_event_of_a_connection_is_a_line() {
        samples::assert_golden(&log(PLAIN, &samples::connection()), "connection.txt");
    }

    #[test]
    fn unknown_values_are_not_shown() {
        assert_eq!(
            log(PLAIN, &[samples::partial(), samples::listening(), samples::reset_without_socket()]),
            UNKNOWN
        );
    }

    #[test]
    fn the_reason_of_a_reset_is_not_its_phase_once_more() {
        assert_eq!(log(PLAIN, &[samples::aborted(), samples::reset_without_socket()]), RESETS);
    }

    #[test]
    fn a_failed_handshake_is_one_line() {
        assert_eq!(log(PLAIN, &samples::refused()), REFUSED);
    }

    #[test]
    fn a_syn_that_waited_for_its_neighbor_shows_how_long() {
        assert_eq!(log(PLAIN, &samples::delayed()), DELAYED);
    }

    #[test]
    fn wrong_numbers_are_shown_with_the_right_ones() {
        assert_eq!(log(PLAIN, &samples::wrong()), WRONG);
        let colored = log(Style { color: true, ..PLAIN }, &samples::wrong());
        assert!(colored.contains("\x1b[31mACK    \x1b[0m"), "{colored}");
    }

    #[test]
    fn in_ascii_there_is_nothing_else() {
        let ascii = Style { ascii: true, ..PLAIN };
        let log = [samples::connection(), samples::wrong().into(), samples::refused().into()]
            .map(|events| log(ascii, &events))
            .concat();
        assert!(log.is_ascii(), "{log}");
        assert!(log.contains("10.0.0.5:51920 -> 10.0.0.9:8899  seq 303234858 win"), "{log}");
        assert!(log.contains("handshake 505 us | SYN-ACK retransmitted once"), "{log}");
    }

    #[test]
    fn a_stuck_socket_is_shown_with_the_reason() {
        assert_eq!(log(PLAIN, &[samples::stuck(), samples::stuck_unaccepted()]), STUCK);
    }

    #[test]
    fn details_begin_at_one_column_for_ipv4_and_ipv6() {
        let v6 = samples::partial();
        let [v4, _] = samples::wrong();
        let lines = log(PLAIN, &[v6.clone(), v4.clone(), samples::aborted(), v6.clone()]);
        let columns: Vec<_> = lines
            .lines()
            .zip(["reset by", "seq", "sent", "reset by"])
            .map(|(line, details)| column(line, details))
            .collect();
        assert_eq!(
            columns,
            [ADDRESSES + "[::1]:8899 → [2001:db8::5]:51920".chars().count() + 2; 4],
            "{lines}"
        );
    }

    #[test]
    fn a_line_is_broken_between_fields_only_and_only_on_a_terminal() {
        let events = [&samples::connection()[..], &samples::wrong(), &[samples::stuck_unaccepted()]].concat();
        samples::assert_golden(&on_terminal(80, &samples::connection()), "connection-80-columns.txt");
        let unbroken = log(PLAIN, &events);
        let words = |text: &str| -> Vec<String> {
            text.split_whitespace().filter(|word| *word != "·").map(str::to_owned).collect()
        };
        for width in 70..200 {
            let lines = on_terminal(width, &events);
            assert_eq!(words(&lines), words(&unbroken), "{lines}");
            for line in lines.lines() {
                assert!(line.chars().count() <= width && !line.ends_with(' '), "{width}: {line}");
            }
        }
        assert_eq!(on_terminal(500, &events), unbroken);
    }

    #[test]
    fn the_name_of_the_namespace_is_shown_and_escaped() {
        struct Blue;
        impl Names for Blue {
            fn interface(&self, _: u32, _: u32) -> Option<String> {
                None
            }

            fn netns(&self, netns: u32) -> Option<String> {
                (netns == 4_026_531_840).then(|| "b\x1b[31mlue".to_owned())
            }
        }
        let lines = write(text(PLAIN), &Blue, &[samples::stuck(), samples::listening()]);
        assert!(
            lines.lines().next().is_some_and(|line| line.ends_with(" · netns:b\\u{1b}[31mlue")),
            "{lines}"
        );
        // Of a listener here the namespace is not known.
        assert!(lines.ends_with("CLOSE → LISTEN\n"), "{lines}");
    }

    #[test]
    fn a_process_name_cannot_reach_the_terminal() {
        let line = log(PLAIN, &[samples::hostile()]);
        assert!(line.ends_with("a\\\"\\n\\u{1b}[31m\u{fffd}[1]\n"), "{line:?}");
        assert_eq!(line.chars().filter(|c| c.is_control()).count(), 1, "{line:?}");
    }

    #[test]
    fn colour_changes_nothing_but_colour() {
        let colored = log(Style { color: true, ..PLAIN }, &samples::connection());
        let mut plain = String::new();
        for (index, part) in colored.split("\x1b[").enumerate() {
            let text = if index == 0 { part } else { part.split_once('m').map_or("", |(_, text)| text) };
            plain.push_str(text);
        }
        assert!(colored.len() > plain.len());
        assert_eq!(plain, log(PLAIN, &samples::connection()));
    }

    const PLAIN: Style = Style { color: false, ascii: false };
    const STUCK: &str = concat!(
        "14:01:11.000000  STUCK    10.0.0.9:8899 ← 10.0.0.5:51920  ",
        "CLOSE_WAIT for 61.2 s · nginx[812] · the process has read to the end and does not call close()\n",
        "14:01:11.000000  STUCK    10.0.0.9:8899 ← 10.0.0.5:51920  ",
        "CLOSE_WAIT for 2 h 1 min · 1.95 KiB unread · ",
        "it waits in the accept queue: the process does not call accept()\n",
    );
    const UNKNOWN: &str = concat!(
        "14:00:01.000001  CLOSED   [::1]:8899 → [2001:db8::5]:51920  ",
        "reset by server · 2.38 MiB in · opened before monitoring started\n",
        "14:00:01.000000  STATE    10.0.0.9:8899                     CLOSE → LISTEN\n",
        "14:00:01.000002  RESET    10.0.0.9:8899 → ?                 sent · no socket\n",
    );
    const RESETS: &str = concat!(
        "14:00:01.000002  RESET    10.0.0.9:8899 → 10.0.0.5:51920  sent · established · tcp_abort_on_close\n",
        "14:00:01.000002  RESET    10.0.0.9:8899 → ?               sent · no socket\n",
    );
    const WRONG: &str = concat!(
        "14:00:01.000000  ACK      10.0.0.5:51920 → 10.0.0.9:8899  seq +4 (≠+1) ack +21 (≠seq+5+1=20)\n",
        "14:00:01.000000  ACK      10.0.0.5:51920 → 10.0.0.9:8899  ",
        "seq 303234862 (≠303234859) ack 3214116001 (≠seq+5+1=3214116000)\n",
    );
    const DELAYED: &str = concat!(
        "14:00:01.004000  FAILED   10.0.0.5:51920 → 10.0.0.9:8899  ",
        "SYN_SENT → CLOSE  refused after 75 µs · SYN left 1.00 s after connect()\n",
    );
    const REFUSED: &str = concat!(
        "14:00:04.000000  FAILED   10.0.0.5:51920 → 10.0.0.9:8899  ",
        "SYN_SENT → CLOSE  refused after 3.00 s · SYN retransmitted 2 times\n",
    );
}
