//! Half-open connections (SYN_RECV request sockets). The kernel reports only those that complete.

use tcp_monitor_common::TcpState::{Close, Closing, Established, FinWait1, Listen, SynRecv, SynSent};

use super::host::{FIN, Host, OUT, RST, RST_ACK, SYN, SYN_ACK};
use crate::lifecycle::EventKind;
use crate::lifecycle::tests::script::{client, from_server, no_addr, server, syn, syn_ack};
use crate::lifecycle::{InferFrom, Input, Options, SegmentInput, SocketInput, Tracker};

/// A server that has answered a SYN. All events up to then have been read.
fn half_open() -> Host {
    let mut host = Host::with_server();
    host.client(SYN, 0, 0);
    assert_eq!(host.reported(), [""; 0], "a SYN alone does not show that the server answers");
    host.server(SYN_ACK, 0, 1);
    assert_eq!(host.reported(), ["1 server client listen>syn_recv segment"]);
    host
}

#[test]
fn a_completed_request_is_reported_once_and_in_syn_recv_since_its_syn_ack() {
    let mut host = half_open();
    host.wait_until(40);
    host.client_acks_syn_ack();
    assert_eq!(host.reported(), [""; 0], "only the kernel reports whether the server accepts it");
    host.socket(server(0, Listen, SynRecv));
    host.socket(server(0, SynRecv, Established));
    assert_eq!(
        host.reported(),
        [
            "40 server client syn_recv>established kernel after 39 ms",
            "40 server handshake completed in 40 ms",
        ]
    );
    host.client(FIN, 51, 101);
    host.wait_until(1_000_000);
    assert_eq!((host.reported(), host.tracker().inferred()), (vec![], 0));
}

#[test]
fn an_unaddressed_child_replaces_its_request_too() {
    let mut host = half_open();
    host.client_acks_syn_ack();
    // Before Linux 6.18 a child has no addresses at first.
    host.socket(SocketInput { cookie: 70, remote: no_addr(), ..server(0, Listen, SynRecv) });
    host.socket(server(0, SynRecv, Established));
    assert_eq!(
        host.reported(),
        ["2 server client syn_recv>established kernel after 1 ms", "2 server handshake completed in 2 ms"]
    );
}

#[test]
fn a_request_whose_child_was_lost_is_established_when_the_kernel_reports_it() {
    let mut host = half_open();
    host.client_acks_syn_ack();
    host.socket(server(0, SynRecv, Established));
    assert_eq!(host.reported()[0], "2 server client syn_recv>established kernel after 1 ms");
}

#[test]
fn with_one_retransmission_a_request_times_out_when_the_second_is_overdue() {
    let mut host = half_open();
    host.wait_until(1_031);
    host.server(SYN_ACK, 0, 1);
    assert_eq!(host.reported(), [""; 0], "the kernel itself reports its retransmissions");
    host.wait_until(3_530);
    assert_eq!(host.reported(), [""; 0]);
    host.wait_until(4_000);
    assert_eq!(
        host.reported(),
        [
            "3531 server client syn_recv>close timer after 3530 ms",
            "3531 server handshake timed_out in 3531 ms"
        ]
    );
}

#[test]
fn with_five_retransmissions_a_request_times_out_when_the_sixth_is_overdue() {
    let mut host = half_open();
    for second in [1, 3, 7, 15, 31] {
        host.wait_until(second * 1030);
        host.server(SYN_ACK, 0, 1);
    }
    host.wait_until(60_000);
    assert_eq!(host.reported(), [""; 0]);
    host.wait_until(90_000);
    assert_eq!(
        host.reported(),
        [
            "71930 server client syn_recv>close timer after 71929 ms",
            "71930 server handshake timed_out in 71930 ms"
        ]
    );
}

#[test]
fn a_request_without_syn_ack_retransmissions_may_be_a_syn_cookie_and_lasts_70_s() {
    let mut host = half_open();
    host.wait_until(70_000);
    assert_eq!(host.reported(), [""; 0]);
    host.wait_until(80_000);
    assert_eq!(host.reported()[1], "70001 server handshake timed_out in 70001 ms");
}

#[test]
fn a_syn_cookie_replaces_a_request() {
    let mut host = half_open();
    host.reported();
    host.wait_until(50_000);
    let cookie = SegmentInput { syn_cookie: true, ..from_server(0, SYN_ACK, 7_000, 1) };
    host.see(cookie, &[(1, 2, OUT)]);
    let reported = host.reported();
    assert!(reported[0].starts_with("50000 server client syn_recv>close segment after"), "{reported:?}");
    assert!(reported[1].starts_with("50000 server handshake aborted"), "{reported:?}");
    host.wait_until(200_000);
    assert_eq!((host.reported().len(), host.tracker().inferred()), (0, 0));
}

#[test]
fn a_reset_in_answer_to_the_syn_ack_fails_the_handshake() {
    let mut host = half_open();
    host.client(RST, 77, 0);
    assert_eq!(host.reported(), [""; 0], "its sequence number is not the expected one");
    host.client(RST, 1, 0);
    assert_eq!(
        host.reported(),
        ["3 server client syn_recv>close segment after 2 ms", "3 server handshake reset in 3 ms"]
    );
}

