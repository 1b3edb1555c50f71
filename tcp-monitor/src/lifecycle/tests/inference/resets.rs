//! The effect of a RST in every state, and the RSTs that are ignored.

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::ResetPhase;

use super::wire::{ACK, FIN, RST, RST_ACK, SYN, SYN_ACK, Wire};
use crate::lifecycle::event::{ClosedBy, Event, EventKind};
use crate::lifecycle::input::ResetDirection;

type Steps = fn(&mut Wire);

/// Each state of the client, the sequence number that a RST from the server must have in it, and
/// the segments after the handshake that lead to it.
const STATES: [(TcpState, u32, Steps); 8] = [
    (TcpState::Established, 1, |_| {}),
    (TcpState::FinWait1, 1, |wire| wire.client(FIN, 1, 1, 0)),
    (TcpState::FinWait2, 1, |wire| {
        wire.client(FIN, 1, 1, 0);
        wire.server(ACK, 1, 2, 0);
    }),
    (TcpState::CloseWait, 2, |wire| {
        wire.server(FIN, 1, 1, 0);
        wire.client(ACK, 1, 2, 0);
    }),
    (TcpState::LastAck, 2, |wire| {
        wire.server(FIN, 1, 1, 0);
        wire.client(FIN, 1, 2, 0);
    }),
    (TcpState::Closing, 2, |wire| {
        wire.client(FIN, 1, 1, 0);
        wire.server(FIN, 1, 1, 0);
        wire.client(ACK, 2, 2, 0);
    }),
    (TcpState::TimeWait, 2, |wire| {
        wire.client(FIN, 1, 1, 0);
        wire.server(FIN, 1, 2, 0);
        wire.client(ACK, 2, 2, 0);
    }),
    (TcpState::Close, 2, |wire| {
        wire.server(FIN, 1, 1, 0);
        wire.client(FIN, 1, 2, 0);
        wire.server(ACK, 2, 2, 0);
    }),
];

/// The client's last state, and why it was closed if it was.
fn client(events: &[Event]) -> (Option<TcpState>, Option<ClosedBy>) {
    let is_client = |local: std::net::SocketAddr| local == crate::lifecycle::tests::script::client_addr();
    let mut seen = (None, None);
    for event in events {
        match &event.kind {
            EventKind::State(change) if is_client(change.local) => seen.0 = Some(change.to),
            EventKind::Closed(closed) if is_client(closed.local) => seen.1 = Some(closed.closed_by),
            EventKind::State(_)
            | EventKind::Closed(_)
            | EventKind::Segment(_)
            | EventKind::Handshake(_)
            | EventKind::Reset(_)
            | EventKind::Retransmit(_)
            | EventKind::Lost(_)
            | EventKind::Stuck(_) => {}
        }
    }
    seen
}

#[test]
fn a_reset_closes_in_every_state() {
    for (state, seq, steps) in STATES {
        let mut wire = Wire::new();
        wire.handshake();
        steps(&mut wire);
        assert_eq!(client(&wire.events()).0, Some(state));
        wire.server(RST, seq, 0, 0);
        let expected = match state {
            TcpState::TimeWait => (Some(TcpState::Close), None),
            TcpState::Close => (None, None),
            TcpState::Established
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Closing => (Some(TcpState::Close), Some(ClosedBy::RemoteReset)),
            TcpState::SynSent | TcpState::SynRecv | TcpState::NewSynRecv | TcpState::Listen => {
                panic!("{state} is not in the table")
            }
        };
        assert_eq!(client(&wire.events()), expected, "{state}");
    }
}

#[test]
fn a_reset_closes_its_sender_in_every_state_but_time_wait() {
    for (state, _, steps) in STATES {
        let mut wire = Wire::new();
        wire.handshake();
        steps(&mut wire);
        wire.events();
        let seq = if matches!(state, TcpState::Established | TcpState::CloseWait) { 1 } else { 2 };
        wire.client(RST_ACK, seq, 2, 0);
        let expected = match state {
            TcpState::TimeWait | TcpState::Close => (None, None),
            TcpState::Established
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Closing => (Some(TcpState::Close), Some(ClosedBy::LocalReset)),
            TcpState::SynSent | TcpState::SynRecv | TcpState::NewSynRecv | TcpState::Listen => {
                panic!("{state} is not in the table")
            }
        };
        assert_eq!(client(&wire.events()), expected, "{state}");
    }
}

