//! The lines of events, in columns and on terminals.

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
    assert_eq!(columns, [ADDRESSES + "[::1]:8899 → [2001:db8::5]:51920".chars().count() + 2; 4], "{lines}");
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
    assert!(lines.lines().next().is_some_and(|line| line.ends_with(" · netns:b\\u{1b}[31mlue")), "{lines}");
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
