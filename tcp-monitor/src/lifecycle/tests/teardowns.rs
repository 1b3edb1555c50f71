//! Teardowns that the kernel reports: FINs, resets, TIME_WAIT and FIN_WAIT2 timewait sockets.

use tcp_monitor_common::TcpState::{
    Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
};
use tcp_monitor_common::record::ResetPhase;

use super::script::{Script, at, client, from_client, from_server, no_addr, server, syn, syn_ack};
use crate::lifecycle::input::{ResetDirection, SocketEvent};
use crate::lifecycle::segment::Flags;
use crate::lifecycle::{Event, EventKind, SegmentInput, SocketInput, TcpHeader};

/// A server in ESTABLISHED since 4 ms. All events up to then have been read.
fn established() -> Script {
    let mut script = Script::new();
    script.server_handshake(0);
    script.events();
    script
}

/// As [`established`], and the server's application has closed: at 30 ms the kernel replaced the
/// socket with a FIN_WAIT2 timewait socket, which awaits the client's FIN.
fn fin_wait2_timewait() -> Script {
    let mut script = established();
    script.socket(server(10, Established, FinWait1).by(812));
    script.socket(SocketInput { orphan: true, ..server(20, FinWait1, FinWait2).fin_acked() });
    script.socket(SocketInput { orphan: true, ..server(30, FinWait2, Close).fin_acked() });
    script
}

#[test]
fn a_close_by_the_client_is_reported_with_process_states_and_bytes() {
    let mut script = established();
    script.socket(server(10, Established, CloseWait).fin_received());
    script.socket(server(15, CloseWait, LastAck).fin_received().by(812));
    script.socket(server(16, LastAck, Close).fin_received().fin_acked());
    let events = script.events();
    let Some(Event { kind: EventKind::Closed(closed), .. }) = events.last() else { panic!("{events:?}") };
    assert_eq!(closed.process.map(|process| process.pid), Some(812));
    assert_eq!(closed.rtt_us, Some(480));
    let states: Vec<_> =
        closed.states.iter().map(|(state, duration)| (*state, duration.as_millis())).collect();
    assert_eq!(states, [(Established, 6), (SynRecv, 1), (CloseWait, 5), (LastAck, 1)]);
    assert_eq!((closed.bytes_sent, closed.bytes_received), (Some(100), Some(50)));
    assert_eq!((closed.closed_by.label(), closed.partial), ("remote", false));
    assert_eq!(closed.duration.map(|duration| duration.as_millis()), Some(12));
}

#[test]
fn a_close_by_the_server_is_followed_by_60_s_of_time_wait() {
    let mut script = established();
    script.socket(server(10, Established, FinWait1));
    script.socket(server(20, FinWait1, FinWait2).fin_acked());
    script.socket(server(25, FinWait2, Close).fin_acked().fin_received());
    assert_eq!(
        script.reported(),
        [
            "10 10.0.0.9:8899 10.0.0.5:51920 established>fin_wait1 kernel after 6 ms",
            "20 10.0.0.9:8899 10.0.0.5:51920 fin_wait1>fin_wait2 kernel after 10 ms",
            "25 10.0.0.9:8899 10.0.0.5:51920 fin_wait2>time_wait kernel after 5 ms",
            "25 server closed by local after 21 ms, 100 out 50 in",
        ]
    );
    assert_eq!(script.tracker().next_deadline(), Some(at(60_025)));
    script.wait_until(60_024);
    assert_eq!(script.reported(), [""; 0]);
    script.wait_until(99_000);
    assert_eq!(
        script.reported(),
        ["60025 10.0.0.9:8899 10.0.0.5:51920 time_wait>close timer after 60000 ms"]
    );
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
    assert_eq!(script.reported()[1], "5 client closed by local after 3 ms, 50 out 100 in");
}

#[test]
fn a_fin_wait2_timewait_socket_stays_until_the_peers_fin() {
    let mut script = fin_wait2_timewait();
    assert_eq!(script.reported().len(), 2, "the change to a timewait socket is not reported");
    script.segment(from_client(70, Flags::FIN.union(Flags::ACK), 51, 102));
    assert_eq!(
        script.reported(),
        [
            "70 10.0.0.9:8899 10.0.0.5:51920 fin_wait2>time_wait segment after 50 ms",
            "70 server closed by local after 66 ms, 100 out 50 in",
        ]
    );
    script.wait_until(60_070);
    assert_eq!(
        script.reported(),
        ["60070 10.0.0.9:8899 10.0.0.5:51920 time_wait>close timer after 60000 ms"]
    );
}

