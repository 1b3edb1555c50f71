//! Connections that this host forwards, and those that only look forwarded.

use tcp_monitor_common::TcpState::{
    Close, CloseWait, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
};

use super::host::{FIN, Hop, Host, IN, OUT, RST, RST_ACK, SYN, SYN_ACK};
use crate::lifecycle::tests::script::{client, server, syn, syn_ack};
use crate::lifecycle::{EventKind, SegmentInput, SocketInput};

const HANDSHAKE_EVENTS: [&str; 6] = [
    "1 client server close>syn_sent segment",
    "1 server client listen>syn_recv segment",
    "2 client server syn_sent>established segment after 2 ms",
    "2 client handshake completed in 2 ms",
    "2 server client syn_recv>established segment after 1 ms",
    "2 server handshake completed in 2 ms",
];

fn handshake(host: &mut Host) {
    host.client(SYN, 0, 0);
    host.server(SYN_ACK, 0, 1);
    host.client_acks_syn_ack();
}

#[test]
fn a_forwarded_connection_is_reported_for_both_ends_from_open_to_close() {
    let mut host = Host::router();
    handshake(&mut host);
    assert_eq!(host.reported(), HANDSHAKE_EVENTS);
    // A day passes, and more than 4 GiB of data that are not seen.
    host.wait_until(86_400_000);
    host.client(FIN, 3_000_000_001, 3_500_000_001);
    host.server_acks_fin(3_500_000_001, 3_000_000_002);
    host.wait_until(90_000_000);
    host.server(FIN, 700_000_000, 3_000_000_002);
    host.client_acks_fin(3_000_000_002, 700_000_001);
    assert_eq!(
        host.reported(),
        [
            "86400000 client server established>fin_wait1 segment after 86399998 ms",
            "86400001 server client established>close_wait segment after 86399999 ms",
            "86400001 client server fin_wait1>fin_wait2 segment after 1 ms",
            "90000000 server client close_wait>last_ack segment after 3599999 ms",
            "90000001 client server fin_wait2>time_wait segment after 3600000 ms",
            "90000001 client closed by local after 89999999 ms, ? out ? in",
            "90000001 server client last_ack>close segment after 1 ms",
            "90000001 server closed by remote after 89999999 ms, ? out ? in",
        ]
    );
    host.wait_until(100_000_000);
    assert_eq!(host.reported(), ["90060001 client server time_wait>close timer after 60000 ms"]);
    assert_eq!((host.tracker().inferred(), host.tracker().next_deadline()), (0, None));
}

#[test]
fn a_retransmission_is_reported_once_for_all_interfaces_it_passes() {
    let mut host = Host::router();
    host.client(SYN, 0, 0);
    host.wait_until(1000);
    host.client(SYN, 0, 0);
    host.server(SYN_ACK, 0, 1);
    host.wait_until(2000);
    host.server(SYN_ACK, 0, 1);
    host.client_acks_syn_ack();
    host.client(FIN, 1, 1);
    host.wait_until(2300);
    host.client(FIN, 1, 1);
    let reported = host.reported();
    let retransmits: Vec<_> = reported.iter().filter(|line| line.contains("retransmit")).collect();
    assert_eq!(
        retransmits,
        ["2000 retransmit syn_ack in syn_recv", "2300 retransmit fin in fin_wait1"],
        "{reported:?}"
    );
}

#[test]
fn a_forwarded_unanswered_syn_is_reported_when_it_times_out() {
    let mut host = Host::router();
    host.client(SYN, 0, 0);
    host.wait_until(1000);
    host.client(SYN, 0, 0);
    assert_eq!(host.reported(), [""; 0], "the server may be on this host");
    host.wait_until(80_000);
    assert_eq!(
        host.reported(),
        [
            "71000 client server close>syn_sent segment",
            "71000 client server syn_sent>close timer after 71000 ms",
            "71000 client handshake timed_out in 71000 ms",
        ]
    );
}

#[test]
fn a_forwarded_simultaneous_open_is_reported_in_legal_transitions() {
    let mut host = Host::router();
    host.client(SYN, 0, 0);
    // The server's SYN took another route.
    host.client(SYN_ACK, 0, 1);
    host.server(SYN_ACK, 0, 1);
    let reported = host.reported();
    assert_eq!(reported[0], "2 client server syn_sent>syn_recv segment");
}

