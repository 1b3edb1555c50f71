//! What each step acknowledges, and whether its numbers are right. The server's initial sequence
//! number is the last before 0.

use super::inference::wire::{ACK, FIN, RST, RST_ACK, SYN, SYN_ACK, Wire};
use super::script::{CLIENT_ISN, SERVER_ISN, Script, from_client, from_server, handshake_ack, syn, syn_ack};
use crate::lifecycle::event::{AckCheck, Acknowledged, Check, SeqCheck};
use crate::lifecycle::{Event, EventKind, SegmentInput};

/// The checks of the segments told, the latest last.
fn checks(events: &[Event]) -> Vec<String> {
    events.iter().filter_map(|event| Some(describe(segment_of(event)?))).collect()
}

fn segment_of(event: &Event) -> Option<&crate::lifecycle::event::Segment> {
    match &event.kind {
        EventKind::Segment(segment) => Some(segment),
        EventKind::State(_)
        | EventKind::Handshake(_)
        | EventKind::Reset(_)
        | EventKind::Retransmit(_)
        | EventKind::Closed(_)
        | EventKind::Stuck(_)
        | EventKind::Lost(_) => None,
    }
}

fn describe(segment: &crate::lifecycle::event::Segment) -> String {
    let isn = |is_client: bool| if is_client { CLIENT_ISN } else { SERVER_ISN };
    let from_client = segment.src.port() == 51920;
    let Check { ack, seq } = segment.check;
    let ack = ack.map_or("?".into(), |check| {
        let AckCheck { of, seq, len, holds } = check;
        let sign = if holds { '=' } else { '!' };
        let flag = if of.flag_len() == 1 { "+1" } else { "" };
        format!("{}{sign}{}+{len}{flag}", of.label(), seq.wrapping_sub(isn(!from_client)))
    });
    let seq = seq.map_or("?".into(), |SeqCheck { expected, holds }| {
        let sign = if holds { '=' } else { '!' };
        format!("{sign}{}", expected.wrapping_sub(isn(from_client)))
    });
    format!("{} seq{seq} ack:{ack}", segment.step.label())
}

fn fin(ms: u64) -> SegmentInput {
    SegmentInput { payload_len: 5, ..from_client(ms, FIN, 51, 101) }
}

#[test]
fn the_steps_of_a_connection_acknowledge_each_other() {
    let mut script = Script::new();
    for segment in [
        syn(0),
        syn_ack(1),
        handshake_ack(2),
        fin(3),
        SegmentInput { acks_fin: true, ..from_server(4, ACK, 101, 57) },
        from_server(5, FIN, 101, 57),
        SegmentInput { acks_fin: true, ..from_client(6, ACK, 57, 102) },
    ] {
        script.segment(segment);
    }
    assert_eq!(
        checks(&script.events()),
        [
            "syn seq? ack:?",
            "syn_ack seq? ack:syn=0+0+1",
            "handshake_ack seq=1 ack:syn=0+0+1",
            // What it acknowledges passed unseen, and so did what comes before it.
            "fin seq? ack:?",
            "ack_of_fin seq=101 ack:fin=51+5+1",
            "fin seq=101 ack:fin=51+5+1",
            "ack_of_fin seq=57 ack:fin=101+0+1",
        ]
    );
}

#[test]
fn numbers_that_are_off_by_one_are_wrong() {
    let mut script = Script::new();
    script.segment(syn(0));
    script.segment(from_server(1, SYN_ACK, 0, 2));
    script.segment(SegmentInput { acks_syn_ack: true, ..from_client(2, ACK, 0, 0) });
    script.segment(fin(3));
    script.segment(SegmentInput { acks_fin: true, ..from_server(4, ACK, 101, 58) });
    assert_eq!(
        checks(&script.events()),
        [
            "syn seq? ack:?",
            "syn_ack seq? ack:syn!0+0+1",
            "handshake_ack seq!2 ack:syn!0+0+1",
            "fin seq? ack:?",
            "ack_of_fin seq=101 ack:fin!51+5+1",
        ]
    );
}

#[test]
fn the_right_number_is_told_with_a_wrong_one() {
    let wrong = AckCheck { of: Acknowledged::Fin, seq: u32::MAX - 2, len: 5, holds: false };
    assert_eq!(wrong.expected(), 3);
    let data = AckCheck { of: Acknowledged::Data, ..wrong };
    assert_eq!(data.expected(), 2);
}

#[test]
fn without_the_syn_nothing_is_checked() {
    let mut script = Script::new();
    // Its number is no proof of itself.
    script.segment(syn_ack(0));
    script.segment(from_client(1, RST, 1, 0));
    assert_eq!(checks(&script.events()), ["syn_ack seq? ack:?", "rst seq=1 ack:?"]);
}

#[test]
fn a_refusal_has_sequence_number_0_and_acknowledges_the_syn() {
    let zero = SERVER_ISN.wrapping_neg();
    for (seq, ack, told) in [
        (zero, 1, "rst seq=1 ack:syn=0+0+1"),
        (zero, 2, "rst seq=1 ack:syn!0+0+1"),
        (zero.wrapping_add(7), 1, "rst seq!1 ack:syn=0+0+1"),
    ] {
        let mut script = Script::new();
        script.segment(syn(0));
        script.segment(from_server(1, RST_ACK, seq, ack));
        assert_eq!(checks(&script.events())[1], told);
    }
}