#[test]
fn a_reset_at_another_sequence_number_is_ignored_in_every_state() {
    for (state, seq, steps) in STATES {
        for wrong in [seq + 1_000_000, seq.wrapping_sub(2), seq.wrapping_add(1 << 31)] {
            let mut wire = Wire::new();
            wire.handshake();
            steps(&mut wire);
            wire.events();
            wire.server(RST, wrong, 0, 0);
            let events = wire.events();
            assert_eq!(client(&events), (None, None), "{state} {wrong}");
            let [Event { kind: EventKind::Segment(segment), .. }] = &events[..] else { panic!("{events:?}") };
            assert_eq!(segment.unexpected.map(|unexpected| unexpected.label()), Some("out_of_window"));
        }
    }
}

#[test]
fn a_reset_behind_a_capture_gap_closes_the_connection_unless_a_fin_came_before() {
    let mut wire = Wire::established();
    wire.server(RST, 1_001, 0, 0);
    assert_eq!(client(&wire.events()), (Some(TcpState::Close), Some(ClosedBy::RemoteReset)));
    let mut wire = Wire::established();
    wire.server(FIN, 1, 1, 0);
    wire.events();
    wire.server(RST, 1_001, 0, 0);
    assert_eq!(client(&wire.events()), (None, None));
}

#[test]
fn a_reset_is_reported_with_the_phase_of_each_end() {
    let phases = |wire: &mut Wire| {
        let events = wire.events();
        let resets = events.iter().filter_map(|event| match &event.kind {
            EventKind::Reset(reset) => Some((reset.direction, reset.phase)),
            EventKind::Segment(_)
            | EventKind::State(_)
            | EventKind::Handshake(_)
            | EventKind::Retransmit(_)
            | EventKind::Closed(_)
            | EventKind::Lost(_)
            | EventKind::Stuck(_) => None,
        });
        resets.collect::<Vec<_>>()
    };
    let (sent, received) = (ResetDirection::Sent, ResetDirection::Received);
    let mut wire = Wire::new();
    wire.client(SYN, 0, 0, 0);
    wire.server(RST_ACK, 0, 1, 0);
    assert_eq!(phases(&mut wire), [(sent, ResetPhase::NoSocket), (received, ResetPhase::Handshake)]);
    let mut wire = Wire::established();
    wire.server(FIN, 1, 1, 0);
    wire.client(RST, 1, 0, 0);
    assert_eq!(phases(&mut wire), [(sent, ResetPhase::Established), (received, ResetPhase::Closing)]);
    // A RST after the close reaches no socket.
    wire.client(RST, 1, 0, 0);
    assert_eq!(phases(&mut wire), [(sent, ResetPhase::NoSocket)]);
}

#[test]
fn a_reset_closes_the_connection_while_data_is_in_flight() {
    let mut wire = Wire::established();
    wire.server(ACK, 1, 1, 1000);
    wire.reported();
    wire.server(RST, 1001, 0, 0);
    assert_eq!(wire.reported()[3], "4 server closed by local_reset after 2 ms, 0 out 0 in");
    let mut wire = Wire::established();
    wire.server(ACK, 1, 1, 1000);
    wire.reported();
    // It answers the client's latest acknowledgment.
    wire.server(RST, 1, 0, 0);
    assert_eq!(wire.reported().len(), 6);
}

#[test]
fn an_end_that_reset_its_connection_can_open_a_new_one() {
    let mut wire = Wire::established();
    wire.client(RST, 1, 0, 0);
    wire.client(SYN, 70_000, 0, 0);
    wire.reported();
    wire.server(SYN_ACK, 9, 70_001, 0);
    wire.client(ACK, 70_001, 10, 0);
    let reported = wire.reported();
    assert_eq!(reported.last().map(String::as_str), Some("6 server handshake completed in 2 ms"));
}
