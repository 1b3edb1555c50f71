//! Nothing is inferred for an end whose socket the kernel reports.

use tcp_monitor_common::TcpState::{Close, CloseWait, Established, LastAck, SynSent};

use super::wire::{ACK, FIN, SYN, SYN_ACK, Wire};
use crate::lifecycle::SocketInput;
use crate::lifecycle::tests::script::{client, from_client, from_server};

/// In the namespace of the segments.
fn socket(input: SocketInput) -> SocketInput {
    SocketInput { netns: 1, ..input }
}

#[test]
fn an_end_whose_socket_the_kernel_reports_has_no_inferred_states() {
    let mut wire = Wire::new();
    wire.script().socket(socket(client(0, Close, SynSent)));
    wire.see_as_is(from_client(0, SYN, 0, 0));
    wire.see_as_is(from_server(0, SYN_ACK, 0, 1));
    wire.script().socket(socket(client(1, SynSent, Established)));
    wire.see_as_is(from_client(0, ACK, 1, 1));
    wire.see_as_is(from_server(0, FIN, 1, 1));
    wire.script().socket(socket(client(4, Established, CloseWait).fin_received()));
    wire.see_as_is(from_client(0, ACK, 1, 2));
    wire.script().socket(socket(client(5, CloseWait, LastAck).fin_received()));
    wire.see_as_is(from_client(0, FIN, 1, 2));
    wire.see_as_is(from_server(0, ACK, 2, 2));
    wire.script().socket(socket(client(7, LastAck, Close).fin_received().fin_acked()));
    let reported = wire.reported();
    let of_client = reported.iter().filter(|line| line.contains(" client ")).collect::<Vec<_>>();
    assert_eq!(
        of_client,
        [
            "0 client close>syn_sent kernel",
            "1 client syn_sent>established kernel after 1 ms",
            "1 client handshake completed in 1 ms",
            "4 client established>close_wait kernel after 3 ms",
            "5 client close_wait>last_ack kernel after 1 ms",
            "7 client last_ack>close kernel after 2 ms",
            "7 client closed by remote after 6 ms, 50 out 100 in",
        ]
    );
    let of_server = reported.iter().filter(|line| line.contains(" server ")).collect::<Vec<_>>();
    assert_eq!(
        of_server,
        [
            "1 server listen>syn_recv segment",
            "2 server syn_recv>established segment after 1 ms",
            "2 server handshake completed in 2 ms",
            "3 server established>fin_wait1 segment after 1 ms",
            "4 server fin_wait1>fin_wait2 segment after 1 ms",
            "6 server fin_wait2>time_wait segment after 2 ms",
            "6 server closed by local after 4 ms, 0 out 0 in",
        ]
    );
}

#[test]
fn without_inference_segments_change_no_state() {
    let mut wire = Wire::with(crate::lifecycle::Options::default());
    wire.handshake();
    wire.client(FIN, 1, 1, 0);
    assert_eq!((wire.reported().len(), wire.tracker().inferred()), (0, 0));
}
