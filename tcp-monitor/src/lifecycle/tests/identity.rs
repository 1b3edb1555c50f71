//! The connection that an event belongs to, and the end at which it happened.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use tcp_monitor_common::TcpState::{
    Close, CloseWait, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
};
use tcp_monitor_common::record::{Direction, Role};

use super::live::host::{FIN, Host, IN, OUT, RST_ACK, SYN, SYN_ACK};
use super::script::{
    Script, at, client, client_addr, from_client, from_server, no_addr, server, server_addr, syn, syn_ack,
};
use crate::lifecycle::event::{Stuck, StuckReason};
use crate::lifecycle::input::{Presence, PresentSocket, StuckSocket};
use crate::lifecycle::segment::Flags;
use crate::lifecycle::{End, Event, EventKind, InferFrom, Input, Options, SegmentInput, SocketInput};

/// The numbers of the connections of these events, each once.
fn ids(events: &[Event]) -> Vec<u64> {
    let ids: BTreeSet<_> = events.iter().map(|event| event.connection.map_or(0, |id| id.get())).collect();
    ids.into_iter().collect()
}

/// The end of each event: `1`, `2`, or `-` for an event of no connection.
fn ends(events: &[Event]) -> String {
    let initial = |event: &Event| match event.end {
        Some(End::First) => '1',
        Some(End::Second) => '2',
        None => '-',
    };
    events.iter().map(initial).collect()
}

#[test]
fn segments_of_both_ends_and_their_events_belong_to_one_connection() {
    let mut script = Script::inferring();
    script.segment(syn(0));
    script.segment(syn_ack(1));
    script.segment(from_client(2, Flags::ACK, 1, 1));
    let events = script.events();
    assert_eq!(ids(&events), [1]);
    // SYN, SYN_SENT; SYN-ACK, SYN_RECV; ACK, ESTABLISHED and the handshake of either end.
    assert_eq!(ends(&events), "112211122");
}

#[test]
fn the_end_that_answers_is_the_second_even_if_it_is_seen_first() {
    let mut script = Script::inferring();
    script.segment(syn_ack(1));
    let events = script.events();
    assert_eq!((ids(&events), events[0].end), (vec![1], Some(End::Second)));
}

#[test]
fn in_a_simultaneous_open_the_end_with_the_earlier_syn_is_the_first() {
    let mut script = Script::inferring();
    script.segment(from_server(0, Flags::SYN, 0, 0));
    script.segment(syn(1));
    let events = script.events();
    assert_eq!((ids(&events), ends(&events)), (vec![1], "1122".into()));
}

#[test]
fn reused_addresses_are_another_connection() {
    let mut script = Script::inferring();
    script.segment(syn(0));
    script.segment(from_server(1, RST_ACK, 0, 1));
    assert_eq!(ids(&script.events()), [1]);
    script.segment(from_client(2, SYN, 0, 0));
    assert_eq!(ids(&script.events()), [1], "the SYN is retransmitted");
    script.segment(from_server(3, RST_ACK, 0, 1));
    script.events();
    script.segment(from_client(1000, SYN, 7_000, 0));
    assert_eq!(ids(&script.events()), [2]);
}

#[test]
fn an_end_in_time_wait_belongs_to_the_previous_connection() {
    let mut script = Script::new();
    script.server_handshake(0);
    script.socket(server(10, Established, FinWait1));
    script.socket(server(11, FinWait1, FinWait2));
    script.socket(server(12, FinWait2, Close).fin_received());
    assert_eq!(ids(&script.events()), [1]);
    script.segment(from_client(1000, SYN, 7_000, 0));
    script.segment(from_server(1001, SYN_ACK, 9_000, 7_001));
    let events = script.events();
    let of = |events: &[Event], state: bool| {
        let events = events.iter().filter(|event| matches!(event.kind, EventKind::State(_)) == state);
        ids(&events.cloned().collect::<Vec<_>>())
    };
    assert_eq!((of(&events, false), of(&events, true)), (vec![2], vec![1]), "{events:#?}");
}