#[test]
fn time_wait_restarts_when_the_peer_retransmits_its_fin() {
    let mut script = fin_wait2_timewait();
    let fin = Flags::FIN.union(Flags::ACK);
    script.segment(from_client(70, fin, 51, 102));
    script.segment(from_client(50_000, fin, 51, 102));
    script.segment(from_client(55_000, Flags::FIN, 51, 0));
    script.events();
    script.wait_until(109_999);
    assert_eq!(script.reported(), [""; 0]);
    script.wait_until(110_000);
    assert_eq!(
        script.reported(),
        ["110000 10.0.0.9:8899 10.0.0.5:51920 time_wait>close timer after 109930 ms"]
    );
}

#[test]
fn a_fin_wait2_timewait_socket_without_the_peers_fin_closes_after_the_fin_timeout() {
    let mut script = fin_wait2_timewait();
    script.events();
    script.wait_until(60_030);
    assert_eq!(
        script.reported(),
        [
            "60030 10.0.0.9:8899 10.0.0.5:51920 fin_wait2>close timer after 60010 ms",
            "60030 server closed by local after 60026 ms, 100 out 50 in",
        ]
    );
}

#[test]
fn a_fin_seen_just_before_the_change_to_a_timewait_socket_counts() {
    let mut script = established();
    script.socket(server(10, Established, FinWait1));
    script.socket(server(20, FinWait1, FinWait2).fin_acked());
    script.segment(from_client(21, Flags::FIN.union(Flags::ACK), 51, 102));
    script.events();
    script.socket(server(22, FinWait2, Close).fin_acked());
    assert_eq!(
        script.reported()[0],
        "22 10.0.0.9:8899 10.0.0.5:51920 fin_wait2>time_wait segment after 2 ms"
    );
}

#[test]
fn late_data_to_a_fin_wait2_timewait_socket_is_answered_by_a_reset() {
    let mut script = fin_wait2_timewait();
    script.events();
    // A FIN behind data that no socket can receive any more is not the awaited FIN.
    script.segment(from_client(70, Flags::FIN.union(Flags::ACK), 60, 102));
    assert_eq!(script.reported(), [""; 0]);
    script.segment(from_server(71, Flags::RST, 102, 0));
    assert_eq!(
        script.reported(),
        [
            "71 10.0.0.9:8899 10.0.0.5:51920 fin_wait2>close segment after 51 ms",
            "71 server closed by local_reset after 67 ms, 100 out 50 in",
        ]
    );
}

