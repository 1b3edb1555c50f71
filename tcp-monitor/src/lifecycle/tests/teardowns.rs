//! How connections end.

use tcp_monitor_common::TcpState::{
    Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
};
use tcp_monitor_common::record::ResetPhase;

use super::script::{Script, at, client, from_client, from_server, no_addr, server, syn, syn_ack};
use crate::lifecycle::input::{ResetDirection, SocketEvent};
use crate::lifecycle::segment::Flags;
use crate::lifecycle::{Event, EventKind, SegmentInput, SocketInput, TcpHeader};

/// A server that is in ESTABLISHED since 4 ms, of which everything is told.
fn established() -> Script {
    let mut script = Script::new();
    script.server_handshake(0);
    script.events();
    script
}

/// As [`established`], and the server's application is gone: at 30 ms the kernel handed over to a
/// minisocket that awaits the client's FIN.
fn awaiting_fin() -> Script {
    let mut script = established();
    script.socket(server(10, Established, FinWait1).by(812));
    script.socket(SocketInput { orphan: true, ..server(20, FinWait1, FinWait2).fin_acked() });
    script.socket(SocketInput { orphan: true, ..server(30, FinWait2, Close).fin_acked() });
    script
}

#[test]
fn closed_by_the_client_first() {
    let mut script = established();
    script.socket(server(10, Established, CloseWait).fin_received());
    script.socket(server(15, CloseWait, LastAck).fin_received().by(812));
    script.socket(server(16, LastAck, Close).fin_received().fin_acked());
    let events = script.events();
    let Some(Event { kind: EventKind::Closed(closed), .. }) = events.last() else { panic!("{events:?}") };
    assert_eq!(closed.process.map(|process| process.pid), Some(812));
    assert_eq!(closed.rtt_us, Some(480));
    let states: Vec<_> = closed.states.iter().map(|(state, spent)| (*state, spent.as_millis())).collect();
    assert_eq!(states, [(Established, 6), (SynRecv, 1), (CloseWait, 5), (LastAck, 1)]);
    assert_eq!((closed.bytes_sent, closed.bytes_received), (Some(100), Some(50)));
    assert_eq!((closed.closed_by.label(), closed.partial), ("remote", false));
    assert_eq!(closed.duration.map(|duration| duration.as_millis()), Some(12));
}

#[test]
fn closed_by_the_server_first_ends_after_time_wait() {
    let mut script = established();
    script.socket(server(10, Established, FinWait1));
    script.socket(server(20, FinWait1, FinWait2).fin_acked());
    script.socket(server(25, FinWait2, Close).fin_acked().fin_received());
    assert_eq!(
        script.told(),
        [
            "10 10.0.0.9:8899 10.0.0.5:51920 established>fin_wait1 kernel after 6 ms",
            "20 10.0.0.9:8899 10.0.0.5:51920 fin_wait1>fin_wait2 kernel after 10 ms",
            "25 10.0.0.9:8899 10.0.0.5:51920 fin_wait2>time_wait kernel after 5 ms",
            "25 server closed by local after 21 ms, 100 out 50 in",
        ]
    );
    assert_eq!(script.tracker().next_deadline(), Some(at(60_025)));
    script.wait_until(60_024);
    assert_eq!(script.told(), [""; 0]);
    script.wait_until(99_000);
    assert_eq!(script.told(), ["60025 10.0.0.9:8899 10.0.0.5:51920 time_wait>close timer after 60000 ms"]);
    assert_eq!(script.tracker().sockets(), 0);
}

#[test]
fn a_client_does_not_count_its_syn_as_payload() {
    let mut script = Script::new();
    script.socket(client(1, Close, SynSent));
    script.socket(client(2, SynSent, Established));
    script.socket(client(3, Established, FinWait1));
    script.socket(client(4, FinWait1, FinWait2).fin_acked());
    script.events();
    script.socket(client(5, FinWait2, Close).fin_acked().fin_received());
    assert_eq!(script.told()[1], "5 client closed by local after 3 ms, 50 out 100 in");
}

