//! Teardowns by FIN, inferred from segments.

use super::wire::{ACK, FIN, RST, SYN, SYN_ACK, Wire, ms};
use crate::lifecycle::EventKind;
use crate::lifecycle::tests::script::at;
use tcp_monitor_common::TcpState::{Established, FinWait1, FinWait2, SynSent};

/// Closed by the client, in four segments, from 3 ms on.
fn close(wire: &mut Wire) {
    wire.client(FIN, 1, 1, 0);
    wire.server(ACK, 1, 2, 0);
    wire.server(FIN, 1, 2, 0);
    wire.client(ACK, 2, 2, 0);
}

#[test]
fn four_segments_close_both_ends() {
    let mut wire = Wire::established();
    close(&mut wire);
    assert_eq!(
        wire.reported(),
        [
            "3 client established>fin_wait1 segment after 1 ms",
            "4 server established>close_wait segment after 2 ms",
            "4 client fin_wait1>fin_wait2 segment after 1 ms",
            "5 server close_wait>last_ack segment after 1 ms",
            "6 client fin_wait2>time_wait segment after 2 ms",
            "6 client closed by local after 4 ms, 0 out 0 in",
            "6 server last_ack>close segment after 1 ms",
            "6 server closed by remote after 4 ms, 0 out 0 in",
        ]
    );
    assert_eq!(wire.tracker().next_deadline(), Some(at(60_006)));
    wire.wait_until(60_005);
    assert_eq!(wire.reported(), [""; 0]);
    wire.wait_until(70_000);
    assert_eq!(wire.reported(), ["60006 client time_wait>close timer after 60000 ms"]);
    wire.wait_until(80_000);
    assert_eq!((wire.tracker().inferred(), wire.tracker().next_deadline()), (0, None));
}

#[test]
fn three_segments_close_both_ends_through_the_same_states() {
    let mut wire = Wire::established();
    wire.client(FIN, 1, 1, 0);
    wire.reported();
    wire.server(FIN, 1, 2, 0);
    assert_eq!(
        wire.reported(),
        [
            "4 server established>close_wait segment after 2 ms",
            "4 server close_wait>last_ack segment after 0 ms",
            "4 client fin_wait1>fin_wait2 segment after 1 ms",
        ]
    );
    wire.client(ACK, 2, 2, 0);
    assert_eq!(wire.reported().len(), 4);
}

#[test]
fn the_time_in_each_state_is_summed_up() {
    let mut wire = Wire::established();
    close(&mut wire);
    let closed = wire.events().into_iter().find_map(|event| match event.kind {
        EventKind::Closed(closed) => Some(closed),
        EventKind::Segment(_)
        | EventKind::State(_)
        | EventKind::Handshake(_)
        | EventKind::Reset(_)
        | EventKind::Retransmit(_)
        | EventKind::Lost(_)
        | EventKind::Stuck(_) => None,
    });
    let expected = [(Established, ms(1)), (SynSent, ms(2)), (FinWait1, ms(1)), (FinWait2, ms(2))];
    assert_eq!(closed.map(|closed| closed.states), Some(expected.to_vec()));
}

#[test]
fn crossing_fins_close_both_at_once() {
    let mut wire = Wire::established();
    wire.client(FIN, 1, 1, 0);
    wire.server(FIN, 1, 1, 0);
    wire.reported();
    // The client acknowledges the server's FIN. The server receives that ACK before it acknowledges
    // the client's FIN.
    wire.client(ACK, 2, 2, 0);
    wire.server(ACK, 2, 2, 0);
    assert_eq!(
        wire.reported(),
        [
            "5 client fin_wait1>closing segment after 2 ms",
            "5 server fin_wait1>fin_wait2 segment after 1 ms",
            "6 server fin_wait2>time_wait segment after 1 ms",
            "6 server closed by both after 4 ms, 0 out 0 in",
            "6 client closing>time_wait segment after 1 ms",
            "6 client closed by both after 4 ms, 0 out 0 in",
        ]
    );
    wire.wait_until(70_000);
    assert_eq!(wire.reported().len(), 2);
}

#[test]
fn a_half_closed_connection_carries_data_without_a_time_limit() {
    let mut wire = Wire::established();
    wire.client(FIN, 1, 1, 0);
    wire.server(ACK, 1, 2, 0);
    wire.reported();
    for hour in 1..=9 {
        wire.wait_until(hour * 3_600_000);
        let seq = 1 + 100 * (u32::try_from(hour).unwrap_or(0) - 1);
        wire.server(ACK, seq, 2, 100);
        wire.client(ACK, 2, seq + 100, 0);
    }
    assert_eq!(wire.reported(), [""; 0]);
    wire.server(FIN, 901, 2, 0);
    wire.client(ACK, 2, 902, 0);
    let reported = wire.reported();
    assert!(reported[2].ends_with("client closed by local after 32400001 ms, 0 out 900 in"), "{reported:?}");
}

#[test]
fn a_retransmitted_fin_restarts_time_wait_without_an_event() {
    let mut wire = Wire::established();
    close(&mut wire);
    wire.reported();
    wire.wait_until(10_000);
    wire.server(FIN, 1, 2, 0);
    wire.client(ACK, 2, 2, 0);
    assert_eq!(wire.reported(), [""; 0], "the server closed when its FIN was acknowledged");
    wire.wait_until(60_100);
    assert_eq!(wire.reported(), [""; 0]);
    wire.wait_until(80_000);
    assert_eq!(wire.reported(), ["70000 client time_wait>close timer after 69994 ms"]);
}