#[test]
fn an_abort_for_linger2_closes_at_once() {
    let mut script = fin_wait2_timewait();
    script.events();
    let (direction, phase) = (ResetDirection::Sent, ResetPhase::Closing);
    let kind = SocketEvent::Reset { direction, phase, reason: 12, state: Some(Close) };
    script.socket(SocketInput { kind, ..server(31, Close, Close) });
    assert_eq!(
        script.reported(),
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
fn a_reset_ends_time_wait_only_at_the_expected_sequence_number() {
    let mut script = in_time_wait();
    script.segment(from_client(30, Flags::RST, 51, 0));
    script.segment(from_server(31, Flags::RST, 102, 0));
    assert_eq!(script.reported(), [""; 0]);
    script.segment(from_client(32, Flags::RST, 52, 0));
    assert_eq!(script.reported(), ["32 10.0.0.9:8899 10.0.0.5:51920 time_wait>close segment after 7 ms"]);
}

#[test]
fn a_new_connection_from_the_same_addresses_ends_time_wait() {
    let mut script = in_time_wait();
    let mut new_syn = syn(1000);
    new_syn.header.seq += 500_000;
    script.segment(new_syn);
    assert_eq!(script.reported(), [""; 0], "the kernel may answer with an ACK of the old connection");
    let mut answer = syn_ack(1001);
    (answer.header.seq, answer.header.ack) = (7, new_syn.header.seq + 1);
    script.segment(answer);
    let events = script.events();
    let [first, last] = &events[..] else { panic!("{events:?}") };
    let (EventKind::Segment(segment), EventKind::State(change)) = (&first.kind, &last.kind) else {
        panic!("{events:?}")
    };
    assert_eq!(
        (segment.seq_rel, segment.ack_rel),
        (Some(0), Some(1)),
        "relative to the new initial sequence numbers"
    );
    assert_eq!((change.from.label(), change.to.label(), last.time), ("time_wait", "close", at(1001)));
    script.socket(server(1003, Listen, SynRecv));
    script.socket(server(1004, SynRecv, Established));
    assert_eq!(script.reported()[2], "1004 server handshake completed in 4 ms");
    script.wait_until(90_000);
    assert_eq!(script.reported(), [""; 0], "the timer of the old connection is gone");
}

#[test]
fn time_wait_ends_before_a_child_that_is_reported_late() {
    // Before Linux 6.18 a child has no addresses at first; and no segment was seen.
    let mut script = in_time_wait();
    script.socket(SocketInput { cookie: 70, remote: no_addr(), ..server(1003, Listen, SynRecv) });
    script.socket(server(1004, SynRecv, Established));
    assert_eq!(
        script.reported()[..2],
        [
            "1003 10.0.0.9:8899 10.0.0.5:51920 time_wait>close kernel after 978 ms",
            "1003 10.0.0.9:8899 10.0.0.5:51920 listen>syn_recv kernel",
        ]
    );
}

#[test]
fn a_socket_can_reconnect_while_its_last_connection_is_in_time_wait() {
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
    assert_eq!(
        script.reported(),
        ["60005 10.0.0.5:51920 10.0.0.9:8899 time_wait>close timer after 60000 ms"]
    );
}

#[test]
fn a_simultaneous_close_is_closed_by_both() {
    let mut script = established();
    script.socket(server(10, Established, FinWait1));
    script.socket(server(11, FinWait1, Closing).fin_received());
    script.socket(server(12, Closing, Close).fin_received().fin_acked());
    assert_eq!(
        script.reported()[1..],
        [
            "11 10.0.0.9:8899 10.0.0.5:51920 fin_wait1>closing kernel after 1 ms",
            "12 10.0.0.9:8899 10.0.0.5:51920 closing>time_wait kernel after 1 ms",
            "12 server closed by both after 8 ms, 100 out 50 in",
        ]
    );
}

#[test]
fn the_socket_error_shows_who_aborted_the_connection() {
    let closed_by = |sk_err| {
        let mut script = established();
        script.socket(server(10, Established, Close).with_err(sk_err));
        script.reported().pop()
    };
    assert_eq!(closed_by(104).as_deref(), Some("10 server closed by remote_reset after 6 ms, 100 out 50 in"));
    assert_eq!(closed_by(0).as_deref(), Some("10 server closed by local_reset after 6 ms, 100 out 50 in"));
    assert_eq!(closed_by(110).as_deref(), Some("10 server closed by timed_out after 6 ms, 100 out 50 in"));
    assert_eq!(closed_by(103).as_deref(), Some("10 server closed by killed after 6 ms, 100 out 50 in"));
}

#[test]
fn econnreset_without_a_reset_from_the_peer_is_a_local_reset_for_data_after_close() {
    let closed_by = |peer_resets: bool| {
        let mut script = established();
        script.socket(server(10, Established, FinWait1));
        script.socket(server(11, FinWait1, FinWait2).fin_acked());
        if peer_resets {
            script.segment(from_client(12, Flags::RST, 51, 0));
        }
        script.socket(server(12, FinWait2, Close).fin_acked().with_err(104));
        script.reported().pop()
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
fn an_unacknowledged_fin_is_not_subtracted_from_the_payload() {
    let mut script = established();
    script.socket(server(10, Established, CloseWait).fin_received());
    script.socket(server(11, CloseWait, LastAck).fin_received());
    script.events();
    let unacked = server(12, LastAck, Close).fin_received().with(|tcp| tcp.snd_nxt += 1);
    script.socket(unacked.with_err(104));
    assert_eq!(script.reported()[1], "12 server closed by remote_reset after 8 ms, 100 out 50 in");
}

#[test]
fn a_connection_first_seen_midway_is_partial() {
    let mut script = Script::new();
    script.socket(server(10, CloseWait, LastAck).fin_received());
    script.socket(server(12, LastAck, Close).fin_received().fin_acked());
    let events = script.events();
    let Some(Event { kind: EventKind::Closed(closed), .. }) = events.last() else { panic!("{events:?}") };
    assert!(closed.partial);
    assert_eq!((closed.duration, closed.bytes_sent, closed.bytes_received), (None, Some(100), Some(50)));
    let states: Vec<_> =
        closed.states.iter().map(|(state, duration)| (*state, duration.as_millis())).collect();
    assert_eq!(states, [(LastAck, 2)], "how long it was in CLOSE_WAIT is not known");
}

#[test]
fn addresses_of_a_socket_whose_close_was_lost_can_be_reused() {
    let mut script = established();
    let fresh = TcpHeader { seq: 77_000, flags: Flags::SYN, ..syn(0).header };
    script.segment(SegmentInput { header: fresh, ..syn(5000) });
    script.socket(SocketInput { cookie: 99, ..server(5002, Listen, SynRecv) });
    script.segment(from_client(5003, Flags::RST, 1, 0));
    // Its numbers are not relative to the old initial sequence number.
    assert_eq!(script.segments().last().map(String::as_str), Some("5003 10.0.0.5:51920 rst ? ?"));
}

#[test]
fn a_closed_connection_is_kept_for_5_s_for_late_segments() {
    let mut script = established();
    script.socket(server(10, Established, Close).with_err(104));
    script.segment(from_server(11, Flags::RST, 101, 0));
    assert_eq!(script.segments(), ["11 10.0.0.9:8899 rst +101 ?"]);
    let mut script = established();
    script.socket(server(10, Established, Close).with_err(104));
    script.wait_until(5_010);
    assert_eq!((script.tracker().next_deadline(), script.tracker().sockets()), (None, 0));
}
