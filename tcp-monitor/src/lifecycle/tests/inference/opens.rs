//! Handshakes, completed and failed, inferred from segments.

use super::wire::{ACK, FIN, RST, RST_ACK, SYN, SYN_ACK, Wire};
use crate::lifecycle::tests::script::{CLIENT_ISN, from_client};

#[test]
fn a_handshake_is_reported_for_both_ends() {
    let mut wire = Wire::new();
    wire.handshake();
    assert_eq!(
        wire.reported(),
        [
            "0 client close>syn_sent segment",
            "1 server listen>syn_recv segment",
            "2 client syn_sent>established segment after 2 ms",
            "2 client handshake completed in 2 ms",
            "2 server syn_recv>established segment after 1 ms",
            "2 server handshake completed in 2 ms",
        ]
    );
}

#[test]
fn a_syn_ack_that_is_not_answered_does_not_open_the_client() {
    let mut wire = Wire::new();
    wire.client(SYN, 0, 0, 0);
    wire.server(SYN_ACK, 0, 1, 0);
    wire.reported();
    wire.wait_until(1000);
    wire.server(SYN_ACK, 0, 1, 0);
    assert_eq!(wire.reported(), ["1000 retransmit syn_ack in syn_recv"]);
    wire.client(ACK, 1, 1, 0);
    let reported = wire.reported();
    assert_eq!(reported[0], "1001 client syn_sent>established segment after 1001 ms");
    assert_eq!(reported[3], "1001 server handshake completed in 1001 ms");
}

#[test]
fn a_reset_in_answer_to_a_syn_refuses_the_connection() {
    let mut wire = Wire::new();
    wire.client(SYN, 0, 0, 0);
    wire.reported();
    wire.server(RST_ACK, 0, 1, 0);
    assert_eq!(
        wire.reported(),
        [
            "1 server handshake no_listener in 1 ms",
            "1 reset sent unknown",
            "1 reset received unknown",
            "1 client syn_sent>close segment after 1 ms",
            "1 client handshake refused in 1 ms",
        ]
    );
}

#[test]
fn a_reset_that_does_not_acknowledge_the_syn_refuses_nothing() {
    let mut wire = Wire::new();
    wire.client(SYN, 0, 0, 0);
    wire.reported();
    wire.server(RST, 0, 0, 0);
    wire.server(RST_ACK, 0, 77, 0);
    assert_eq!(wire.segments()[0], "1 server rst ? ? out_of_window");
    wire.server(SYN_ACK, 0, 1, 0);
    assert_eq!(wire.reported(), ["3 server listen>syn_recv segment"]);
}

#[test]
fn a_reset_in_answer_to_the_syn_ack_aborts_the_handshake() {
    let mut wire = Wire::new();
    wire.client(SYN, 0, 0, 0);
    wire.server(SYN_ACK, 0, 1, 0);
    wire.reported();
    wire.client(RST, 1, 0, 0);
    assert_eq!(
        wire.reported(),
        [
            "2 reset sent unknown",
            "2 reset received unknown",
            "2 client syn_sent>close segment after 2 ms",
            "2 client handshake aborted in 2 ms",
            "2 server syn_recv>close segment after 1 ms",
            "2 server handshake reset in 2 ms",
        ]
    );
}

#[test]
fn an_unanswered_syn_times_out_70_s_after_its_last_retransmission() {
    let mut wire = Wire::new();
    wire.client(SYN, 0, 0, 0);
    wire.wait_until(1000);
    wire.client(SYN, 0, 0, 0);
    wire.wait_until(3000);
    wire.client(SYN, 0, 0, 0);
    assert_eq!(wire.reported()[1..], ["1000 retransmit syn in syn_sent", "3000 retransmit syn in syn_sent"]);
    wire.wait_until(72_999);
    assert_eq!(wire.reported(), [""; 0]);
    wire.wait_until(80_000);
    assert_eq!(
        wire.reported(),
        ["73000 client syn_sent>close timer after 73000 ms", "73000 client handshake timed_out in 73000 ms"]
    );
    wire.wait_until(90_000);
    assert_eq!((wire.tracker().inferred(), wire.tracker().next_deadline()), (0, None));
}

#[test]
fn an_unanswered_syn_ack_times_out_on_both_ends() {
    let mut wire = Wire::new();
    wire.client(SYN, 0, 0, 0);
    wire.server(SYN_ACK, 0, 1, 0);
    wire.reported();
    wire.wait_until(80_000);
    assert_eq!(
        wire.reported(),
        [
            "70001 client syn_sent>close timer after 70001 ms",
            "70001 client handshake timed_out in 70001 ms",
            "70001 server syn_recv>close timer after 70000 ms",
            "70001 server handshake timed_out in 70001 ms",
        ]
    );
}