#[test]
fn a_forwarded_connection_that_is_refused_or_reset_is_reported_for_its_ends() {
    let mut host = Host::router();
    host.client(SYN, 0, 0);
    host.server(RST_ACK, 0, 1);
    assert_eq!(
        host.reported(),
        [
            "1 client server close>syn_sent segment",
            "1 reset sent unknown",
            "1 reset received unknown",
            "1 client server syn_sent>close segment after 1 ms",
            "1 client handshake refused in 1 ms",
        ]
    );
    let mut host = Host::router();
    handshake(&mut host);
    host.reported();
    host.client(RST, 123_456, 0);
    assert_eq!(
        host.reported(),
        [
            "3 reset sent unknown",
            "3 reset received unknown",
            "3 client server established>close segment after 1 ms",
            "3 client closed by local_reset after 1 ms, ? out ? in",
            "3 server client established>close segment after 1 ms",
            "3 server closed by remote_reset after 1 ms, ? out ? in",
        ]
    );
}

#[test]
fn an_open_connection_idle_for_five_days_expires_without_an_event() {
    let mut host = Host::router();
    handshake(&mut host);
    host.reported();
    host.wait_until(5 * 86_400_000);
    assert_eq!(host.tracker().inferred(), 1);
    host.wait_until(5 * 86_400_000 + 2_000);
    assert_eq!((host.tracker().inferred(), host.reported()), (0, vec![]));
}

#[test]
fn ingress_traffic_without_egress_is_not_forwarded() {
    // A mirror port, or addresses of this host that no socket answers for.
    let mut host = Host::new(&[(1, 2, IN)], &[(1, 2, IN)]);
    handshake(&mut host);
    host.client(FIN, 1, 1);
    host.server(FIN, 1, 2);
    host.wait_until(1_000_000);
    assert_eq!((host.reported(), host.tracker().inferred()), (vec![], 0));
}

/// From a container on the host, through the host's namespace, to the network.
const OUT_OF_A_CONTAINER: &[Hop] = &[(2, 2, OUT), (1, 7, IN), (1, 8, OUT), (1, 2, OUT)];
const INTO_A_CONTAINER: &[Hop] = &[(1, 2, IN), (1, 8, IN), (1, 7, OUT), (2, 2, IN)];

#[test]
fn a_client_in_a_container_is_reported_by_the_kernel_and_not_as_forwarded() {
    let inside = |input: SocketInput| SocketInput { netns: 2, ..input };
    let mut host = Host::new(OUT_OF_A_CONTAINER, INTO_A_CONTAINER);
    host.socket(inside(client(0, Close, SynSent)));
    host.client(SYN, 0, 0);
    host.server(SYN_ACK, 0, 1);
    host.socket(inside(client(0, SynSent, Established)));
    host.client_acks_syn_ack();
    host.wait_until(100_000);
    host.server(FIN, 101, 51);
    host.socket(inside(client(0, Established, CloseWait).fin_received()));
    host.client_acks_fin(51, 102);
    host.socket(inside(client(0, CloseWait, LastAck).fin_received()));
    host.client(FIN, 51, 102);
    host.server_acks_fin(102, 52);
    host.socket(inside(client(0, LastAck, Close).fin_received().fin_acked()));
    host.wait_until(1_000_000);
    let reported = host.reported();
    let own = |line: &&String| {
        line.contains("kernel")
            || line.contains("client handshake completed")
            || line.contains("client closed by remote")
    };
    assert!(reported.iter().all(|line| own(&line)) && reported.len() == 7, "{reported:#?}");
    assert_eq!(host.tracker().inferred(), 0);
}

#[test]
fn a_half_open_request_in_a_container_is_reported_once_in_its_namespace() {
    let inside = |input: SocketInput| SocketInput { netns: 2, ..input };
    let mut host = Host::new(INTO_A_CONTAINER, OUT_OF_A_CONTAINER);
    host.client(SYN, 0, 0);
    host.server(SYN_ACK, 0, 1);
    let events = host.events();
    let reported: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::State(change) => Some((event.netns, change.from, change.to)),
            EventKind::Segment(_)
            | EventKind::Handshake(_)
            | EventKind::Reset(_)
            | EventKind::Retransmit(_)
            | EventKind::Closed(_)
            | EventKind::Lost(_)
            | EventKind::Stuck(_) => None,
        })
        .collect();
    assert_eq!(reported, [(2, Listen, SynRecv)]);
    // The handshake ACK is seen in the host's namespace only.
    host.client_acks_syn_ack();
    host.socket(inside(server(0, Listen, SynRecv)));
    host.socket(inside(server(0, SynRecv, Established)));
    host.wait_until(100_000);
    host.client(FIN, 51, 101);
    host.socket(inside(server(0, Established, CloseWait).fin_received()));
    host.server_acks_fin(101, 52);
    host.socket(inside(server(0, CloseWait, LastAck).fin_received()));
    host.server(FIN, 101, 52);
    host.client_acks_fin(52, 102);
    host.socket(inside(server(0, LastAck, Close).fin_received().fin_acked()));
    assert_eq!(
        host.reported(),
        [
            "2 server client syn_recv>established kernel after 1 ms",
            "2 server handshake completed in 2 ms",
            "100000 server client established>close_wait kernel after 99998 ms",
            "100001 server client close_wait>last_ack kernel after 1 ms",
            "100003 server client last_ack>close kernel after 2 ms",
            "100003 server closed by remote after 100001 ms, 100 out 50 in",
        ]
    );
}

