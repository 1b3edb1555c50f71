//! Handshakes that the kernel reports: completed, refused, reset and timed out.

use tcp_monitor_common::TcpState::{Close, Established, Listen, SynRecv, SynSent};
use tcp_monitor_common::record::{Kind, ResetPhase};

use super::script::{Script, at, client, client_addr, describe, no_addr, server, syn};
use crate::lifecycle::input::{ResetDirection, RetransmitKind, SocketEvent};
use crate::lifecycle::{Event, EventKind, Input, SocketInput, Tracker};

#[test]
fn a_server_handshake_is_timed_from_the_first_syn() {
    let mut script = Script::new();
    script.segment(syn(0));
    script.segment(syn(1000));
    script.socket(server(1003, Listen, SynRecv));
    script.socket(server(1004, SynRecv, Established));
    assert_eq!(
        script.reported(),
        [
            "1003 10.0.0.9:8899 10.0.0.5:51920 listen>syn_recv kernel",
            "1004 10.0.0.9:8899 10.0.0.5:51920 syn_recv>established kernel after 1 ms",
            "1004 server handshake completed in 1004 ms",
        ]
    );
}

#[test]
fn without_its_syn_the_duration_of_a_server_handshake_is_unknown() {
    let mut script = Script::new();
    script.socket(server(3, Listen, SynRecv));
    script.socket(server(4, SynRecv, Established));
    assert_eq!(script.reported().last().map(String::as_str), Some("4 server handshake completed in ?"));
}

#[test]
fn a_child_created_with_its_listeners_identity_is_reported_with_its_own() {
    let mut script = Script::new();
    let listener = || SocketInput { cookie: 70, sk: 0xa0, remote: no_addr(), ..server(0, Close, Listen) };
    script.socket(listener());
    // Before Linux 6.18 a child's first transition has the cookie and addresses of the listener.
    // Only its `sk` is the child's.
    script.socket(SocketInput { cookie: 70, remote: no_addr(), ..server(3, Listen, SynRecv) });
    script.socket(server(5, SynRecv, Established));
    script.socket(SocketInput {
        time: at(9),
        kind: SocketEvent::State { from: Listen, to: Close },
        ..listener()
    });
    let events = script.events();
    let cookies = events.iter().filter_map(|event| match &event.kind {
        EventKind::State(_) => Some(event.cookie),
        EventKind::Handshake(_) => None,
        EventKind::Segment(_)
        | EventKind::Reset(_)
        | EventKind::Retransmit(_)
        | EventKind::Closed(_)
        | EventKind::Lost(_)
        | EventKind::Stuck(_) => {
            panic!("{event:?}")
        }
    });
    assert_eq!(cookies.collect::<Vec<_>>(), [70, 71, 71, 70]);
    assert_eq!(
        events.iter().map(describe).collect::<Vec<_>>(),
        [
            "0 10.0.0.9:8899 * close>listen kernel",
            "3 10.0.0.9:8899 10.0.0.5:51920 listen>syn_recv kernel",
            "5 10.0.0.9:8899 10.0.0.5:51920 syn_recv>established kernel after 2 ms",
            "5 server handshake completed in ?",
            "9 10.0.0.9:8899 * listen>close kernel after 9 ms",
        ]
    );
}

#[test]
fn a_child_that_closes_in_syn_recv_fails_its_handshake() {
    let mut script = Script::new();
    script.socket(SocketInput { cookie: 70, remote: no_addr(), ..server(3, Listen, SynRecv) });
    script.socket(server(5, SynRecv, Close).with_err(104));
    assert_eq!(
        script.reported(),
        [
            "3 10.0.0.9:8899 10.0.0.5:51920 listen>syn_recv kernel",
            "5 10.0.0.9:8899 10.0.0.5:51920 syn_recv>close kernel after 2 ms",
            "5 server handshake reset in ?",
        ]
    );
}

/// The kernel enters SYN_SENT before it chooses a port.
fn unbound(input: SocketInput) -> SocketInput {
    SocketInput { local: (client_addr().ip(), 0).into(), ..input }
}

#[test]
fn a_connecting_socket_gets_its_port_from_its_syn() {
    let mut script = Script::new();
    script.socket(unbound(client(1, Close, SynSent)));
    assert_eq!(script.reported(), [""; 0]);
    script.segment(syn(2));
    assert_eq!(script.reported(), ["1 10.0.0.5:51920 10.0.0.9:8899 close>syn_sent kernel"]);
    script.socket(client(4, SynSent, Established));
    assert_eq!(
        script.reported(),
        [
            "4 10.0.0.5:51920 10.0.0.9:8899 syn_sent>established kernel after 3 ms",
            "4 client handshake completed in 2 ms"
        ]
    );
}