#[test]
fn an_unacknowledged_fin_is_retransmitted_and_times_out() {
    let mut wire = Wire::established();
    wire.client(FIN, 1, 1, 0);
    wire.wait_until(203);
    wire.reported();
    wire.client(FIN, 1, 1, 0);
    assert_eq!(wire.reported(), ["203 retransmit fin in fin_wait1"]);
    wire.wait_until(200_000);
    let reported = wire.reported();
    assert_eq!(reported[1], "130203 client closed by timed_out after 130201 ms, 0 out 0 in");
    assert_eq!(reported.len(), 4, "{reported:?}");
}

#[test]
fn without_the_ack_of_the_second_fin_it_is_still_known_who_closed() {
    let mut wire = Wire::established();
    wire.client(FIN, 1, 1, 0);
    wire.server(FIN, 1, 2, 0);
    wire.reported();
    wire.wait_until(200_000);
    let reported = wire.reported();
    assert_eq!(reported[1], "130004 client closed by local after 130002 ms, 0 out 0 in");
    assert_eq!(reported[3], "130004 server closed by remote after 130002 ms, 0 out 0 in");
}

#[test]
fn a_fin_before_the_acknowledged_data_closes_nothing() {
    let mut wire = Wire::established();
    wire.client(ACK, 1, 1, 100);
    wire.server(ACK, 1, 101, 0);
    wire.reported();
    wire.client(FIN, 50, 1, 0);
    assert_eq!(wire.segments(), ["5 client fin +50 +1 out_of_window"]);
    wire.client(FIN, 101, 1, 0);
    assert_eq!(wire.reported(), ["6 client established>fin_wait1 segment after 4 ms"]);
}

#[test]
fn a_fin_without_ack_closes_nothing() {
    let mut wire = Wire::established();
    wire.client(crate::lifecycle::segment::Flags::FIN, 1, 0, 0);
    assert_eq!(wire.segments(), ["3 client fin +1 ? state"]);
    wire.server(ACK, 1, 1, 10);
    assert_eq!(wire.reported(), [""; 0]);
}

#[test]
fn an_idle_connection_times_out_after_more_than_two_hours() {
    let mut wire = Wire::established();
    wire.client(ACK, 1, 1, 10);
    wire.server(ACK, 1, 11, 0);
    let idle = 8_100_000;
    wire.wait_until(idle + 1);
    assert_eq!(wire.reported(), [""; 0]);
    wire.wait_until(idle + 2);
    assert_eq!(
        wire.reported()[..2],
        [
            "8100002 client established>close timer after 8100000 ms",
            "8100002 client closed by timed_out after 8100000 ms, 10 out 0 in",
        ]
    );
}

#[test]
fn a_new_connection_reuses_the_addresses_of_a_time_wait() {
    let mut wire = Wire::established();
    wire.server(FIN, 1, 1, 0);
    wire.client(FIN, 1, 2, 0);
    wire.server(ACK, 2, 2, 0);
    assert_eq!(wire.reported().len(), 8);
    wire.wait_until(1_000);
    wire.client(SYN, 70_000, 0, 0);
    assert_eq!(wire.reported(), ["1000 client close>syn_sent segment"]);
    // The server may answer with an ACK of the old connection. The client answers that with a RST.
    wire.server(ACK, 2, 2, 0);
    wire.client(RST, 2, 0, 0);
    assert_eq!(wire.reported()[2..], ["1002 server time_wait>close segment after 997 ms"]);
    wire.wait_until(2_000);
    wire.client(SYN, 70_000, 0, 0);
    wire.server(SYN_ACK, 70_000, 70_001, 0);
    wire.client(ACK, 70_001, 70_001, 0);
    let reported = wire.reported();
    assert_eq!(reported[0], "2000 retransmit syn in syn_sent");
    assert_eq!(reported[1], "2001 server listen>syn_recv segment");
    assert_eq!(reported[5], "2002 server handshake completed in 1002 ms");
}

#[test]
fn a_syn_ack_ends_time_wait() {
    let mut wire = Wire::established();
    wire.server(FIN, 1, 1, 0);
    wire.client(FIN, 1, 2, 0);
    wire.server(ACK, 2, 2, 0);
    wire.client(SYN, 70_000, 0, 0);
    wire.reported();
    wire.server(SYN_ACK, 80_000, 70_001, 0);
    assert_eq!(
        wire.reported(),
        ["7 server time_wait>close segment after 2 ms", "7 server listen>syn_recv segment"]
    );
    wire.client(ACK, 70_001, 80_001, 0);
    wire.wait_until(70_000);
    assert_eq!(wire.reported().len(), 4, "the timer of the old connection is gone");
}

#[test]
fn the_end_in_time_wait_can_reconnect_from_the_same_port() {
    let mut wire = Wire::established();
    close(&mut wire);
    wire.reported();
    wire.client(SYN, 70_000, 0, 0);
    assert_eq!(
        wire.reported(),
        ["7 client time_wait>close segment after 1 ms", "7 client close>syn_sent segment"]
    );
}

#[test]
fn a_connection_whose_end_was_missed_is_replaced_by_the_next() {
    let mut wire = Wire::established();
    wire.client(SYN, 70_000, 0, 0);
    assert_eq!(wire.segments(), ["3 client syn +0 ? state"]);
    wire.server(SYN_ACK, 80_000, 70_001, 0);
    let reported = wire.reported();
    assert_eq!(reported[1], "4 client closed by timed_out after 2 ms, 0 out 0 in");
    assert_eq!(reported[3], "4 server closed by timed_out after 2 ms, 0 out 0 in");
    wire.client(ACK, 70_001, 80_001, 0);
    assert!(wire.reported().contains(&"5 server handshake completed in 2 ms".into()));
}
