//! What each step acknowledges, and whether its sequence and acknowledgment numbers match. The
//! server's initial sequence number is 2³²−1, so that its numbers wrap around.

use super::inference::wire::{ACK, FIN, RST, RST_ACK, SYN, SYN_ACK, Wire};
use super::script::{CLIENT_ISN, SERVER_ISN, Script, from_client, from_server, handshake_ack, syn, syn_ack};
use crate::lifecycle::event::{AckCheck, Acknowledged, Check, SeqCheck};
use crate::lifecycle::{Event, EventKind, SegmentInput};

/// The checks of the reported segments, the latest last.
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
            // The data before it, and the data it acknowledges, were not seen.
            "fin seq? ack:?",
            "ack_of_fin seq=101 ack:fin=51+5+1",
            "fin seq=101 ack:fin=51+5+1",
            "ack_of_fin seq=57 ack:fin=101+0+1",
        ]
    );
}

#[test]
fn numbers_that_are_off_by_one_fail_the_check() {
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
fn a_failed_check_reports_the_expected_number() {
    let wrong = AckCheck { of: Acknowledged::Fin, seq: u32::MAX - 2, len: 5, holds: false };
    assert_eq!(wrong.expected(), 3);
    let data = AckCheck { of: Acknowledged::Data, ..wrong };
    assert_eq!(data.expected(), 2);
}

#[test]
fn without_the_syn_its_syn_ack_is_not_checked() {
    let mut script = Script::new();
    // The SYN-ACK's own acknowledgment number does not prove the SYN's sequence number.
    script.segment(syn_ack(0));
    script.segment(from_client(1, RST, 1, 0));
    assert_eq!(checks(&script.events()), ["syn_ack seq? ack:?", "rst seq=1 ack:?"]);
}

#[test]
fn a_refusal_has_sequence_number_0_and_acknowledges_the_syn() {
    let zero = SERVER_ISN.wrapping_neg();
    for (seq, ack, reported) in [
        (zero, 1, "rst seq=1 ack:syn=0+0+1"),
        (zero, 2, "rst seq=1 ack:syn!0+0+1"),
        (zero.wrapping_add(7), 1, "rst seq!1 ack:syn=0+0+1"),
    ] {
        let mut script = Script::new();
        script.segment(syn(0));
        script.segment(from_server(1, RST_ACK, seq, ack));
        assert_eq!(checks(&script.events())[1], reported);
    }
}

#[test]
fn a_syn_ack_may_acknowledge_the_data_of_the_syn_or_not() {
    for (ack, reported) in [
        (1, "syn_ack seq? ack:syn=0+0+1"),
        (11, "syn_ack seq? ack:syn=0+10+1"),
        (6, "syn_ack seq? ack:syn!0+10+1"),
    ] {
        let mut script = Script::new();
        script.segment(SegmentInput { payload_len: 10, ..syn(0) });
        script.segment(from_server(1, SYN_ACK, 0, ack));
        assert_eq!(checks(&script.events())[1], reported);
    }
}

#[test]
fn a_retransmitted_fin_has_the_same_sequence_number() {
    let mut script = Script::new();
    for segment in [fin(0), fin(1000), from_client(2000, FIN, 56, 101), from_client(3000, FIN, 55, 101)] {
        script.segment(segment);
    }
    let reported = ["fin seq? ack:?", "fin seq=51 ack:?", "fin seq=56 ack:?", "fin seq!56 ack:?"];
    assert_eq!(checks(&script.events()), reported);
}

#[test]
fn crossing_fins_are_acknowledged_by_the_acks_that_follow() {
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
fn a_transfer_of_more_than_half_the_sequence_space_fails_no_check() {
    let mut script = Script::new();
    script.server_handshake(0);
    script.segment(from_server(9, FIN, 3_000_000_001, 2_500_000_001));
    assert_eq!(checks(&script.events())[3..], ["fin seq? ack:?"]);
}

#[test]
fn a_new_connection_is_not_checked_against_the_previous_one() {
    let mut script = Script::new();
    for segment in [syn(0), syn_ack(1), handshake_ack(2), fin(3), from_server(4, FIN, 101, 57)] {
        script.segment(segment);
    }
    script.segment(from_client(5, SYN, 7_000, 0));
    script.segment(from_server(6, SYN_ACK, 9_000, 7_001));
    let reported = checks(&script.events());
    assert_eq!(reported[5..], ["syn seq? ack:?", "syn_ack seq? ack:syn=7000+0+1"]);
}

#[test]
fn a_capture_also_shows_which_data_is_acknowledged() {
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
fn in_a_capture_an_ack_of_an_unseen_segment_fails_the_check() {
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
fn in_a_capture_a_fin_before_the_acknowledged_data_fails_the_check() {
    let mut wire = Wire::established();
    wire.client(ACK, 1, 1, 50);
    wire.server(ACK, 1, 51, 0);
    wire.client(FIN, 20, 1, 0);
    wire.client(FIN, 51, 1, 0);
    assert_eq!(checks(&wire.events()), ["fin seq!51 ack:syn=0+0+1", "fin seq=51 ack:syn=0+0+1"]);
}

#[test]
fn a_late_ack_of_a_retransmitted_syn_ack_fails_no_check() {
    let mut script = Script::new();
    for segment in [syn(0), syn_ack(1), handshake_ack(2), syn_ack(3)] {
        script.segment(segment);
    }
    // Sent after ten bytes that were not seen.
    script.segment(SegmentInput { acks_syn_ack: true, ..from_client(4, ACK, 11, 1) });
    assert_eq!(checks(&script.events())[4], "handshake_ack seq? ack:syn=0+0+1");
}

#[test]
fn a_reset_takes_its_sequence_number_from_the_ack_of_the_segment_it_answers() {
    let mut script = Script::new();
    script.server_handshake(0);
    script.segment(from_server(9, FIN, 101, 51));
    script.segment(from_client(10, RST, 51, 0));
    // It answers an old segment.
    script.segment(from_client(11, RST, 31, 0));
    assert_eq!(checks(&script.events())[4..], ["rst seq=51 ack:?", "rst seq? ack:?"]);
}
