//! The text log, for people: a line for each event, in local time. It is no contract.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Role;

use label::Label;
use segment::SegmentDetail;

use super::Sink;
use super::human::{Bytes, Clock, Day, Human, Name, Times, ended, spaced};
use super::style::{Color, Phrases, Style};
use crate::lifecycle::Time;
use crate::lifecycle::event::{
    Closed, Event, EventKind, Evidence, Handshake, Reset, Retransmit, Segment, StateChange, Stuck,
};
use crate::lifecycle::input::ResetDirection;

mod handshake;
mod label;
mod segment;

/// Writes lines for people.
#[derive(Debug)]
pub struct Text {
    style: Style,
    time_zone: TimeZone,
    /// Whether lines are for reading one below the other: they begin with the time, and the details are in one column.
    columns: bool,
    /// Width of the column of addresses: that of the widest so far.
    width: usize,
    /// The transition that ended a handshake, which the next event tells of.
    handshake_end: Option<StateChange>,
    /// The events are those of a capture: of whatever day, and all of them known from segments.
    of_capture: bool,
    /// The day that was told last.
    day: Option<Date>,
}

impl Text {
    /// A log in the system's time zone.
    #[must_use]
    pub fn new(style: Style) -> Self {
        Self::in_time_zone(style, TimeZone::system())
    }

    /// A log of what a capture holds. It says of which day that is, and not of each state that its evidence is a segment.
    #[must_use]
    pub fn of_capture(style: Style) -> Self {
        Self { of_capture: true, ..Self::new(style) }
    }

    fn in_time_zone(style: Style, time_zone: TimeZone) -> Self {
        Self { style, time_zone, columns: true, width: 0, handshake_end: None, of_capture: false, day: None }
    }

    /// A line for each day.
    fn day(&mut self, time: Time) -> String {
        let day = Day { time, time_zone: &self.time_zone };
        let date = Some(day.date());
        if !self.of_capture || self.day == date {
            return String::new();
        }
        self.day = date;
        format!("{}\n", self.style.paint(Color::Dim, day))
    }

    /// Lines that each stand alone, beside a time.
    pub(super) fn without_columns() -> Self {
        Self { columns: false, ..Self::in_time_zone(Style::default(), TimeZone::UTC) }
    }

    fn line(&mut self, time: Time, label: Label, addresses: &str, detail: &str) -> String {
        self.colored_line(time, label, label.color(), addresses, detail)
    }

    /// One line. The label and the addresses are columns.
    fn colored_line(
        &mut self,
        time: Time,
        label: Label,
        color: Color,
        addresses: &str,
        detail: &str,
    ) -> String {
        let (addresses, detail) = (self.style.spell(addresses), self.style.spell(detail));
        if !self.columns {
            return format!("{} {addresses}  {detail}\n", label.name());
        }
        let width = addresses.chars().count();
        if !detail.is_empty() {
            self.width = self.width.max(width.min(MAX_WIDTH));
        }
        let padding = self.width.saturating_sub(width) + 2;
        let clock = self.style.paint(Color::Dim, Clock { time, time_zone: &self.time_zone });
        let name = self.style.paint(color, format!("{:<7}", label.name()));
        let line = format!("{clock}  {name}  {addresses}{:padding$}{detail}", "");
        let mut line = line.trim_end().to_owned();
        line.push('\n');
        line
    }

    fn state(&mut self, time: Time, change: &StateChange) -> Option<String> {
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
        let mut detail = Phrases(format!("{from} → {to}"));
        detail.gap();
        if let Some(spent) = change.spent {
            detail.add(format_args!("after {}", Human(spent)));
        }
        match change.evidence {
            Evidence::Kernel => {}
            Evidence::Segment if self.of_capture => {}
            Evidence::Segment => detail.add("seen by its segment"),
            Evidence::Timer => detail.add("by the clock"),
        }
        if let Some(process) = change.process {
            detail.add(Name(process));
        }
        let addresses = match change.remote {
            Some(remote) => connection(change.local, remote, change.role),
            None => change.local.to_string(),
        };
        Some(self.line(time, Label::State, &addresses, &detail.0))
    }

