//! Bytes, retransmissions, and connections first seen midway.

use super::wire::{ACK, FIN, RST, SYN, SYN_ACK, Wire};
use crate::lifecycle::tests::script::{from_client, from_server};
use crate::lifecycle::{EventKind, InferFrom, Options, SegmentInput};

fn closed(wire: &mut Wire) -> Vec<crate::lifecycle::event::Closed> {
    let events = wire.events();
    let closed = events.into_iter().filter_map(|event| match event.kind {
        EventKind::Closed(closed) => Some(closed),
        EventKind::Segment(_)
        | EventKind::State(_)
        | EventKind::Handshake(_)
        | EventKind::Reset(_)
        | EventKind::Retransmit(_)
        | EventKind::Lost(_)
        | EventKind::Stuck(_) => None,
    });
    closed.collect()
}

#[test]
fn acknowledged_bytes_are_counted_each_way() {
    let mut wire = Wire::established();
    wire.client(ACK, 1, 1, 500);
    wire.server(ACK, 1, 501, 1_000);
    wire.client(FIN, 501, 1_001, 20);
    wire.server(FIN, 1_001, 522, 7);
    wire.client(ACK, 522, 1_009, 0);
    let reported = wire.reported();
    assert!(
        reported.contains(&"7 client closed by local after 5 ms, 520 out 1007 in".into()),
        "{reported:?}"
    );
    assert!(
        reported.contains(&"7 server closed by remote after 5 ms, 1007 out 520 in".into()),
        "{reported:?}"
    );
}

#[test]
fn more_than_four_gibibytes_are_counted() {
    let mut wire = Wire::established();
    let (mut seq, step) = (1_u32, 60_000_u32);
    for _ in 0..100_000 {
        wire.see(server_at(seq, step));
        seq = seq.wrapping_add(step);
        wire.see(client_acking(seq));
    }
    wire.client(RST, 1, 0, 0);
    assert_eq!(closed(&mut wire)[0].bytes_received, Some(6_000_000_000));
}

fn server_at(seq: u32, len: u32) -> SegmentInput {
    SegmentInput { payload_len: len, ..from_server(0, ACK, seq, 1) }
}

fn client_acking(ack: u32) -> SegmentInput {
    from_client(0, ACK, 1, ack)
}

#[test]
fn retransmitted_data_is_counted_and_reported() {
    let mut wire = Wire::established();
    for seq in [1, 101, 201] {
        wire.server(ACK, seq, 1, 100);
    }
    wire.server(ACK, 101, 1, 100);
    wire.server(ACK, 101, 1, 200);
    assert_eq!(wire.reported(), ["6 retransmit data in established", "7 retransmit data in established"]);
    wire.client(RST, 1, 0, 0);
    let retransmits = closed(&mut wire).iter().map(|closed| closed.retransmits).collect::<Vec<_>>();
    assert_eq!(retransmits, [Some(0), Some(2)]);
}

#[test]
fn a_reordered_segment_is_no_retransmission() {
    let mut wire = Wire::established();
    wire.server(ACK, 101, 1, 100);
    wire.server(ACK, 1, 1, 100);
    assert_eq!(wire.reported(), [""; 0]);
}

#[test]
fn keep_alives_are_no_data() {
    let mut wire = Wire::established();
    wire.client(ACK, 1, 1, 10);
    wire.server(ACK, 1, 11, 0);
    for len in [0, 1, 0] {
        wire.client(ACK, 10, 1, len);
        wire.server(ACK, 1, 11, 0);
    }
    assert_eq!(wire.reported(), [""; 0]);
    wire.client(FIN, 11, 1, 0);
    wire.server(FIN, 1, 12, 0);
    wire.client(ACK, 12, 2, 0);
    let closed = closed(&mut wire);
    assert_eq!((closed[0].bytes_sent, closed[0].retransmits), (Some(10), Some(0)));
}

#[test]
fn data_that_was_not_captured_counts_when_it_is_acknowledged() {
    let mut wire = Wire::established();
    wire.client(ACK, 1, 5_001, 0);
    wire.client(RST, 1, 0, 0);
    assert_eq!(closed(&mut wire)[0].bytes_received, Some(5_000));
}

#[test]
fn a_connection_first_seen_midway_is_partial() {
    let mut wire = Wire::new();
    wire.client(ACK, 900_001, 7_001, 50);
    wire.server(ACK, 7_001, 900_051, 100);
    assert_eq!(wire.reported(), [""; 0], "which state it was in before is not known");
    wire.client(FIN, 900_051, 7_101, 0);
    wire.server(FIN, 7_101, 900_052, 0);
    wire.client(ACK, 900_052, 7_102, 0);
    let events = wire.events();
    let [client, server] = &events
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::Closed(closed) => Some(closed.clone()),
            EventKind::Segment(segment) => {
                assert_eq!((segment.seq_rel, segment.ack_rel), (None, None));
                None
            }
            EventKind::State(_)
            | EventKind::Handshake(_)
            | EventKind::Reset(_)
            | EventKind::Retransmit(_)
            | EventKind::Lost(_)
            | EventKind::Stuck(_) => None,
        })
        .collect::<Vec<_>>()[..]
    else {
        panic!("{events:?}")
    };
    assert!(client.partial && server.partial);
    assert_eq!((client.role.label(), server.role.label()), ("client", "server"), "8899 is the lower port");
    assert_eq!((client.duration, client.bytes_sent, client.bytes_received), (None, Some(50), Some(100)));
    assert_eq!((client.closed_by.label(), server.closed_by.label()), ("local", "remote"));
}

#[test]
fn a_late_segment_is_no_new_connection() {
    let mut wire = Wire::new();
    wire.client(ACK, 1, 1, 0);
    wire.client(RST, 1, 1, 0);
    assert_eq!((wire.reported().len(), wire.tracker().inferred()), (0, 0));
    let mut wire = Wire::established();
    wire.client(RST, 1, 0, 0);
    wire.reported();
    wire.server(ACK, 1, 1, 100);
    wire.server(FIN, 101, 1, 0);
    assert_eq!(wire.reported(), [""; 0]);
    wire.wait_until(5_003);
    assert_eq!(wire.tracker().inferred(), 0);
}

#[test]
fn a_full_table_evicts_the_closed_first_then_the_half_open() {
    let mut wire = Wire::with(Options { infer_from: InferFrom::AllSegments, max_connections: 3 });
    let syn = |port: u16| {
        let mut segment = from_client(0, SYN, 0, 0);
        segment.src.set_port(port);
        segment
    };
    wire.handshake();
    wire.see(syn(2));
    wire.client(RST, 1, 1, 0);
    wire.see(syn(3));
    wire.reported();
    wire.see(syn(4));
    // The reset connection was evicted: its next segment is that of a connection first seen midway.
    wire.client(ACK, 1, 1, 5);
    assert_eq!(wire.tracker().inferred(), 3);
    // The oldest half-open connection was evicted for it.
    let mut answer = from_server(0, SYN_ACK, 0, 1);
    answer.dst.set_port(3);
    wire.see(answer);
    let reported = wire.reported();
    assert!(reported.iter().any(|line| line.contains("listen>syn_recv")), "{reported:?}");
    assert_eq!(wire.tracker().evicted(), 2);
}
