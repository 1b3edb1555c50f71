//! An agent that starts in the middle.

use tcp_monitor_common::TcpState::{Established, FinWait1};

use super::host::{FIN, Host, IN, OUT, RST, SYN_ACK};
use crate::lifecycle::tests::script::server;

#[test]
fn a_forwarded_connection_met_at_its_end_is_told_as_soon_as_both_ends_are_placed() {
    let mut host = Host::router();
    host.client(FIN, 4_000, 5_000);
    assert_eq!(host.told(), [""; 0], "the server may be here");
    host.server_acks_fin(5_000, 4_001);
    host.server(FIN, 6_000, 4_001);
    host.client_acks_fin(4_001, 6_001);
    assert_eq!(
        host.told(),
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
fn a_request_of_which_the_syn_was_missed_is_half_open_from_its_syn_ack_on() {
    let mut host = Host::with_server();
    host.server(SYN_ACK, 0, 1);
    host.client(RST, 1, 0);
    assert_eq!(
        host.told(),
        [
            "0 server client listen>syn_recv segment",
            "1 server client syn_recv>close segment after 1 ms",
            "1 server handshake reset in ?"
        ]
    );
}

#[test]
fn a_socket_that_was_there_before_is_left_to_the_kernel() {
    let mut host = Host::with_server();
    host.socket(server(0, Established, FinWait1));
    host.server(FIN, 101, 51);
    host.client(FIN, 51, 102);
    assert_eq!(host.told(), ["0 server client established>fin_wait1 kernel"]);
    // Nor is one told of which the kernel has said nothing yet.
    let mut host = Host::new(&[(1, 1, OUT)], &[(1, 1, OUT)]);
    host.client(FIN, 51, 101);
    host.server(FIN, 101, 52);
    host.client(RST, 52, 0);
    assert_eq!(host.told(), [""; 0]);
    let mut host = Host::new(&[(1, 2, IN)], &[(1, 2, OUT)]);
    host.client(FIN, 51, 101);
    host.server_acks_fin(101, 52);
    host.wait_until(1_000_000);
    assert_eq!((host.told(), host.tracker().inferred()), (vec![], 0));
}