    fn handshake(&mut self, time: Time, handshake: &Handshake) -> String {
        let label = if handshake.result.is_ok() { Label::Open } else { Label::Failed };
        let detail = handshake::detail(handshake, self.handshake_end.take());
        let addresses = connection(handshake.local, handshake.remote, handshake.role);
        self.line(time, label, &addresses, &detail)
    }

    fn segment(&mut self, time: Time, segment: &Segment) -> String {
        let label = Label::of(segment.step);
        let is_right = segment.check.holds() && segment.unexpected.is_none();
        let color = if is_right { label.color() } else { Color::Red };
        let addresses = format!("{} → {}", segment.src, segment.dst);
        self.colored_line(time, label, color, &addresses, &SegmentDetail(segment).to_string())
    }

    fn closed(&mut self, time: Time, closed: &Closed) -> String {
        let mut detail = Phrases(ended(closed.closed_by, closed.role).to_owned());
        if let Some(duration) = closed.duration {
            detail.add(Human(duration));
        }
        let (sent, received) = (closed.bytes_sent.map(Bytes), closed.bytes_received.map(Bytes));
        match (sent, received) {
            (Some(sent), Some(received)) => detail.add(format_args!("{sent} out {received} in")),
            (Some(sent), None) => detail.add(format_args!("{sent} out")),
            (None, Some(received)) => detail.add(format_args!("{received} in")),
            (None, None) => {}
        }
        if let Some(rtt) = closed.rtt_us {
            detail.add(format_args!("rtt {}", Human(Duration::from_micros(rtt.into()))));
        }
        if let Some(times) = closed.retransmits.filter(|times| *times > 0) {
            detail.add(format_args!("sent again {}", Times(times)));
        }
        if let Some(process) = closed.process {
            detail.add(Name(process));
        }
        if closed.partial {
            detail.add("open before the monitor");
        }
        let addresses = connection(closed.local, closed.remote, closed.role);
        self.line(time, Label::Closed, &addresses, &detail.0)
    }

    fn stuck(&mut self, time: Time, stuck: &Stuck) -> String {
        let mut detail = Phrases(format!("{} for {}", stuck.state, Human(stuck.age)));
        if stuck.unread_bytes > 0 {
            detail.add(format_args!("{} unread", Bytes(stuck.unread_bytes.into())));
        }
        if let Some(process) = stuck.process {
            detail.add(Name(process));
        }
        detail.add(stuck.neglect.hint());
        let addresses = connection(stuck.local, stuck.remote, stuck.role);
        self.line(time, Label::Stuck, &addresses, &detail.0)
    }

    fn reset(&mut self, time: Time, reset: &Reset) -> String {
        let remote = reset.remote.map_or("?".into(), |remote| remote.to_string());
        let arrow = match reset.direction {
            ResetDirection::Sent => "→",
            ResetDirection::Received => "←",
        };
        let mut detail = Phrases(reset.direction.label().to_owned());
        let phase = reset.phase.label();
        detail.add(spaced(phase));
        // Where there is no socket, the kernel's reason is just that.
        if reset.reason != "unknown" && reset.reason != phase {
            detail.add(reset.reason);
        }
        let addresses = format!("{} {arrow} {remote}", reset.local);
        self.line(time, Label::Reset, &addresses, &detail.0)
    }

    fn retransmit(&mut self, time: Time, retransmit: &Retransmit) -> String {
        let addresses = format!("{} → {}", retransmit.local, retransmit.remote);
        let detail = format!("{} sent again in {}", spaced(retransmit.kind.label()), retransmit.state);
        self.line(time, Label::Again, &addresses, &detail)
    }
}

impl Sink for Text {
    fn write(&mut self, event: &Event, out: &mut dyn io::Write) -> io::Result<()> {
        let line = match &event.kind {
            EventKind::Segment(segment) => self.segment(event.time, segment),
            EventKind::State(change) => match self.state(event.time, change) {
                Some(line) => line,
                None => return Ok(()),
            },
            EventKind::Handshake(handshake) => self.handshake(event.time, handshake),
            EventKind::Reset(reset) => self.reset(event.time, reset),
            EventKind::Retransmit(retransmit) => self.retransmit(event.time, retransmit),
            EventKind::Closed(closed) => self.closed(event.time, closed),
            EventKind::Stuck(stuck) => self.stuck(event.time, stuck),
            EventKind::Lost(lost) => {
                let detail =
                    format!("{} {} records: no room in the ring buffer", lost.count, lost.kind.label());
                self.line(event.time, Label::Lost, &detail, "")
            }
        };
        out.write_all(self.day(event.time).as_bytes())?;
        out.write_all(line.as_bytes())
    }
}