#[test]
fn a_port_reused_by_a_socket_and_its_syn_is_one_other_connection() {
    for port_is_known in [true, false] {
        let infer_from = InferFrom::ControlSegments;
        let mut script = Script::with(Options { infer_from, ..Options::default() });
        let opening = |ms: u64, cookie: u64, isn: u32| {
            let socket = SocketInput { cookie, sk: cookie, ..client(ms, Close, SynSent) };
            let local = if port_is_known { socket.local } else { SocketAddr::new(socket.local.ip(), 0) };
            (SocketInput { local, ..socket }, from_client(ms + 1, SYN, isn, 0))
        };
        for (ms, cookie, isn) in [(0, 72, 0), (1000, 82, 7_000)] {
            let (socket, syn) = opening(ms, cookie, isn);
            script.socket(socket);
            script.segment(syn);
            script.segment(from_client(ms + 2, SYN, isn, 0));
            script.segment(from_server(ms + 3, RST_ACK, 0, isn + 1));
            script.socket(SocketInput { cookie, sk: cookie, ..client(ms + 4, SynSent, Close).with_err(111) });
        }
        assert_eq!(ids(&script.events()), [1, 2], "the port is known: {port_is_known}");
    }
}

#[test]
fn a_port_without_listener_belongs_to_the_connection_that_was_refused() {
    let mut host = Host::new(&[(1, 2, OUT), (2, 2, IN)], &[(2, 2, OUT), (1, 2, IN)]);
    let socket = |ms: u64, cookie: u64, from, to| SocketInput { cookie, sk: cookie, ..client(ms, from, to) };
    for (attempt, isn) in [(1, 0), (2, 7_000), (3, 9_000)] {
        host.socket(socket(0, attempt, Close, SynSent));
        host.client(SYN, isn, 0);
        host.server(RST_ACK, 0, isn + 1);
        host.socket(socket(0, attempt, SynSent, Close).with_err(111));
        let events = host.events();
        let failed = events.iter().filter(|event| matches!(event.kind, EventKind::Handshake(_))).count();
        assert_eq!((ids(&events), failed), (vec![attempt], 2), "{events:#?}");
    }
}

#[test]
fn a_socket_that_reconnects_is_another_connection() {
    let mut script = Script::new();
    for (ms, id) in [(0, 1), (100, 2)] {
        script.socket(client(ms, Close, SynSent));
        script.socket(client(ms + 1, SynSent, Close).with_err(111));
        assert_eq!(ids(&script.events()), [id]);
    }
}

#[test]
fn the_two_sockets_of_a_loopback_connection_belong_to_one_connection() {
    let mut script = Script::new();
    script.socket(client(0, Close, SynSent));
    script.socket(server(1, Listen, SynRecv));
    script.socket(server(2, SynRecv, Established));
    script.socket(client(3, SynSent, Established));
    script.socket(client(4, Established, FinWait1));
    script.socket(server(5, Established, CloseWait));
    script.socket(server(6, CloseWait, LastAck));
    let events = script.events();
    assert_eq!((ids(&events), ends(&events)), (vec![1], "122211122".into()));
}

#[test]
fn a_connection_keeps_its_number_when_its_port_becomes_known() {
    let mut script = Script::new();
    let mut connecting = client(0, Close, SynSent);
    connecting.local.set_port(0);
    script.socket(connecting);
    script.wait_until(30);
    script.segment(syn(31));
    script.socket(client(32, SynSent, Established));
    let events = script.events();
    assert_eq!((ids(&events), ends(&events)), (vec![1], "1111".into()), "{events:#?}");
}

#[test]
fn the_same_addresses_in_two_namespaces_are_two_connections() {
    let mut script = Script::new();
    for netns in [1, 2] {
        script.socket(SocketInput { netns, ..client(0, Close, SynSent) });
        script.segment(SegmentInput { netns, ifindex: 1, ..syn(0) });
    }
    let numbers: Vec<_> = script.events().iter().map(|event| event.connection.map(|id| id.get())).collect();
    assert_eq!(numbers, [1, 1, 2, 2].map(Some));
}

#[test]
fn sockets_in_namespaces_that_see_the_same_packets_belong_to_one_connection() {
    const TO_SERVER: &[(u32, u32, Direction)] = &[(1, 2, OUT), (7, 5, IN), (7, 6, OUT), (2, 2, IN)];
    const TO_CLIENT: &[(u32, u32, Direction)] = &[(2, 2, OUT), (7, 6, IN), (7, 5, OUT), (1, 2, IN)];
    let mut host = Host::new(TO_SERVER, TO_CLIENT);
    let there = |input: SocketInput| SocketInput { netns: 2, ..input };
    host.socket(client(0, Close, SynSent));
    host.client(SYN, 0, 0);
    host.server(SYN_ACK, 0, 1);
    host.socket(client(0, SynSent, Established));
    host.client_acks_syn_ack();
    host.socket(there(server(0, Listen, SynRecv)));
    host.socket(there(server(0, SynRecv, Established)));
    host.client(FIN, 51, 101);
    host.socket(there(server(0, Established, CloseWait)));
    let events = host.events();
    assert_eq!(ids(&events), [1], "{events:#?}");
    let netns: BTreeSet<_> =
        events.iter().map(|event| (event.end == Some(End::Second), event.netns)).collect();
    let of = |end: End| {
        netns
            .iter()
            .filter(|(is_second, _)| *is_second == (end == End::Second))
            .map(|(_, netns)| *netns)
            .collect::<Vec<_>>()
    };
    assert_eq!((of(End::First), of(End::Second)), (vec![1], vec![2]));
}