#[test]
fn an_orphan_stays_in_fin_wait2_until_the_peers_fin() {
    let mut script = awaiting_fin();
    assert_eq!(script.told().len(), 2, "the hand-over itself is not told");
    script.segment(from_client(70, Flags::FIN.union(Flags::ACK), 51, 102));
    assert_eq!(
        script.told(),
        [
            "70 10.0.0.9:8899 10.0.0.5:51920 fin_wait2>time_wait segment after 50 ms",
            "70 server closed by local after 66 ms, 100 out 50 in",
        ]
    );
    script.wait_until(60_070);
    assert_eq!(script.told(), ["60070 10.0.0.9:8899 10.0.0.5:51920 time_wait>close timer after 60000 ms"]);
}

#[test]
fn time_wait_begins_anew_when_the_peer_sends_its_fin_again() {
    let mut script = awaiting_fin();
    let fin = Flags::FIN.union(Flags::ACK);
    script.segment(from_client(70, fin, 51, 102));
    script.segment(from_client(50_000, fin, 51, 102));
    script.segment(from_client(55_000, Flags::FIN, 51, 0));
    script.events();
    script.wait_until(109_999);
    assert_eq!(script.told(), [""; 0]);
    script.wait_until(110_000);
    assert_eq!(script.told(), ["110000 10.0.0.9:8899 10.0.0.5:51920 time_wait>close timer after 109930 ms"]);
}

#[test]
fn an_orphan_whose_peer_never_closes_is_dropped_after_fin_timeout() {
    let mut script = awaiting_fin();
    script.events();
    script.wait_until(60_030);
    assert_eq!(
        script.told(),
        [
            "60030 10.0.0.9:8899 10.0.0.5:51920 fin_wait2>close timer after 60010 ms",
            "60030 server closed by local after 60026 ms, 100 out 50 in",
        ]
    );
}

#[test]
fn a_fin_seen_just_before_the_hand_over_counts() {
    let mut script = established();
    script.socket(server(10, Established, FinWait1));
    script.socket(server(20, FinWait1, FinWait2).fin_acked());
    script.segment(from_client(21, Flags::FIN.union(Flags::ACK), 51, 102));
    script.events();
    script.socket(server(22, FinWait2, Close).fin_acked());
    assert_eq!(script.told()[0], "22 10.0.0.9:8899 10.0.0.5:51920 fin_wait2>time_wait segment after 2 ms");
}

#[test]
fn late_data_to_an_orphan_is_answered_by_a_reset() {
    let mut script = awaiting_fin();
    script.events();
    // A FIN behind data that nobody can receive any more is not the one awaited.
    script.segment(from_client(70, Flags::FIN.union(Flags::ACK), 60, 102));
    assert_eq!(script.told(), [""; 0]);
    script.segment(from_server(71, Flags::RST, 102, 0));
    assert_eq!(
        script.told(),
        [
            "71 10.0.0.9:8899 10.0.0.5:51920 fin_wait2>close segment after 51 ms",
            "71 server closed by local_reset after 67 ms, 100 out 50 in",
        ]
    );
}

#[test]
fn an_abort_for_linger2_closes_at_once() {
    let mut script = awaiting_fin();
    script.events();
    let (direction, phase) = (ResetDirection::Sent, ResetPhase::Closing);
    let kind = SocketEvent::Reset { direction, phase, reason: 12, state: Some(Close) };
    script.socket(SocketInput { kind, ..server(31, Close, Close) });
    assert_eq!(
        script.told(),
        [
            "31 reset sent tcp_abort_on_linger",
            "31 10.0.0.9:8899 10.0.0.5:51920 fin_wait2>close kernel after 11 ms",
            "31 server closed by local_reset after 27 ms, 100 out 50 in",
        ]
    );
}

/// As [`established`], and in TIME_WAIT since 25 ms.
fn in_time_wait() -> Script {
    let mut script = established();
    script.socket(server(10, Established, FinWait1));
    script.socket(server(20, FinWait1, FinWait2).fin_acked());
    script.socket(server(25, FinWait2, Close).fin_acked().fin_received());
    script.events();
    script
}

