//! The segments that are steps, where the source does not mark them.

use crate::lifecycle::EventKind;
use tcp_monitor_common::record::Direction;

use super::wire::{ACK, FIN, RST, SYN, SYN_ACK, Wire};
use crate::lifecycle::SegmentInput;
use crate::lifecycle::tests::script::{from_client, from_server};

#[test]
fn only_the_first_acknowledgments_of_syn_ack_and_fin_are_steps() {
    let mut wire = Wire::new();
    wire.handshake();
    wire.client(ACK, 1, 1, 50);
    wire.server(ACK, 1, 51, 0);
    wire.server(ACK, 1, 51, 100);
    wire.client(ACK, 51, 101, 0);
    wire.client(FIN, 51, 101, 0);
    wire.server(ACK, 101, 52, 0);
    wire.server(ACK, 101, 52, 10);
    wire.server(FIN, 111, 52, 0);
    wire.client(ACK, 52, 112, 0);
    wire.client(ACK, 52, 112, 0);
    assert_eq!(
        wire.segments(),
        [
            "0 client syn +0 ?",
            "1 server syn_ack +0 +1",
            "2 client handshake_ack +1 +1",
            "7 client fin +51 +101",
            "8 server ack_of_fin +101 +52",
            "10 server fin +111 +52",
            "11 client ack_of_fin +52 +112",
        ]
    );
}

#[test]
fn data_can_complete_the_handshake() {
    let mut wire = Wire::new();
    wire.client(SYN, 0, 0, 0);
    wire.server(SYN_ACK, 0, 1, 0);
    wire.client(ACK, 1, 1, 50);
    wire.client(ACK, 51, 1, 50);
    assert_eq!(wire.segments()[2..], ["2 client handshake_ack +1 +1"]);
}

#[test]
fn the_ack_of_a_retransmitted_syn_ack_is_another_step() {
    let mut wire = Wire::established();
    wire.events();
    wire.server(SYN_ACK, 0, 1, 0);
    wire.client(ACK, 1, 1, 0);
    assert_eq!(wire.segments(), ["3 server syn_ack +0 +1 retransmitted", "4 client handshake_ack +1 +1"]);
}

#[test]
fn a_packet_observed_twice_is_one_packet() {
    let observed_twice = |wire: &mut Wire, segment: SegmentInput| {
        for (ifindex, direction) in [(2, Direction::Ingress), (3, Direction::Egress)] {
            wire.see_as_is(SegmentInput { ifindex, direction: Some(direction), netns: 0, ..segment });
        }
    };
    let mut wire = Wire::new();
    observed_twice(&mut wire, from_client(0, SYN, 0, 0));
    observed_twice(&mut wire, from_server(0, SYN_ACK, 0, 1));
    observed_twice(&mut wire, from_client(0, ACK, 1, 1));
    observed_twice(&mut wire, SegmentInput { payload_len: 100, ..from_client(0, ACK, 1, 1) });
    observed_twice(&mut wire, from_server(0, ACK, 1, 101));
    let events = wire.events();
    assert!(!events.iter().any(|event| matches!(event.kind, EventKind::Retransmit(_))), "{events:?}");
    assert_eq!(events.len(), 3 + 6);
    observed_twice(&mut wire, from_client(0, RST, 101, 0));
    let reported = wire.reported();
    assert_eq!(reported.len(), 2 + 2 * 2, "{reported:?}");
    assert_eq!(reported[3], "10 client closed by local_reset after 6 ms, 100 out 0 in");
}