#[test]
fn with_two_connecting_sockets_the_port_is_not_guessed_from_a_syn() {
    let mut script = Script::new();
    script.socket(unbound(client(1, Close, SynSent)));
    script.socket(SocketInput { cookie: 73, sk: 0xa3, ..unbound(client(1, Close, SynSent)) });
    script.segment(syn(2));
    assert_eq!(script.reported(), [""; 0]);
    script.socket(client(4, SynSent, Established));
    assert_eq!(script.reported()[0], "1 10.0.0.5:51920 10.0.0.9:8899 close>syn_sent kernel");
    // The port belongs to the first socket: a SYN retransmitted from it is not the other socket's.
    script.segment(syn(5));
    assert_eq!(script.reported(), [""; 0]);
}

#[test]
fn without_segments_the_port_comes_from_the_next_input_of_the_socket() {
    let mut script = Script::new();
    script.socket(unbound(client(1, Close, SynSent)));
    script.wait_until(20);
    assert_eq!(script.reported(), [""; 0]);
    script.socket(client(20, SynSent, Established));
    assert_eq!(script.reported()[0], "1 10.0.0.5:51920 10.0.0.9:8899 close>syn_sent kernel");
    script.wait_until(21);
    assert_eq!(script.reported(), [""; 0]);
}

#[test]
fn a_port_that_stays_unknown_for_20_ms_is_reported_as_0() {
    let mut script = Script::new();
    script.socket(unbound(client(1, Close, SynSent)));
    let syn_sent = "1 10.0.0.5:0 10.0.0.9:8899 close>syn_sent kernel";
    assert_eq!(script.tracker().next_deadline(), Some(at(21)));
    assert_eq!(script.tracker().earliest_deferred(at(20)), Some(at(1)));
    script.wait_until(21);
    assert_eq!(script.reported(), [syn_sent]);
    assert_eq!((script.tracker().next_deadline(), script.tracker().earliest_deferred(at(21))), (None, None));
    let kind = SocketEvent::Retransmit { kind: RetransmitKind::Syn, state: SynSent };
    script.socket(SocketInput { kind, ..client(1001, SynSent, SynSent) });
    script.socket(client(1003, SynSent, Established));
    assert_eq!(
        script.reported(),
        [
            "1001 retransmit syn in syn_sent",
            "1003 10.0.0.5:51920 10.0.0.9:8899 syn_sent>established kernel after 1002 ms",
            "1003 client handshake completed in 1002 ms",
        ]
    );
    assert_eq!(script.tracker().sockets(), 1);
}

#[test]
fn a_syn_delayed_by_neighbor_resolution_is_not_assigned_to_a_later_socket() {
    let mut script = Script::new();
    script.socket(unbound(client(1, Close, SynSent)));
    script.socket(SocketInput { cookie: 73, sk: 0xa3, ..unbound(client(500, Close, SynSent)) });
    script.reported();
    script.segment(syn(501));
    script.wait_until(520);
    assert_eq!(script.reported(), ["500 10.0.0.5:0 10.0.0.9:8899 close>syn_sent kernel"]);
}

#[test]
fn a_late_syn_still_dates_the_start_of_the_handshake() {
    let mut script = Script::new();
    script.socket(unbound(client(1, Close, SynSent)));
    script.segment(syn(501));
    script.socket(client(504, SynSent, Established));
    assert_eq!(
        script.reported(),
        [
            "1 10.0.0.5:0 10.0.0.9:8899 close>syn_sent kernel",
            "504 10.0.0.5:51920 10.0.0.9:8899 syn_sent>established kernel after 503 ms",
            "504 client handshake completed in 3 ms",
        ]
    );
}

#[test]
fn a_connect_that_never_gets_a_port_leaves_no_entry() {
    let mut script = Script::new();
    script.socket(unbound(client(1, Close, SynSent)));
    script.wait_until(30);
    script.socket(unbound(client(31, SynSent, Close)).with_err(99));
    assert_eq!(script.reported()[1], "31 10.0.0.5:0 10.0.0.9:8899 syn_sent>close kernel after 30 ms");
    assert_eq!((script.tracker().sockets(), script.tracker().next_deadline()), (0, None));
}

#[test]
fn a_child_unaddressed_for_more_than_20_ms_does_not_count_as_deferred() {
    let mut script = Script::new();
    script.socket(SocketInput { cookie: 70, remote: no_addr(), ..server(3, Listen, SynRecv) });
    assert_eq!(script.tracker().earliest_deferred(at(23)), Some(at(3)));
    assert_eq!(script.tracker().earliest_deferred(at(24)), None);
}