#[test]
fn a_reset_assassinates_time_wait_only_at_the_sequence_number_expected() {
    let mut script = in_time_wait();
    script.segment(from_client(30, Flags::RST, 51, 0));
    script.segment(from_server(31, Flags::RST, 102, 0));
    assert_eq!(script.told(), [""; 0]);
    script.segment(from_client(32, Flags::RST, 52, 0));
    assert_eq!(script.told(), ["32 10.0.0.9:8899 10.0.0.5:51920 time_wait>close segment after 7 ms"]);
}

#[test]
fn a_new_connection_from_the_same_addresses_ends_time_wait() {
    let mut script = in_time_wait();
    let mut again = syn(1000);
    again.header.seq += 500_000;
    script.segment(again);
    assert_eq!(script.told(), [""; 0], "the kernel may answer with an ACK of the old connection");
    let mut answer = syn_ack(1001);
    (answer.header.seq, answer.header.ack) = (7, again.header.seq + 1);
    script.segment(answer);
    let events = script.events();
    let [first, last] = &events[..] else { panic!("{events:?}") };
    let (EventKind::Segment(segment), EventKind::State(change)) = (&first.kind, &last.kind) else {
        panic!("{events:?}")
    };
    assert_eq!((segment.seq_rel, segment.ack_rel), (Some(0), Some(1)), "counted from the new start");
    assert_eq!((change.from.label(), change.to.label(), last.time), ("time_wait", "close", at(1001)));
    script.socket(server(1003, Listen, SynRecv));
    script.socket(server(1004, SynRecv, Established));
    assert_eq!(script.told()[2], "1004 server handshake completed in 4 ms");
    script.wait_until(90_000);
    assert_eq!(script.told(), [""; 0], "the timer of the old connection is gone");
}

#[test]
fn time_wait_ends_before_a_birth_that_is_told_late() {
    // Before Linux 6.18 a child has no addresses at first; and no segment was seen.
    let mut script = in_time_wait();
    script.socket(SocketInput { cookie: 70, remote: no_addr(), ..server(1003, Listen, SynRecv) });
    script.socket(server(1004, SynRecv, Established));
    assert_eq!(
        script.told()[..2],
        [
            "1003 10.0.0.9:8899 10.0.0.5:51920 time_wait>close kernel after 978 ms",
            "1003 10.0.0.9:8899 10.0.0.5:51920 listen>syn_recv kernel",
        ]
    );
}

#[test]
fn the_socket_of_a_time_wait_can_connect_again_meanwhile() {
    let mut script = Script::new();
    script.socket(client(1, Close, SynSent));
    script.socket(client(2, SynSent, Established));
    script.socket(client(3, Established, FinWait1));
    script.socket(client(4, FinWait1, FinWait2).fin_acked());
    script.socket(client(5, FinWait2, Close).fin_acked().fin_received());
    let local = (client(0, Close, Close).local.ip(), 60000).into();
    script.socket(SocketInput { local, ..client(6, Close, SynSent) });
    script.socket(SocketInput { local, ..client(7, SynSent, Established) });
    assert_eq!(script.tracker().sockets(), 2);
    script.events();
    script.wait_until(60_005);
    assert_eq!(script.told(), ["60005 10.0.0.5:51920 10.0.0.9:8899 time_wait>close timer after 60000 ms"]);
}

#[test]
fn a_simultaneous_close_is_closed_by_both() {
    let mut script = established();
    script.socket(server(10, Established, FinWait1));
    script.socket(server(11, FinWait1, Closing).fin_received());
    script.socket(server(12, Closing, Close).fin_received().fin_acked());
    assert_eq!(
        script.told()[1..],
        [
            "11 10.0.0.9:8899 10.0.0.5:51920 fin_wait1>closing kernel after 1 ms",
            "12 10.0.0.9:8899 10.0.0.5:51920 closing>time_wait kernel after 1 ms",
            "12 server closed by both after 8 ms, 100 out 50 in",
        ]
    );
}

