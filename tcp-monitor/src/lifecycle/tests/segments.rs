//! Reported segments: relative numbers, duplicates and retransmissions.

use tcp_monitor_common::TcpState::{Established, FinWait1};
use tcp_monitor_common::record::Direction;

use super::script::{Script, from_client, from_server, handshake_ack, server, syn, syn_ack};
use crate::lifecycle::SegmentInput;
use crate::lifecycle::segment::Flags;

fn fin_ack_flags() -> Flags {
    Flags::FIN.union(Flags::ACK)
}

/// The segment as observed at another interface, `ms` later.
fn at_another_interface(segment: SegmentInput, ms: u64) -> SegmentInput {
    let time = segment.time + std::time::Duration::from_millis(ms);
    SegmentInput { time, netns: 9, ifindex: 3, ..segment }
}

#[test]
fn numbers_are_relative_to_both_initial_sequence_numbers() {
    let mut script = Script::new();
    script.segment(syn(0));
    script.segment(syn_ack(1));
    script.segment(handshake_ack(2));
    script.segment(from_client(3, fin_ack_flags(), 51, 101));
    script.segment(from_server(4, fin_ack_flags(), 101, 52));
    script.segment(SegmentInput { acks_fin: true, ..from_client(5, Flags::ACK, 52, 102) });
    script.segment(from_client(6, Flags::RST, 52, 0));
    assert_eq!(
        script.segments(),
        [
            "0 10.0.0.5:51920 syn +0 ?",
            "1 10.0.0.9:8899 syn_ack +0 +1",
            "2 10.0.0.5:51920 handshake_ack +1 +1",
            "3 10.0.0.5:51920 fin +51 +101",
            "4 10.0.0.9:8899 fin +101 +52",
            "5 10.0.0.5:51920 ack_of_fin +52 +102",
            "6 10.0.0.5:51920 rst +52 ?",
        ]
    );
}

#[test]
fn relative_numbers_without_an_initial_sequence_number_are_left_out() {
    let mut script = Script::new();
    script.segment(from_client(3, fin_ack_flags(), 51, 101));
    assert_eq!(script.segments(), ["3 10.0.0.5:51920 fin ? ?"]);
    // A SYN-ACK also shows the sequence number of the SYN it acknowledges.
    script.segment(syn_ack(4));
    script.segment(handshake_ack(5));
    assert_eq!(script.segments(), ["4 10.0.0.9:8899 syn_ack +0 +1", "5 10.0.0.5:51920 handshake_ack +1 +1"]);
}

#[test]
fn a_packet_observed_at_two_interfaces_is_reported_once() {
    let mut script = Script::new();
    for segment in [syn(0), syn_ack(10), handshake_ack(20), from_client(30, fin_ack_flags(), 1, 1)] {
        script.segment(segment);
        script.segment(at_another_interface(segment, 1));
        script.segment(SegmentInput { direction: Some(Direction::Egress), ifindex: 7, ..segment });
    }
    assert_eq!(script.segments().len(), 4);
}

#[test]
fn equal_segments_on_the_loopbacks_of_two_namespaces_are_two_packets() {
    let mut script = Script::new();
    let mut reported = 0;
    for segment in [syn(0), syn_ack(10), handshake_ack(20), from_client(30, fin_ack_flags(), 1, 1)] {
        for netns in [1, 9] {
            script.segment(SegmentInput { netns, ifindex: 1, ..segment });
            reported += 1;
        }
    }
    let segments = script.segments();
    assert_eq!(segments.len(), reported);
    assert!(segments.iter().all(|segment| !segment.contains("retransmitted")), "{segments:?}");
}

#[test]
fn a_syn_ack_that_acknowledges_another_syn_is_no_duplicate() {
    let mut script = Script::new();
    script.segment(syn_ack(0));
    let mut other = at_another_interface(syn_ack(0), 1);
    other.header.ack += 1;
    script.segment(other);
    assert_eq!(script.segments().len(), 2);
}

#[test]
fn a_retransmitted_syn_is_reported_and_its_duplicates_are_not() {
    let mut script = Script::new();
    for ms in [0, 1000, 3000] {
        script.segment(syn(ms));
        script.segment(at_another_interface(syn(ms), 2));
    }
    assert_eq!(
        script.segments(),
        [
            "0 10.0.0.5:51920 syn +0 ?",
            "1000 10.0.0.5:51920 syn +0 ? retransmitted",
            "3000 10.0.0.5:51920 syn +0 ? retransmitted"
        ]
    );
}

#[test]
fn a_segment_observed_a_second_later_is_a_retransmission() {
    let mut script = Script::new();
    script.segment(syn(0));
    script.segment(at_another_interface(syn(0), 1000));
    assert_eq!(script.segments()[1..], ["1000 10.0.0.5:51920 syn +0 ? retransmitted"]);
}

#[test]
fn a_fin_retransmitted_with_other_data_is_the_same_fin() {
    let mut script = Script::new();
    script.segment(SegmentInput { payload_len: 10, ..from_client(0, fin_ack_flags(), 41, 1) });
    script.segment(from_client(1, fin_ack_flags(), 51, 9));
    assert_eq!(script.segments(), ["0 10.0.0.5:51920 fin ? ?", "1 10.0.0.5:51920 fin ? ? retransmitted"]);
}

#[test]
fn resets_and_bare_acks_are_never_retransmissions() {
    let mut script = Script::new();
    for ms in [0, 1] {
        script.segment(from_client(ms, Flags::RST, 51, 0));
        script.segment(handshake_ack(ms));
    }
    assert!(script.segments().iter().all(|line| !line.contains("retransmitted")));
}

#[test]
fn of_contradictory_flags_rst_wins_over_syn_and_syn_over_fin() {
    let mut script = Script::new();
    script.segment(from_client(0, Flags::RST.union(Flags::SYN).union(Flags::FIN), 0, 0));
    script.segment(from_client(1, Flags::SYN.union(Flags::FIN), 0, 0));
    script.segment(SegmentInput { acks_syn_ack: true, ..from_client(2, fin_ack_flags(), 1, 1) });
    script.segment(from_client(3, Flags::ACK, 1, 1));
    assert_eq!(
        script.segments(),
        ["0 10.0.0.5:51920 rst ? ?", "1 10.0.0.5:51920 syn +0 ?", "2 10.0.0.5:51920 fin +1 ?"]
    );
}

#[test]
fn a_stray_syn_does_not_change_the_initial_sequence_number_of_an_open_connection() {
    let mut script = Script::new();
    script.server_handshake(0);
    let mut stray = syn(10);
    stray.header.seq += 12345;
    script.segment(stray);
    script.socket(server(11, Established, FinWait1));
    script.events();
    script.segment(from_server(12, fin_ack_flags(), 101, 51));
    assert_eq!(script.segments(), ["12 10.0.0.9:8899 fin +101 +51"]);
}

#[test]
fn idle_flows_without_a_socket_expire() {
    let mut script = Script::new();
    script.segment(syn(0));
    script.segment(syn_ack(1));
    script.wait_until(70_001);
    script.events();
    script.segment(from_client(70_002, Flags::RST, 1, 0));
    assert_eq!(script.segments(), ["70002 10.0.0.5:51920 rst ? ?"]);
    script.wait_until(140_002);
    assert_eq!(script.tracker().next_deadline(), None);
}