#[test]
fn a_refused_connection_fails_its_handshake() {
    let mut script = Script::new();
    script.socket(unbound(client(1, Close, SynSent)).by(9));
    script.socket(client(3, SynSent, Close).with_err(111));
    assert_eq!(
        script.reported(),
        [
            "1 10.0.0.5:51920 10.0.0.9:8899 close>syn_sent kernel",
            "3 10.0.0.5:51920 10.0.0.9:8899 syn_sent>close kernel after 2 ms",
            "3 client handshake refused in 2 ms"
        ]
    );
    assert_eq!(script.tracker().sockets(), 0);
}

#[test]
fn a_reset_reports_only_numbers_that_are_set() {
    let numbers = |state| {
        let mut script = Script::new();
        let (direction, phase) = (ResetDirection::Received, ResetPhase::Handshake);
        let kind = SocketEvent::Reset { direction, phase, reason: 255, state };
        let input = client(1, SynSent, Close).with(|tcp| (tcp.snd_nxt, tcp.rcv_nxt) = (7, 8));
        script.socket(SocketInput { kind, ..input });
        let events = script.events();
        let [Event { kind: EventKind::Reset(reset), .. }] = events.as_slice() else { panic!("{events:?}") };
        (reset.seq, reset.ack)
    };
    assert_eq!(numbers(Some(SynSent)), (Some(7), None), "nothing was received yet");
    assert_eq!(numbers(Some(Listen)), (None, None));
    assert_eq!(numbers(Some(Established)), (Some(7), Some(8)));
    assert_eq!(numbers(Some(Close)), (Some(7), Some(8)), "an abort enters CLOSE before it sends a RST");
    assert_eq!(numbers(None), (None, None));
}

#[test]
fn an_unanswered_handshake_times_out_and_counts_its_syn_retransmissions() {
    let mut script = Script::new();
    script.socket(client(1, Close, SynSent));
    script.socket(client(127_001, SynSent, Close).with_err(110).with(|tcp| tcp.total_retrans = 6));
    let Some(Event { kind: EventKind::Handshake(handshake), .. }) = script.events().pop() else {
        panic!("no handshake is reported")
    };
    assert_eq!((handshake.result_label(), handshake.syn_retransmits), ("timed_out", Some(6)));
}

#[test]
fn a_connection_that_fails_before_it_has_a_port_is_reported_with_port_0() {
    let mut script = Script::new();
    script.socket(unbound(client(1, Close, SynSent)));
    script.socket(unbound(client(2, SynSent, Close)));
    assert_eq!(
        script.reported(),
        [
            "1 10.0.0.5:0 10.0.0.9:8899 close>syn_sent kernel",
            "2 10.0.0.5:0 10.0.0.9:8899 syn_sent>close kernel after 1 ms",
            "2 client handshake aborted in 1 ms"
        ]
    );
}

#[test]
fn a_transition_to_the_same_state_reports_nothing() {
    let mut script = Script::new();
    script.socket(client(1, Close, Close));
    script.socket(server(1, Listen, Listen));
    assert_eq!(script.reported(), [""; 0]);
}

#[test]
fn a_socket_without_a_cookie_is_identified_by_its_kernel_address() {
    let mut script = Script::new();
    script.socket(SocketInput { cookie: 0, ..client(1, Close, SynSent) });
    script.socket(client(3, SynSent, Established));
    assert_eq!(script.reported()[1], "3 10.0.0.5:51920 10.0.0.9:8899 syn_sent>established kernel after 2 ms");
    assert_eq!(script.tracker().sockets(), 1);
}

#[test]
fn a_socket_that_reconnects_is_a_new_connection() {
    let mut script = Script::new();
    script.socket(client(1, Close, SynSent));
    script.socket(client(2, SynSent, Established));
    // The close of the first connection was lost.
    script.socket(client(10, Close, SynSent));
    script.socket(client(13, SynSent, Established));
    script.events();
    script.socket(client(20, Established, Close));
    assert_eq!(script.reported()[1], "20 client closed by local_reset after 7 ms, 50 out 100 in");
}

#[test]
fn both_ends_of_a_loopback_connection_are_tracked() {
    let mut script = Script::new();
    script.socket(client(1, Close, SynSent));
    script.server_handshake(2);
    script.socket(client(7, SynSent, Established));
    assert_eq!(script.tracker().sockets(), 2);
    let reported = script.reported();
    assert!(reported.contains(&"6 server handshake completed in 4 ms".into()), "{reported:?}");
    assert!(reported.contains(&"7 client handshake completed in 5 ms".into()), "{reported:?}");
}

#[test]
fn lost_records_are_reported() {
    let (mut tracker, mut events) = (Tracker::new(), Vec::new());
    tracker.handle(Input::Lost { time: at(5), kind: Kind::Segment, count: 12 }, &mut events);
    let [Event { time, kind: EventKind::Lost(lost), .. }] = events[..] else { panic!("{events:?}") };
    assert_eq!((time, lost.kind, lost.count), (at(5), Kind::Segment, 12));
}