#[test]
fn an_ack_of_an_unseen_segment_opens_nothing() {
    let mut wire = Wire::new();
    wire.client(SYN, 0, 0, 0);
    wire.reported();
    wire.server(SYN_ACK, 0, 2, 0);
    assert_eq!(wire.segments(), ["1 server syn_ack +0 +2 ack"]);
    // The client answers with a RST (RFC 9293, figure 9) and stays in SYN_SENT.
    wire.client(RST, 2, 0, 0);
    wire.server(SYN_ACK, 0, 1, 0);
    assert_eq!(wire.reported(), ["3 server listen>syn_recv segment"]);
    wire.client(ACK, 1, 70_000, 0);
    assert_eq!(wire.reported(), [""; 0]);
    wire.client(ACK, 1, 1, 0);
    assert_eq!(wire.reported().len(), 4);
}

#[test]
fn a_simultaneous_open_is_reported_for_both_ends() {
    let mut wire = Wire::new();
    wire.client(SYN, 0, 0, 0);
    wire.server(SYN, 0, 0, 0);
    wire.client(SYN_ACK, 0, 1, 0);
    wire.server(SYN_ACK, 0, 1, 0);
    wire.client(ACK, 1, 1, 0);
    assert_eq!(
        wire.reported(),
        [
            "0 client close>syn_sent segment",
            "1 server close>syn_sent segment",
            "2 client syn_sent>syn_recv segment after 2 ms",
            "3 server syn_sent>syn_recv segment after 2 ms",
            "3 client syn_recv>established segment after 1 ms",
            "3 client handshake completed in 3 ms",
            "4 server syn_recv>established segment after 1 ms",
            "4 client handshake completed in 3 ms",
        ]
    );
}

#[test]
fn a_socket_that_connects_to_itself_is_one_end() {
    let mut wire = Wire::new();
    let mut to_itself = |flags, seq, ack: u32| {
        let mut segment = from_client(0, flags, seq, 0);
        (segment.dst, segment.header.ack) = (segment.src, CLIENT_ISN + ack);
        wire.see(segment);
        wire.reported().into_iter().map(|line| line.replace("client client", "self")).collect::<Vec<_>>()
    };
    assert_eq!(to_itself(SYN, 0, 0), ["0 self close>syn_sent segment"]);
    assert_eq!(
        to_itself(SYN_ACK, 0, 1),
        [
            "1 self syn_sent>syn_recv segment after 1 ms",
            "1 self syn_recv>established segment after 0 ms",
            "1 client handshake completed in 1 ms",
        ]
    );
    assert_eq!(to_itself(FIN, 1, 1), ["2 self established>fin_wait1 segment after 1 ms"]);
    assert_eq!(
        to_itself(ACK, 2, 2),
        [
            "3 self fin_wait1>closing segment after 1 ms",
            "3 self closing>time_wait segment after 0 ms",
            "3 client closed by both after 2 ms, 0 out 0 in",
        ]
    );
}

#[test]
fn a_connection_whose_syn_was_missed_is_known_from_its_syn_ack() {
    let mut wire = Wire::new();
    wire.server(SYN_ACK, 0, 1, 0);
    wire.client(ACK, 1, 1, 0);
    assert_eq!(
        wire.reported(),
        [
            "0 server listen>syn_recv segment",
            "1 client syn_sent>established segment",
            "1 client handshake completed in ?",
            "1 server syn_recv>established segment after 1 ms",
            "1 server handshake completed in ?",
        ]
    );
}

#[test]
fn data_in_the_syn_counts() {
    let mut wire = Wire::new();
    wire.client(SYN, 0, 0, 20);
    wire.server(SYN_ACK, 0, 21, 0);
    wire.server(ACK, 1, 21, 100);
    wire.reported();
    wire.client(ACK, 21, 101, 0);
    assert_eq!(wire.reported()[3], "3 server handshake completed in 3 ms");
    wire.client(RST, 21, 0, 0);
    assert_eq!(wire.reported()[3], "4 client closed by local_reset after 1 ms, 20 out 100 in");
}

#[test]
fn a_request_answered_with_another_syn_cookie_is_the_same_request() {
    let mut wire = Wire::new();
    wire.client(SYN, 0, 0, 0);
    wire.server(SYN_ACK, 5_000, 1, 0);
    wire.server(SYN_ACK, 0, 1, 0);
    wire.client(ACK, 1, 1, 0);
    let reported = wire.reported();
    assert_eq!(reported.len(), 6, "{reported:?}");
    assert_eq!(reported[5], "3 server handshake completed in 3 ms");
}

#[test]
fn a_new_attempt_from_the_same_port_aborts_the_previous_one() {
    let mut wire = Wire::new();
    wire.client(SYN, 0, 0, 0);
    wire.wait_until(5_000);
    wire.reported();
    wire.client(SYN, 9_999, 0, 0);
    assert_eq!(
        wire.reported(),
        [
            "5000 client syn_sent>close segment after 5000 ms",
            "5000 client handshake aborted in 5000 ms",
            "5000 client close>syn_sent segment",
        ]
    );
    // A late SYN-ACK of the first SYN does not acknowledge the second.
    wire.server(SYN_ACK, 0, 1, 0);
    assert_eq!(wire.segments(), ["5001 server syn_ack +0 +4294957298 ack"]);
}
