//! Connections that were opened before monitoring started.

use tcp_monitor_common::TcpState::{Established, FinWait1};

use super::host::{FIN, Host, IN, OUT, RST, SYN_ACK};
use crate::lifecycle::tests::script::server;

#[test]
fn a_forwarded_connection_first_seen_at_its_end_is_reported_once_both_ends_are_known_to_be_remote() {
    let mut host = Host::router();
    host.client(FIN, 4_000, 5_000);
    assert_eq!(host.reported(), [""; 0], "the server may be on this host");
    host.server_acks_fin(5_000, 4_001);
    host.server(FIN, 6_000, 4_001);
    host.client_acks_fin(4_001, 6_001);
    assert_eq!(
        host.reported(),
        [
            "1 client server established>fin_wait1 segment",
            "1 server client established>close_wait segment",
            "1 client server fin_wait1>fin_wait2 segment after 1 ms",
            "2 server client close_wait>last_ack segment after 1 ms",
            "3 client server fin_wait2>time_wait segment after 2 ms",
            "3 client closed by local after ?, ? out ? in",
            "3 server client last_ack>close segment after 1 ms",
            "3 server closed by remote after ?, ? out ? in",
        ]
    );
}

#[test]
fn a_request_whose_syn_was_missed_is_half_open_from_its_syn_ack_on() {
    let mut host = Host::with_server();
    host.server(SYN_ACK, 0, 1);
    host.client(RST, 1, 0);
    assert_eq!(
        host.reported(),
        [
            "0 server client listen>syn_recv segment",
            "1 server client syn_recv>close segment after 1 ms",
            "1 server handshake reset in ?"
        ]
    );
}

#[test]
fn nothing_is_inferred_for_a_socket_that_was_opened_before() {
    let mut host = Host::with_server();
    host.socket(server(0, Established, FinWait1));
    host.server(FIN, 101, 51);
    host.client(FIN, 51, 102);
    assert_eq!(host.reported(), ["0 server client established>fin_wait1 kernel"]);
    // The same for a socket that the kernel has not reported yet.
    let mut host = Host::new(&[(1, 1, OUT)], &[(1, 1, OUT)]);
    host.client(FIN, 51, 101);
    host.server(FIN, 101, 52);
    host.client(RST, 52, 0);
    assert_eq!(host.reported(), [""; 0]);
    let mut host = Host::new(&[(1, 2, IN)], &[(1, 2, OUT)]);
    host.client(FIN, 51, 101);
    host.server_acks_fin(101, 52);
    host.wait_until(1_000_000);
    assert_eq!((host.reported(), host.tracker().inferred()), (vec![], 0));
}