#[test]
fn a_socket_from_a_dump_and_its_stuck_event_belong_to_a_connection() {
    let mut script = Script::new();
    script.handle(Input::Present(PresentSocket {
        time: at(0),
        netns: 1,
        cookie: 71,
        role: Role::Server,
        local: server_addr(),
        remote: client_addr(),
        presence: Presence::Socket(CloseWait),
    }));
    let stuck = Stuck {
        local: server_addr(),
        remote: client_addr(),
        role: Role::Server,
        state: CloseWait,
        age: Duration::from_secs(60),
        unread_bytes: 0,
        process: None,
        reason: StuckReason::Close,
    };
    script.handle(Input::Stuck(StuckSocket { time: at(1), netns: 1, cookie: 71, stuck }));
    script.socket(server(2, CloseWait, LastAck));
    let events = script.events();
    assert_eq!((ids(&events), ends(&events)), (vec![1], "22".into()));
    assert_eq!(events[0].cookie, 71);
}

#[test]
fn connections_of_two_dumps_become_one_when_a_packet_passes_both_namespaces() {
    let mut script = Script::with(Options { infer_from: InferFrom::ControlSegments, ..Options::default() });
    let present = |netns: u32, cookie, role, local, remote| PresentSocket {
        time: at(0),
        netns,
        cookie,
        role,
        local,
        remote,
        presence: Presence::Socket(Established),
    };
    script.handle(Input::Present(present(1, 72, Role::Client, client_addr(), server_addr())));
    script.handle(Input::Present(present(2, 71, Role::Server, server_addr(), client_addr())));
    script.socket(client(1, Established, FinWait1));
    for (netns, direction) in [(1, OUT), (2, IN)] {
        let fin = from_client(2, FIN, 51, 101);
        script.segment(SegmentInput { netns, ifindex: netns + 2, direction: Some(direction), ..fin });
    }
    script.socket(SocketInput { netns: 2, ..server(3, Established, CloseWait) });
    script.socket(client(4, FinWait1, FinWait2));
    let events = script.events();
    assert_eq!((ids(&events), ends(&events)), (vec![1], "1121".into()), "{events:#?}");
    assert_eq!(script.tracker().sockets(), 2);
}

#[test]
fn a_listener_and_a_stray_reset_belong_to_no_connection() {
    let mut script = Script::new();
    let listener = SocketInput { cookie: 9, remote: no_addr(), ..server(0, Close, Listen) };
    script.socket(listener);
    script.segment(from_server(1, RST_ACK, 0, 1));
    let events = script.events();
    assert_eq!((ids(&events), ends(&events)), (vec![0], "--".into()));
}

#[test]
fn events_have_the_frame_number_of_the_packet_that_caused_them() {
    let mut script = Script::inferring();
    for (frame, segment) in [(3, syn(0)), (9, syn_ack(1))] {
        script.segment(SegmentInput { frame: NonZeroU64::new(frame), ..segment });
    }
    script.wait_until(200_000);
    let frames: Vec<_> = script.events().iter().map(|event| event.frame.map_or(0, NonZeroU64::get)).collect();
    assert_eq!(frames[..4], [3, 3, 9, 9]);
    assert!(frames[4..].iter().all(|frame| *frame == 0), "a timeout has no packet: {frames:?}");
}

#[test]
fn no_connection_number_is_assigned_twice() {
    let mut script = Script::new();
    for n in 0..100_u16 {
        let mut input = client(u64::from(n), Close, SynSent);
        input.local.set_port(1_000 + n % 50);
        input.cookie = n.into();
        script.socket(input);
    }
    assert_eq!(ids(&script.events()), (1..=100).collect::<Vec<_>>());
}
