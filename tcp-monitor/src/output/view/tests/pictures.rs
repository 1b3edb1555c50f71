//! What a view shows of one connection, compared with pictures: first the ladder, then the tables.

use tcp_monitor_common::TcpState as S;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::Role::{Client, Server};

use super::script::{ACK, FIN, RST, RST_ACK, SYN, SYN_ACK, Script};
use super::{LADDER, PLAIN, picture};
use crate::lifecycle::event::Acknowledged::{self, Data};
use crate::lifecycle::event::{AckCheck, ClosedBy, Evidence, Segment, Step, Unexpected};
use crate::lifecycle::{Event, EventKind};
use crate::output::{Shape, Style, samples};

fn both(style: Style, width: usize, events: &[Event]) -> String {
    picture(Shape::Ladder { width }, style, events) + &picture(Shape::Table, style, events)
}

/// Compares with the file of that name.
macro_rules! assert_picture {
    ($picture:expr, $name:literal) => {
        samples::assert_golden(&$picture, concat!("view/", $name, ".txt"))
    };
}

/// The client closes first; both ends are on this host.
fn normal_close() -> Script {
    let mut script = Script::new();
    script.handshake(true);
    script.at(900).data_retransmitted(Server);
    script.at(1000).state(Client, S::Established, S::FinWait1);
    script.at(1003).send(Client, Step::Fin, FIN, 79, 1302).change(|segment| segment.payload_len = 5);
    script.at(1010).state(Server, S::Established, S::CloseWait);
    script.at(1015).send(Server, Step::FinAck, ACK, 1302, 85).acks(Acknowledged::Fin, 79, 5).follows(1302);
    script.at(1020).state(Client, S::FinWait1, S::FinWait2);
    script.at(9000).state(Server, S::CloseWait, S::LastAck);
    script.at(9004).send(Server, Step::Fin, FIN, 1302, 85).acks(Acknowledged::Fin, 79, 5).follows(1302);
    script.at(9010).known_by(Evidence::Segment).state(Client, S::FinWait2, S::TimeWait);
    script.closed(Client, ClosedBy::Local, [Some(83), Some(1301)]);
    script.at(9012).send(Client, Step::FinAck, ACK, 85, 1303).acks(Acknowledged::Fin, 1302, 0).follows(85);
    script.at(9015).known_by(Evidence::Kernel).state(Server, S::LastAck, S::Close);
    script.closed(Server, ClosedBy::Remote, [Some(1301), Some(83)]);
    script
}

#[test]
fn a_close_that_the_client_begins() {
    assert_picture!(both(PLAIN, 80, &normal_close().events), "normal-close");
}

#[test]
fn in_few_columns_numbers_stand_below_the_arrows() {
    let ladder = picture(Shape::Ladder { width: 0 }, PLAIN, &normal_close().events);
    assert!(ladder.lines().all(|line| line.chars().count() <= 60), "{ladder}");
    assert_picture!(ladder, "narrow");
}

#[test]
fn in_plain_ascii() {
    let ascii = Style { ascii: true, ..PLAIN };
    let picture = both(ascii, 100, &normal_close().events);
    assert!(picture.is_ascii(), "{picture}");
    assert_picture!(picture, "ascii");
}

#[test]
fn colour_changes_nothing_but_colour() {
    let colored = both(Style { color: true, ..PLAIN }, 80, &normal_close().events);
    let mut plain = String::new();
    for (index, part) in colored.split("\x1b[").enumerate() {
        plain += if index == 0 { part } else { part.split_once('m').map_or("", |(_, text)| text) };
    }
    assert!(colored.len() > plain.len());
    assert_eq!(plain, both(PLAIN, 80, &normal_close().events));
}

#[test]
fn a_close_of_both_at_once() {
    let mut script = Script::new();
    script.known_by(Evidence::Segment).handshake(true);
    script.at(1000).send(Client, Step::Fin, FIN, 79, 1302).acks(Data, 1, 1301).follows(79);
    script.state(Client, S::Established, S::FinWait1);
    script.at(1001).send(Server, Step::Fin, FIN, 1302, 79).acks(Data, 1, 78).follows(1302);
    script.state(Server, S::Established, S::FinWait1);
    script.at(1100).state(Client, S::FinWait1, S::Closing).state(Server, S::FinWait1, S::Closing);
    script.at(1101).send(Client, Step::FinAck, ACK, 80, 1303).acks(Acknowledged::Fin, 1302, 0).follows(80);
    script.state(Server, S::Closing, S::TimeWait).closed(Server, ClosedBy::Both, [Some(1301), Some(78)]);
    script.at(1102).send(Server, Step::FinAck, ACK, 1303, 80).acks(Acknowledged::Fin, 79, 0).follows(1303);
    script.state(Client, S::Closing, S::TimeWait).closed(Client, ClosedBy::Both, [Some(78), Some(1301)]);
    assert_picture!(both(PLAIN, 80, &script.events), "simultaneous-close");
}