#[test]
fn the_data_of_a_syn_is_acknowledged_with_it_or_not() {
    for (ack, told) in [
        (1, "syn_ack seq? ack:syn=0+0+1"),
        (11, "syn_ack seq? ack:syn=0+10+1"),
        (6, "syn_ack seq? ack:syn!0+10+1"),
    ] {
        let mut script = Script::new();
        script.segment(SegmentInput { payload_len: 10, ..syn(0) });
        script.segment(from_server(1, SYN_ACK, 0, ack));
        assert_eq!(checks(&script.events())[1], told);
    }
}

#[test]
fn a_fin_sent_again_has_the_number_it_had() {
    let mut script = Script::new();
    for segment in [fin(0), fin(1000), from_client(2000, FIN, 56, 101), from_client(3000, FIN, 55, 101)] {
        script.segment(segment);
    }
    let told = ["fin seq? ack:?", "fin seq=51 ack:?", "fin seq=56 ack:?", "fin seq!56 ack:?"];
    assert_eq!(checks(&script.events()), told);
}

#[test]
fn fins_that_cross_acknowledge_what_came_before() {
    let mut script = Script::new();
    for segment in [
        from_client(0, FIN, 51, 101),
        from_server(1, FIN, 101, 51),
        SegmentInput { acks_fin: true, ..from_server(2, ACK, 102, 52) },
        SegmentInput { acks_fin: true, ..from_client(3, ACK, 52, 102) },
    ] {
        script.segment(segment);
    }
    assert_eq!(
        checks(&script.events()),
        [
            "fin seq? ack:?",
            "fin seq=101 ack:?",
            "ack_of_fin seq=102 ack:fin=51+0+1",
            "ack_of_fin seq=52 ack:fin=101+0+1"
        ]
    );
}

#[test]
fn a_transfer_of_more_than_half_the_sequence_space_makes_nothing_wrong() {
    let mut script = Script::new();
    script.server_handshake(0);
    script.segment(from_server(9, FIN, 3_000_000_001, 2_500_000_001));
    assert_eq!(checks(&script.events())[3..], ["fin seq? ack:?"]);
}

#[test]
fn a_new_connection_is_not_checked_against_the_last() {
    let mut script = Script::new();
    for segment in [syn(0), syn_ack(1), handshake_ack(2), fin(3), from_server(4, FIN, 101, 57)] {
        script.segment(segment);
    }
    script.segment(from_client(5, SYN, 7_000, 0));
    script.segment(from_server(6, SYN_ACK, 9_000, 7_001));
    let told = checks(&script.events());
    assert_eq!(told[5..], ["syn seq? ack:?", "syn_ack seq? ack:syn=7000+0+1"]);
}

#[test]
fn in_a_capture_the_data_is_known_too() {
    let mut wire = Wire::new();
    wire.handshake();
    wire.client(ACK, 1, 1, 50);
    wire.server(ACK, 1, 51, 100);
    wire.client(FIN, 51, 101, 5);
    wire.server(ACK, 101, 57, 30);
    wire.server(FIN, 131, 57, 0);
    wire.client(ACK, 57, 132, 0);
    assert_eq!(
        checks(&wire.events())[2..],
        [
            "handshake_ack seq=1 ack:syn=0+0+1",
            "fin seq=51 ack:data=1+100",
            "ack_of_fin seq=101 ack:fin=51+5+1",
            "fin seq=131 ack:fin=51+5+1",
            "ack_of_fin seq=57 ack:fin=131+0+1",
        ]
    );
}

#[test]
fn in_a_capture_an_acknowledgment_of_what_was_not_sent_is_wrong() {
    let mut wire = Wire::new();
    wire.client(SYN, 0, 0, 0);
    wire.server(SYN_ACK, 0, 9, 0);
    wire.server(SYN_ACK, 0, 1, 0);
    wire.client(ACK, 1, 1, 50);
    wire.server(FIN, 1, 2_000_000_000, 0);
    assert_eq!(
        checks(&wire.events())[1..],
        [
            "syn_ack seq? ack:syn!0+0+1",
            "syn_ack seq? ack:syn=0+0+1",
            "handshake_ack seq=1 ack:syn=0+0+1",
            "fin seq=1 ack:data!1+50",
        ]
    );
}

#[test]
fn in_a_capture_a_fin_behind_what_was_acknowledged_is_wrong() {
    let mut wire = Wire::established();
    wire.client(ACK, 1, 1, 50);
    wire.server(ACK, 1, 51, 0);
    wire.client(FIN, 20, 1, 0);
    wire.client(FIN, 51, 1, 0);
    assert_eq!(checks(&wire.events()), ["fin seq!51 ack:syn=0+0+1", "fin seq=51 ack:syn=0+0+1"]);
}

#[test]
fn a_late_answer_to_a_syn_ack_sent_again_is_not_wrong() {
    let mut script = Script::new();
    for segment in [syn(0), syn_ack(1), handshake_ack(2), syn_ack(3)] {
        script.segment(segment);
    }
    // After ten bytes that passed unseen.
    script.segment(SegmentInput { acks_syn_ack: true, ..from_client(4, ACK, 11, 1) });
    assert_eq!(checks(&script.events())[4], "handshake_ack seq? ack:syn=0+0+1");
}

#[test]
fn a_reset_has_the_number_that_the_segment_it_answers_acknowledged() {
    let mut script = Script::new();
    script.server_handshake(0);
    script.segment(from_server(9, FIN, 101, 51));
    script.segment(from_client(10, RST, 51, 0));
    // It answers an old one.
    script.segment(from_client(11, RST, 31, 0));
    assert_eq!(checks(&script.events())[4..], ["rst seq=51 ack:?", "rst seq? ack:?"]);
}
