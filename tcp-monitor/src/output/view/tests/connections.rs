//! Which events are shown as one connection, and when.

use tcp_monitor_common::TcpState as S;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::Kind;
use tcp_monitor_common::record::Role::{Client, Server};

use super::script::{ACK, FIN, RST, RST_ACK, SYN, SYN_ACK, Script, at};
use super::{LADDER, PLAIN, Screen};
use crate::lifecycle::event::{ClosedBy, Lost, Step};
use crate::lifecycle::{Event, EventKind};
use crate::output::samples;

const MILLISECOND: u64 = 1000;
const SECOND: u64 = 1_000_000;

fn screen() -> Screen {
    Screen::new(LADDER, PLAIN, 100)
}

/// How many connections a text shows: an empty line follows each.
fn diagrams(text: &str) -> usize {
    text.lines().filter(|line| line.is_empty()).count()
}

fn segment_only_handshake(script: &mut Script, us: u64) {
    script.at(us).send(Client, Step::Syn, SYN, 0, 0);
    script.at(us + 1).send(Server, Step::SynAck, SYN_ACK, 0, 1);
    script.at(us + 2).send(Client, Step::HandshakeAck, ACK, 1, 1);
}

#[test]
fn two_ends_here_are_one_connection_shown_when_both_are_over() {
    let mut script = Script::new();
    script.handshake(true);
    script.at(SECOND).state(Client, S::Established, S::Close);
    script.closed(Client, ClosedBy::LocalReset, [None, None]);
    let mut screen = screen();
    screen.show(&script.events);
    screen.advance(at(10 * SECOND));
    assert_eq!(screen.text(), "", "events of the server may follow");

    let mut end = Script::new();
    end.at(10 * SECOND).state(Server, S::Established, S::Close);
    end.closed(Server, ClosedBy::RemoteReset, [None, None]);
    screen.show(&end.events);
    screen.advance(at(10 * SECOND + 30 * MILLISECOND));
    let text = screen.text();
    assert_eq!(diagrams(&text), 1, "{text}");
    assert!(text.contains("reset by client"), "{text}");
    screen.finish();
    assert_eq!(screen.text(), "");
}

#[test]
fn an_end_without_events_is_not_waited_for_forever() {
    let mut script = Script::new();
    script.handshake(true);
    script.at(SECOND).state(Client, S::Established, S::Close);
    script.closed(Client, ClosedBy::LocalReset, [None, None]);
    let mut screen = screen();
    screen.show(&script.events);
    screen.advance(at(65 * SECOND));
    assert_eq!(screen.text(), "");
    screen.advance(at(66 * SECOND));
    let text = screen.text();
    assert!(text.contains("the server was last seen in ESTABLISHED"), "{text}");
}

#[test]
fn a_lone_end_is_shown_with_the_segments_that_come_a_little_later() {
    let mut script = Script::new();
    script.handshake(false);
    script.at(SECOND).state(Client, S::Established, S::Close);
    script.closed(Client, ClosedBy::LocalReset, [None, None]);
    script.at(SECOND + 500 * MILLISECOND).send(Client, Step::Rst, RST, 701, 0);
    let mut screen = screen();
    screen.show(&script.events);
    screen.advance(at(2 * SECOND));
    let text = screen.text();
    assert!(text.contains("RST seq=701"), "{text}");
}

#[test]
fn what_comes_after_the_picture_is_not_another_connection() {
    let mut script = Script::new();
    script.handshake(false);
    script.at(SECOND).send(Client, Step::Fin, FIN, 1, 1);
    script.at(SECOND + 1).state(Client, S::Established, S::TimeWait);
    script.closed(Client, ClosedBy::Local, [Some(0), Some(0)]);
    // A retransmitted FIN, and the end of TIME_WAIT.
    script.at(5 * SECOND).send(Server, Step::Fin, FIN, 1, 2);
    script.at(61 * SECOND).state(Client, S::TimeWait, S::Close);
    let mut screen = screen();
    screen.show(&script.events);
    screen.finish();
    let text = screen.text();
    assert_eq!(diagrams(&text), 1, "{text}");
    assert!(text.contains("the client stays in TIME_WAIT"), "{text}");
}

#[test]
fn addresses_used_again_make_another_connection() {
    let mut script = Script::new();
    script.handshake(false);
    script.at(SECOND).state(Client, S::Established, S::TimeWait);
    script.closed(Client, ClosedBy::Local, [Some(0), Some(0)]);
    script.of(2).starting_at([9, 99]);
    script.at(3 * SECOND).state(Client, S::Close, S::SynSent);
    script.at(3 * SECOND + 1).send(Client, Step::Syn, SYN, 0, 0);
    script.at(3 * SECOND + 2).send(Server, Step::SynAck, SYN_ACK, 0, 1);
    let mut screen = screen();
    screen.show(&script.events);
    screen.finish();
    let text = screen.text();
    assert_eq!(diagrams(&text), 2, "{text}");
    assert!(text.contains("seq 0 = 9\n") || text.contains("seq 0 = 9 "), "{text}");
}

#[test]
fn events_of_two_namespaces_are_of_one_connection_if_its_number_is_the_same() {
    let mut script = Script::new();
    script.seen_in(1).at(0).send(Client, Step::Syn, SYN, 0, 0);
    script.seen_in(2).at(1).send(Server, Step::SynAck, SYN_ACK, 0, 1);
    script.seen_in(1).at(2).send(Client, Step::HandshakeAck, ACK, 1, 1);
    script.seen_in(2).at(3).state(Server, S::Listen, S::SynRecv).state(Server, S::SynRecv, S::Established);
    script.seen_in(1).at(4).send(Client, Step::Rst, RST, 1, 0);
    let mut screen = screen();
    screen.show(&script.events);
    screen.finish();
    assert_eq!(diagrams(&screen.text()), 1);
}