#[test]
fn a_reset_is_blamed_on_who_sent_it() {
    let closed_by = |sk_err| {
        let mut script = established();
        script.socket(server(10, Established, Close).with_err(sk_err));
        script.told().pop()
    };
    assert_eq!(closed_by(104).as_deref(), Some("10 server closed by remote_reset after 6 ms, 100 out 50 in"));
    assert_eq!(closed_by(0).as_deref(), Some("10 server closed by local_reset after 6 ms, 100 out 50 in"));
    assert_eq!(closed_by(110).as_deref(), Some("10 server closed by timed_out after 6 ms, 100 out 50 in"));
    assert_eq!(closed_by(103).as_deref(), Some("10 server closed by killed after 6 ms, 100 out 50 in"));
}

#[test]
fn econnreset_without_a_reset_of_the_peer_is_data_after_close() {
    let closed_by = |peer_resets: bool| {
        let mut script = established();
        script.socket(server(10, Established, FinWait1));
        script.socket(server(11, FinWait1, FinWait2).fin_acked());
        if peer_resets {
            script.segment(from_client(12, Flags::RST, 51, 0));
        }
        script.socket(server(12, FinWait2, Close).fin_acked().with_err(104));
        script.told().pop()
    };
    assert_eq!(
        closed_by(false).as_deref(),
        Some("12 server closed by local_reset after 8 ms, 100 out 50 in")
    );
    assert_eq!(
        closed_by(true).as_deref(),
        Some("12 server closed by remote_reset after 8 ms, 100 out 50 in")
    );
}

#[test]
fn a_fin_that_was_not_acknowledged_is_not_taken_off_the_payload() {
    let mut script = established();
    script.socket(server(10, Established, CloseWait).fin_received());
    script.socket(server(11, CloseWait, LastAck).fin_received());
    script.events();
    let unacked = server(12, LastAck, Close).fin_received().with(|tcp| tcp.snd_nxt += 1);
    script.socket(unacked.with_err(104));
    assert_eq!(script.told()[1], "12 server closed by remote_reset after 8 ms, 100 out 50 in");
}

#[test]
fn a_connection_first_met_midway_is_partial() {
    let mut script = Script::new();
    script.socket(server(10, CloseWait, LastAck).fin_received());
    script.socket(server(12, LastAck, Close).fin_received().fin_acked());
    let events = script.events();
    let Some(Event { kind: EventKind::Closed(closed), .. }) = events.last() else { panic!("{events:?}") };
    assert!(closed.partial);
    assert_eq!((closed.duration, closed.bytes_sent, closed.bytes_received), (None, Some(100), Some(50)));
    let states: Vec<_> = closed.states.iter().map(|(state, spent)| (*state, spent.as_millis())).collect();
    assert_eq!(states, [(LastAck, 2)], "how long it was in CLOSE_WAIT is not known");
}

#[test]
fn addresses_of_an_end_whose_close_was_lost_start_anew() {
    let mut script = established();
    let fresh = TcpHeader { seq: 77_000, flags: Flags::SYN, ..syn(0).header };
    script.segment(SegmentInput { header: fresh, ..syn(5000) });
    script.socket(SocketInput { cookie: 99, ..server(5002, Listen, SynRecv) });
    script.segment(from_client(5003, Flags::RST, 1, 0));
    // Nothing is counted from the old start.
    assert_eq!(script.segments().last().map(String::as_str), Some("5003 10.0.0.5:51920 rst ? ?"));
}

#[test]
fn a_closed_connection_is_forgotten_but_for_stragglers() {
    let mut script = established();
    script.socket(server(10, Established, Close).with_err(104));
    script.segment(from_server(11, Flags::RST, 101, 0));
    assert_eq!(script.segments(), ["11 10.0.0.9:8899 rst +101 ?"]);
    let mut script = established();
    script.socket(server(10, Established, Close).with_err(104));
    script.wait_until(5_010);
    assert_eq!((script.tracker().next_deadline(), script.tracker().sockets()), (None, 0));
}