/// The arrow points from the end that opened the connection.
fn connection(local: SocketAddr, remote: SocketAddr, role: Role) -> String {
    match role {
        Role::Server => format!("{local} ← {remote}"),
        Role::Client => format!("{local} → {remote}"),
    }
}

/// Two IPv4 addresses with their ports and an arrow are no wider; IPv6 addresses may stand out.
const MAX_WIDTH: usize = 45;

#[cfg(test)]
mod tests {
    use jiff::tz::{Offset, TimeZone};

    use super::{Sink, Style, Text};
    use crate::lifecycle::Event;
    use crate::output::samples;

    fn log(style: Style, events: &[Event]) -> String {
        let mut sink = Text::in_time_zone(style, TimeZone::fixed(Offset::constant(2)));
        let mut out = Vec::new();
        for event in events {
            sink.write(event, &mut out).expect("a vector takes any bytes");
        }
        String::from_utf8(out).expect("the log is UTF-8")
    }

    #[test]
    fn a_connection_reads_as_a_story() {
        assert_eq!(log(PLAIN, &samples::connection()), GOLDEN);
    }

    #[test]
    fn unknown_values_are_not_shown() {
        assert_eq!(
            log(PLAIN, &[samples::partial(), samples::listening(), samples::reset_of_nobody()]),
            UNKNOWN
        );
    }

    #[test]
    fn the_reason_of_a_reset_is_not_its_phase_once_more() {
        assert_eq!(log(PLAIN, &[samples::aborted(), samples::reset_of_nobody()]), RESETS);
    }

    #[test]
    fn a_failed_handshake_is_one_line() {
        assert_eq!(log(PLAIN, &samples::refused()), REFUSED);
    }

    #[test]
    fn a_syn_that_waited_for_its_neighbor_is_told_from_the_answer_of_the_peer() {
        assert_eq!(log(PLAIN, &samples::held_back()), HELD_BACK);
    }

    #[test]
    fn numbers_that_are_wrong_are_told_with_the_right_ones() {
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
        assert!(log.contains("handshake 505 us | SYN-ACK sent again once"), "{log}");
    }

    #[test]
    fn a_stuck_socket_reads_as_what_is_wrong_with_it() {
        assert_eq!(log(PLAIN, &[samples::stuck(), samples::stuck_unaccepted()]), STUCK);
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
        assert_eq!(plain, GOLDEN);
    }

    const PLAIN: Style = Style { color: false, ascii: false };
    const GOLDEN: &str = include_str!("../golden/connection.txt");
    const STUCK: &str = concat!(
        "14:01:11.000000  STUCK    10.0.0.9:8899 ← 10.0.0.5:51920  ",
        "CLOSE_WAIT for 61.2 s · nginx[812] · the process has read to the end and does not call close()\n",
        "14:01:11.000000  STUCK    10.0.0.9:8899 ← 10.0.0.5:51920  ",
        "CLOSE_WAIT for 2 h 1 min · 1.95 KiB unread · ",
        "it waits in the accept queue: the process does not call accept()\n",
    );
    const UNKNOWN: &str = concat!(
        "14:00:01.000001  CLOSED   [::1]:8899 → [2001:db8::5]:51920  ",
        "reset by server · 2.38 MiB in · open before the monitor\n",
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
    const HELD_BACK: &str = concat!(
        "14:00:01.004000  FAILED   10.0.0.5:51920 → 10.0.0.9:8899  ",
        "SYN_SENT → CLOSE  refused after 75 µs · SYN left 1.00 s after connect()\n",
    );
    const REFUSED: &str = concat!(
        "14:00:04.000000  FAILED   10.0.0.5:51920 → 10.0.0.9:8899  ",
        "SYN_SENT → CLOSE  refused after 3.00 s · SYN sent again 2 times\n",
    );
}