#[test]
fn a_syn_ack_retransmitted_after_the_handshake_ack_shows_a_full_accept_queue() {
    let mut host = half_open();
    host.client_acks_syn_ack();
    for second in [1, 3] {
        host.wait_until(second * 1000);
        host.server(SYN_ACK, 0, 1);
        host.client_acks_syn_ack();
    }
    assert_eq!(host.reported(), [""; 0]);
    host.wait_until(80_000);
    assert_eq!(
        host.reported(),
        [
            "8001 server client syn_recv>close timer after 8000 ms",
            "8001 server handshake accept_queue_full in 8001 ms"
        ]
    );
}

#[test]
fn a_handshake_ack_without_further_syn_acks_completes_the_handshake() {
    let mut host = half_open();
    host.wait_until(1000);
    host.server(SYN_ACK, 0, 1);
    host.client_acks_syn_ack();
    // The kernel may report the child late: with TCP_DEFER_ACCEPT it waits for data.
    host.wait_until(71_000);
    assert_eq!(host.reported(), [""; 0]);
    host.wait_until(72_000);
    // What accepted it is a socket with another address, or not a socket.
    assert_eq!(
        host.reported(),
        [
            "71001 server client syn_recv>established timer after 71000 ms",
            "71001 server handshake completed in 1001 ms"
        ]
    );
}

#[test]
fn a_reset_from_a_closed_port_is_reported_as_no_listener() {
    let mut host = Host::with_server();
    host.client(SYN, 0, 0);
    host.server(RST_ACK, 0, 1);
    assert_eq!(host.reported(), ["1 server handshake no_listener in 1 ms"]);
    // Another attempt is another handshake.
    host.client(SYN, 500, 0);
    host.server(RST_ACK, 0, 501);
    assert_eq!(host.reported(), ["3 server handshake no_listener in 1 ms"]);
}

#[test]
fn on_loopback_the_kernel_reports_the_client_and_the_request_is_inferred() {
    let lo = &[(1, 1, OUT)];
    let mut host = Host::new(lo, lo);
    host.socket(client(0, Close, SynSent));
    host.client(SYN, 0, 0);
    host.server(SYN_ACK, 0, 1);
    host.socket(client(0, SynSent, Established));
    host.client_acks_syn_ack();
    host.socket(server(0, Listen, SynRecv));
    host.socket(server(0, SynRecv, Established));
    assert_eq!(
        host.reported(),
        [
            "0 client server close>syn_sent kernel",
            "1 server client listen>syn_recv segment",
            "1 client server syn_sent>established kernel after 1 ms",
            "1 client handshake completed in 1 ms",
            "2 server client syn_recv>established kernel after 1 ms",
            "2 server handshake completed in 2 ms",
        ]
    );
}

#[test]
fn with_fast_open_the_kernel_reports_the_child_before_the_syn_ack() {
    let mut host = Host::with_server();
    host.client(SYN, 0, 0);
    host.socket(server(0, Listen, SynRecv));
    host.server(SYN_ACK, 0, 1);
    host.client_acks_syn_ack();
    host.socket(server(0, SynRecv, Established));
    assert_eq!(
        host.reported(),
        [
            "0 server client listen>syn_recv kernel",
            "2 server client syn_recv>established kernel after 2 ms",
            "2 server handshake completed in 2 ms",
        ]
    );
}

#[test]
fn a_new_connection_from_addresses_in_time_wait_begins_with_a_request() {
    let mut host = half_open();
    host.client_acks_syn_ack();
    host.socket(server(0, Listen, SynRecv));
    host.socket(server(0, SynRecv, Established));
    host.server(FIN, 101, 51);
    host.socket(server(0, Established, FinWait1));
    host.client(FIN, 51, 101);
    host.socket(server(0, FinWait1, Closing).fin_received());
    host.client_acks_fin(52, 102);
    host.socket(server(0, Closing, Close).fin_received().fin_acked());
    assert_eq!(
        host.reported().last().map(String::as_str),
        Some("5 server closed by both after 3 ms, 100 out 50 in")
    );
    host.wait_until(10_000);
    host.client(SYN, 9_000, 0);
    host.server(SYN_ACK, 70_000, 9_001);
    assert_eq!(
        host.reported(),
        [
            "10001 server client time_wait>close segment after 9996 ms",
            "10001 server client listen>syn_recv segment",
        ]
    );
}

#[test]
fn requests_that_never_complete_are_bounded() {
    let options = Options { infer_from: InferFrom::ControlSegments, max_connections: 320 };
    let (mut tracker, mut events) = (Tracker::with(options), Vec::new());
    for port in 1..1000 {
        for mut segment in [syn(port.into()), syn_ack(port.into())] {
            let address = if segment.src.port() == 8899 { &mut segment.dst } else { &mut segment.src };
            address.set_port(port);
            tracker.handle(Input::Segment(segment), &mut events);
        }
        assert!(tracker.inferred() <= 10);
    }
    assert_eq!(events.iter().filter(|event| matches!(event.kind, EventKind::State(_))).count(), 999);
    assert_eq!(tracker.evicted(), 989, "each connection counts once");
}