#[test]
fn a_connection_refused() {
    let mut script = Script::new();
    script.at(0).state(Client, S::Close, S::SynSent);
    script.at(5).send(Client, Step::Syn, SYN, 0, 0);
    script.at(25).send(Server, Step::Rst, RST_ACK, 0, 1).acks(Acknowledged::Syn, 0, 0);
    script.change(|rst| {
        (rst.header.seq, rst.seq_rel) = (0, None);
    });
    script.at(30).state(Client, S::SynSent, S::Close).opened(Client, Err(HandshakeFailure::Refused));
    assert_picture!(both(PLAIN, 80, &script.events), "refused");
}

#[test]
fn a_syn_retransmitted_until_the_client_gives_up() {
    let mut script = Script::new();
    script.at(0).state(Client, S::Close, S::SynSent);
    for second in [0, 1, 3, 7] {
        script.at(second * 1_000_000 + 9).send(Client, Step::Syn, SYN, 0, 0);
        script.change(|segment| segment.retransmission = second > 0);
    }
    script.at(15_000_000).state(Client, S::SynSent, S::Close).opened(Client, Err(HandshakeFailure::TimedOut));
    assert_picture!(both(PLAIN, 80, &script.events), "syn-retransmitted");
}

#[test]
fn a_reset_in_the_middle() {
    let mut script = Script::new();
    script.handshake(false);
    script.at(5_000_000).send(Server, Step::Rst, RST, 701, 0).follows(701);
    script.state(Client, S::Established, S::Close).closed(Client, ClosedBy::RemoteReset, [None, Some(700)]);
    assert_picture!(both(PLAIN, 80, &script.events), "reset");
}

#[test]
fn a_half_close_with_data_after_it() {
    let mut script = Script::new();
    script.handshake(false);
    script.at(1000).state(Client, S::Established, S::FinWait1);
    script.at(1003).send(Client, Step::Fin, FIN, 79, 1).acks(Acknowledged::Syn, 0, 0);
    script.at(1015).send(Server, Step::FinAck, ACK, 1, 80).acks(Acknowledged::Fin, 79, 0).follows(1);
    script.at(1020).state(Client, S::FinWait1, S::FinWait2);
    script.at(1_234_567_000).send(Server, Step::Fin, FIN, 2_500_001, 80).acks(Acknowledged::Fin, 79, 0);
    script.at(1_234_567_010).send(Client, Step::FinAck, ACK, 80, 2_500_002);
    script.acks(Acknowledged::Fin, 2_500_001, 0).follows(80);
    script.at(1_234_567_020).state(Client, S::FinWait2, S::TimeWait);
    script.closed(Client, ClosedBy::Local, [Some(78), Some(2_500_000)]);
    assert_picture!(both(PLAIN, 80, &script.events), "half-close");
}

#[test]
fn ipv6_addresses_of_full_length() {
    let mut script = Script::between(
        "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:1111]:51920",
        "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:2222]:443",
    );
    script.handshake(false);
    assert_picture!(both(PLAIN, 80, &script.events), "ipv6");
}

#[test]
fn a_connection_that_was_open_before() {
    let mut script = Script::new();
    let unknown = |segment: &mut Segment| (segment.seq_rel, segment.ack_rel) = (None, None);
    script.at(0).state(Server, S::Established, S::FinWait1);
    script.at(3).send(Server, Step::Fin, FIN, 5001, 701).change(unknown);
    script.at(40).send(Client, Step::Fin, FIN, 701, 5002).change(unknown);
    script.change(|segment| {
        let of_fin = AckCheck { of: Acknowledged::Fin, seq: segment.header.ack - 1, len: 0, holds: true };
        segment.check.ack = Some(of_fin);
    });
    script.at(45).state(Server, S::FinWait1, S::TimeWait).closed(
        Server,
        ClosedBy::Local,
        [Some(5000), Some(700)],
    );
    if let Some(Event { kind: EventKind::Closed(closed), .. }) = script.events.last_mut() {
        (closed.partial, closed.duration) = (true, None);
    }
    script.at(47).send(Server, Step::FinAck, ACK, 5002, 702).change(unknown);
    assert_picture!(both(PLAIN, 80, &script.events), "partial");
}

#[test]
fn numbers_that_are_wrong() {
    let mut script = Script::new();
    script.at(0).send(Client, Step::Syn, SYN, 0, 0);
    script.at(10).send(Server, Step::SynAck, SYN_ACK, 0, 2).acks(Acknowledged::Syn, 0, 0);
    script.change(|segment| segment.unexpected = Some(Unexpected::Ack));
    script.at(20).send(Client, Step::HandshakeAck, ACK, 0, 1).acks(Acknowledged::Syn, 0, 0).follows(1);
    assert_picture!(both(PLAIN, 80, &script.events), "wrong");
}

#[test]
fn steps_without_end_are_counted() {
    let mut script = Script::new();
    for us in 0..70 {
        script.at(us).send(Client, Step::Syn, SYN, 0, 0);
    }
    let ladder = picture(LADDER, PLAIN, &script.events);
    assert_eq!(ladder.matches("SYN seq=0").count(), 64);
    assert!(ladder.contains("6 more steps are left out"), "{ladder}");
}