#[test]
fn equal_addresses_with_two_numbers_are_two_connections() {
    let mut both = Vec::new();
    for (netns, isns) in [(1, [7, 70]), (2, [8, 80])] {
        let mut script = Script::between("127.0.0.1:51920", "127.0.0.1:8899");
        script.of(netns.into()).seen_in(netns).starting_at(isns).handshake(true);
        script.at(2000).state(Client, S::Established, S::Close);
        script.closed(Client, ClosedBy::LocalReset, [Some(u64::from(netns)), None]);
        script.at(2001).state(Server, S::Established, S::Close);
        script.closed(Server, ClosedBy::RemoteReset, [None, None]);
        both.extend(script.events);
    }
    both.sort_by_key(|event| event.time);
    let mut screen = screen();
    screen.show(&both);
    screen.advance(at(SECOND));
    let text = screen.text();
    assert_eq!(diagrams(&text), 2, "{text}");
    for bytes in ["1 B →", "2 B →"] {
        assert_eq!(text.matches(bytes).count(), 1, "{text}");
    }
}

#[test]
fn a_refusal_is_shown_once_although_both_ends_report_it() {
    let mut script = Script::new();
    script.at(0).state(Client, S::Close, S::SynSent).send(Client, Step::Syn, SYN, 0, 0);
    script.at(20).send(Server, Step::Rst, RST_ACK, 0, 1).opened(Server, Err(HandshakeFailure::NoListener));
    script.at(30).state(Client, S::SynSent, S::Close);
    script.opened(Client, Err(HandshakeFailure::Refused));
    let mut screen = screen();
    screen.show(&script.events);
    screen.advance(at(100 * MILLISECOND));
    let text = screen.text();
    assert!(text.contains("\nhandshake failed: refused after 30 µs\n"), "{text}");
}

#[test]
fn without_any_socket_segments_show_the_end() {
    let mut script = Script::new();
    segment_only_handshake(&mut script, 0);
    script.at(100).send(Server, Step::Fin, FIN, 1, 1);
    script.at(200).send(Client, Step::Fin, FIN, 1, 2);
    script.at(300).send(Server, Step::FinAck, ACK, 2, 2);
    let mut screen = screen();
    screen.show(&script.events);
    screen.advance(at(2 * SECOND));
    let text = screen.text();
    assert!(text.contains("over, inferred from its segments"), "{text}");
}

#[test]
fn too_many_connections_are_cut_short_the_oldest_first() {
    let mut screen = Screen::new(LADDER, PLAIN, 2);
    for port in 1..=3 {
        let mut script = Script::between(&format!("10.0.0.5:{}", 50000 + port), "10.0.0.9:80");
        segment_only_handshake(script.of(port), port * MILLISECOND);
        screen.show(&script.events);
    }
    screen.advance(at(5 * MILLISECOND));
    let text = screen.text();
    assert_eq!(diagrams(&text), 1, "{text}");
    assert!(text.contains("10.0.0.5:50001") && text.contains("too many connections"), "{text}");
}

#[test]
fn what_is_open_at_the_end_is_shown_and_said_to_be() {
    let mut script = Script::new();
    script.handshake(true);
    let mut screen = screen();
    screen.show(&script.events);
    assert_eq!(screen.text(), "");
    screen.finish();
    let text = screen.text();
    assert!(text.contains("still open at the end"), "{text}");
}

#[test]
fn a_socket_that_connects_to_itself_has_one_end() {
    let mut script = Script::between("127.0.0.1:8899", "127.0.0.1:8899");
    script.starting_at([7, 7]).at(0).state(Client, S::Close, S::SynSent);
    segment_only_handshake(&mut script, 1);
    script.at(9).state(Client, S::SynSent, S::Established);
    let mut screen = screen();
    screen.show(&script.events);
    screen.finish();
    assert_eq!(diagrams(&screen.text()), 1);
}

#[test]
fn lost_records_and_stuck_sockets_are_shown_at_once_as_in_the_log() {
    let mut screen = screen();
    screen.show(&[Event::new(at(0), EventKind::Lost(Lost { kind: Kind::Segment, count: 12 }))]);
    assert_eq!(screen.text(), "12:00:01.000000  LOST     12 segment records: ring buffer full\n\n");
    screen.show(&[samples::stuck()]);
    let expected = concat!(
        "12:01:11.000000  STUCK    10.0.0.9:8899 ← 10.0.0.5:51920  CLOSE_WAIT for 61.2 s\n",
        "                          nginx[812]\n",
        "                          the process has read to the end and does not call\n",
        "                          close()\n\n",
    );
    assert_eq!(screen.text(), expected);
}

#[test]
fn all_connections_that_are_due_are_shown_in_their_order() {
    let mut screen = screen();
    for port in 1..=3 {
        let mut script = Script::between(&format!("10.0.0.5:{port}"), "10.0.0.9:80");
        script.of(port).at(port).send(Client, Step::Rst, RST, 1, 0);
        screen.show(&script.events);
    }
    screen.advance(at(5 * SECOND));
    let text = screen.text();
    let client = |port| text.find(&format!("10.0.0.5:{port}")).expect("it is shown");
    assert!(client(1) < client(2) && client(2) < client(3), "{text}");
    assert_eq!(diagrams(&text), 3);
}
