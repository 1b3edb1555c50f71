//! What is told of segments: relative numbers, copies and retransmissions.

use tcp_monitor_common::TcpState::{Established, FinWait1};
use tcp_monitor_common::record::Direction;

use super::script::{Script, from_client, from_server, handshake_ack, server, syn, syn_ack};
use crate::lifecycle::SegmentInput;
use crate::lifecycle::segment::Flags;

fn fin_ack_flags() -> Flags {
    Flags::FIN.union(Flags::ACK)
}

/// As another interface sees it, `ms` later.
fn seen_elsewhere(segment: SegmentInput, ms: u64) -> SegmentInput {
    let time = segment.time + std::time::Duration::from_millis(ms);
    SegmentInput { time, netns: 9, ifindex: 3, ..segment }
}

#[test]
fn numbers_are_relative_to_both_starts() {
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
fn numbers_whose_start_was_not_seen_are_left_out() {
    let mut script = Script::new();
    script.segment(from_client(3, fin_ack_flags(), 51, 101));
    assert_eq!(script.segments(), ["3 10.0.0.5:51920 fin ? ?"]);
    // A SYN-ACK tells of the SYN it answers.
    script.segment(syn_ack(4));
    script.segment(handshake_ack(5));
    assert_eq!(script.segments(), ["4 10.0.0.9:8899 syn_ack +0 +1", "5 10.0.0.5:51920 handshake_ack +1 +1"]);
}

#[test]
fn a_packet_that_two_interfaces_see_is_told_once() {
    let mut script = Script::new();
    for segment in [syn(0), syn_ack(10), handshake_ack(20), from_client(30, fin_ack_flags(), 1, 1)] {
        script.segment(segment);
        script.segment(seen_elsewhere(segment, 1));
        script.segment(SegmentInput { direction: Some(Direction::Egress), ifindex: 7, ..segment });
    }
    assert_eq!(script.segments().len(), 4);
}

#[test]
fn equal_segments_on_the_loopbacks_of_two_namespaces_are_two() {
    let mut script = Script::new();
    let mut told = 0;
    for segment in [syn(0), syn_ack(10), handshake_ack(20), from_client(30, fin_ack_flags(), 1, 1)] {
        for netns in [1, 9] {
            script.segment(SegmentInput { netns, ifindex: 1, ..segment });
            told += 1;
        }
    }
    let segments = script.segments();
    assert_eq!(segments.len(), told);
    assert!(segments.iter().all(|segment| !segment.contains("again")), "{segments:?}");
}

#[test]
fn a_syn_ack_that_answers_another_syn_is_another() {
    let mut script = Script::new();
    script.segment(syn_ack(0));
    let mut other = seen_elsewhere(syn_ack(0), 1);
    other.header.ack += 1;
    script.segment(other);
    assert_eq!(script.segments().len(), 2);
}

#[test]
fn a_syn_sent_again_is_a_retransmission_and_its_copies_are_not_told() {
    let mut script = Script::new();
    for ms in [0, 1000, 3000] {
        script.segment(syn(ms));
        script.segment(seen_elsewhere(syn(ms), 2));
    }
    assert_eq!(
        script.segments(),
        [
            "0 10.0.0.5:51920 syn +0 ?",
            "1000 10.0.0.5:51920 syn +0 ? again",
            "3000 10.0.0.5:51920 syn +0 ? again"
        ]
    );
}

#[test]
fn what_another_interface_sees_much_later_was_sent_again() {
    let mut script = Script::new();
    script.segment(syn(0));
    script.segment(seen_elsewhere(syn(0), 1000));
    assert_eq!(script.segments()[1..], ["1000 10.0.0.5:51920 syn +0 ? again"]);
}

#[test]
fn a_fin_sent_again_with_other_data_is_the_same_fin() {
    let mut script = Script::new();
    script.segment(SegmentInput { payload_len: 10, ..from_client(0, fin_ack_flags(), 41, 1) });
    script.segment(from_client(1, fin_ack_flags(), 51, 9));
    assert_eq!(script.segments(), ["0 10.0.0.5:51920 fin ? ?", "1 10.0.0.5:51920 fin ? ? again"]);
}

#[test]
fn resets_and_bare_acks_are_never_retransmissions() {
    let mut script = Script::new();
    for ms in [0, 1] {
        script.segment(from_client(ms, Flags::RST, 51, 0));
        script.segment(handshake_ack(ms));
    }
    assert!(script.segments().iter().all(|told| !told.contains("again")));
}

#[test]
fn of_contradictory_flags_reset_counts_before_syn_before_fin() {
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
fn a_stray_syn_does_not_move_the_start_of_a_living_connection() {
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
fn idle_flows_without_a_socket_are_forgotten() {
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