#[test]
fn a_handshake_ack_seen_in_another_namespace_shows_a_full_accept_queue() {
    let mut host = Host::new(INTO_A_CONTAINER, OUT_OF_A_CONTAINER);
    handshake(&mut host);
    host.wait_until(1000);
    host.server(SYN_ACK, 0, 1);
    host.wait_until(10_000);
    assert_eq!(host.reported()[2], "3500 server handshake accept_queue_full in 3500 ms");
}

#[test]
fn a_connection_that_two_namespaces_forward_is_reported_once() {
    let mut host = Host::new(
        &[(1, 2, IN), (1, 3, OUT), (2, 2, IN), (2, 3, OUT)],
        &[(2, 3, IN), (2, 2, OUT), (1, 3, IN), (1, 2, OUT)],
    );
    handshake(&mut host);
    assert_eq!(host.reported(), HANDSHAKE_EVENTS);
    host.wait_until(1_000_000);
    host.server(FIN, 70_000, 5_000);
    host.client(FIN, 5_000, 70_001);
    host.server_acks_fin(70_001, 5_001);
    assert_eq!(
        host.reported(),
        [
            "1000000 server client established>fin_wait1 segment after 999998 ms",
            "1000001 client server established>close_wait segment after 999999 ms",
            "1000001 client server close_wait>last_ack segment after 0 ms",
            "1000001 server client fin_wait1>fin_wait2 segment after 1 ms",
            "1000002 server client fin_wait2>time_wait segment after 1 ms",
            "1000002 server closed by local after 1000000 ms, ? out ? in",
            "1000002 client server last_ack>close segment after 1 ms",
            "1000002 client closed by remote after 1000000 ms, ? out ? in",
        ]
    );
}

#[test]
fn two_namespaces_may_have_the_same_addresses_for_different_connections() {
    let mut host = Host::router();
    handshake(&mut host);
    assert_eq!(host.reported(), HANDSHAKE_EVENTS);
    let mut apart = |ms: u64, to_server: &[Hop], segment: SegmentInput| {
        host.wait_until(ms);
        host.see(segment, to_server);
    };
    let isn = |mut segment: SegmentInput, seq: u32, ack: u32| {
        (segment.header.seq, segment.header.ack) = (seq, ack);
        segment
    };
    let (syn, syn_ack) = (syn(0), syn_ack(0));
    apart(10, &[(5, 2, IN), (5, 3, OUT)], isn(syn, 7_000, 0));
    apart(11, &[(5, 3, IN), (5, 2, OUT)], isn(syn_ack, 9_000, 7_001));
    assert_eq!(
        host.reported(),
        ["11 client server close>syn_sent segment", "11 server client listen>syn_recv segment"]
    );
    host.client(FIN, 1, 1);
    assert_eq!(host.reported(), ["12 client server established>fin_wait1 segment after 10 ms"]);
}

#[test]
fn between_two_containers_only_the_half_open_request_is_inferred() {
    // Two containers on a bridge.
    let mut host = Host::new(
        &[(2, 2, OUT), (1, 7, IN), (1, 9, OUT), (3, 2, IN)],
        &[(3, 2, OUT), (1, 9, IN), (1, 7, OUT), (2, 2, IN)],
    );
    let (of_client, of_server) = (
        |input: SocketInput| SocketInput { netns: 2, ..input },
        |input: SocketInput| SocketInput { netns: 3, ..input },
    );
    host.socket(of_client(client(0, Close, SynSent)));
    host.client(SYN, 0, 0);
    host.server(SYN_ACK, 0, 1);
    host.socket(of_client(client(0, SynSent, Established)));
    host.client_acks_syn_ack();
    host.socket(of_server(server(0, Listen, SynRecv)));
    host.socket(of_server(server(0, SynRecv, Established)));
    host.socket(of_client(client(0, Established, FinWait1)));
    host.client(FIN, 51, 101);
    host.socket(of_server(server(0, Established, CloseWait).fin_received()));
    host.server_acks_fin(101, 52);
    host.socket(of_client(client(0, FinWait1, FinWait2).fin_acked()));
    let reported = host.reported();
    let inferred: Vec<_> = reported.iter().filter(|line| line.contains(" segment")).collect();
    assert_eq!(inferred, ["1 server client listen>syn_recv segment"], "{reported:#?}");
    assert!(!reported.iter().any(|line| line.contains("retransmit")));
}
