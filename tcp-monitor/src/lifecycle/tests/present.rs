//! Sockets that were there before the monitor.

use std::time::Duration;

use tcp_monitor_common::TcpState::{
    self, Close, CloseWait, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
};
use tcp_monitor_common::record::Role;

use super::script::{Script, at, client_addr, from_client, from_server, server, server_addr};
use crate::lifecycle::event::{Closed, Event, EventKind, Stuck, StuckReason};
use crate::lifecycle::input::{Input, Presence, PresentSocket};
use crate::lifecycle::segment::Flags;
use crate::lifecycle::{InferFrom, Options, SocketInput, StuckSocket};

#[test]
fn a_connection_found_open_is_followed_to_its_end_and_partial() {
    let mut script = Script::new();
    script.find(in_state(0, Established));
    assert_eq!((script.told(), script.tracker().sockets()), (vec![], 1));
    script.socket(server(10, Established, CloseWait).fin_received());
    script.socket(server(15, CloseWait, LastAck).fin_received());
    script.socket(server(16, LastAck, Close).fin_received().fin_acked());
    let (told, closed) = told_and_closed(&mut script);
    assert_eq!(
        told,
        [
            "10 10.0.0.9:8899 10.0.0.5:51920 established>close_wait kernel",
            "15 10.0.0.9:8899 10.0.0.5:51920 close_wait>last_ack kernel after 5 ms",
            "16 10.0.0.9:8899 10.0.0.5:51920 last_ack>close kernel after 1 ms",
            "16 server closed by remote after ?, 100 out 50 in",
        ]
    );
    assert!(closed.partial);
    assert_eq!(script.tracker().sockets(), 0);
}

#[test]
fn the_listener_tells_the_role_where_the_kernel_cannot() {
    // Behind `listen(fd, 0)` an accepted socket passes for a client's, whose SYN would count as a
    // byte less.
    for (found, told, expected) in [
        (Role::Server, Role::Client, "5 server closed by local_reset after ?, 100 out 50 in"),
        (Role::Client, Role::Server, "5 server closed by local_reset after ?, 100 out 50 in"),
        (Role::Client, Role::Client, "5 client closed by local_reset after ?, 99 out 50 in"),
    ] {
        let mut script = Script::new();
        script.find(PresentSocket { role: found, ..in_state(0, Established) });
        script.socket(SocketInput { role: told, ..server(5, Established, Close) });
        assert_eq!(script.told()[1], expected);
    }
}

#[test]
fn a_handshake_found_under_way_is_completed_and_its_connection_whole() {
    let mut script = Script::new();
    script.find(in_state(0, SynSent));
    script.socket(SocketInput { role: Role::Client, ..server(5, SynSent, Established) });
    script.socket(server(6, Established, Close));
    let (told, closed) = told_and_closed(&mut script);
    assert_eq!(told[1], "5 client handshake completed in ?");
    assert!(!closed.partial, "it was established before the monitor's eyes");
}

#[test]
fn what_was_told_of_a_socket_wins_over_what_was_found() {
    let mut script = Script::new();
    script.server_handshake(0);
    script.socket(server(10, Established, FinWait1));
    script.events();
    script.find(in_state(11, Established));
    script.socket(server(20, FinWait1, Close));
    assert_eq!(
        script.told(),
        [
            "20 10.0.0.9:8899 10.0.0.5:51920 fin_wait1>close kernel after 10 ms",
            "20 server closed by local_reset after 16 ms, 100 out 50 in",
        ]
    );
    assert_eq!(script.tracker().sockets(), 0);
}

#[test]
fn told_without_a_cookie_and_found_with_one_it_is_one_socket() {
    let without = |input: SocketInput| SocketInput { cookie: 0, ..input };
    let mut script = Script::new();
    // No segment was seen, so nothing but the socket's address and its peer's tell that it is the
    // same.
    script.socket(without(server(1, SynRecv, Established)));
    script.find(in_state(2, Established));
    script.events();
    script.socket(server(10, Established, Close));
    assert_eq!(script.told()[1], "10 server closed by local_reset after 9 ms, 100 out 50 in");
    assert_eq!(script.tracker().sockets(), 0, "what was found is forgotten with it");
}

#[test]
fn a_transition_between_the_look_and_its_report_is_told_as_it_was() {
    let mut script = Script::new();
    // It was looked at after this transition, but perhaps before.
    script.find(in_state(0, CloseWait));
    script.socket(server(1, Established, CloseWait).fin_received());
    script.socket(server(5, CloseWait, LastAck).fin_received());
    assert_eq!(
        script.told(),
        [
            "1 10.0.0.9:8899 10.0.0.5:51920 established>close_wait kernel",
            "5 10.0.0.9:8899 10.0.0.5:51920 close_wait>last_ack kernel after 4 ms",
        ]
    );
}

#[test]
fn a_birth_after_the_look_is_told_as_it_was() {
    let mut script = Script::new();
    script.find(in_state(0, Established));
    script.socket(server(1, Listen, SynRecv));
    script.socket(server(2, SynRecv, Established));
    script.socket(server(3, Established, Close));
    let (told, closed) = told_and_closed(&mut script);
    assert_eq!(told.len(), 5, "{told:#?}");
    assert_eq!(told[0], "1 10.0.0.9:8899 10.0.0.5:51920 listen>syn_recv kernel");
    assert!(!closed.partial);
}

#[test]
fn time_wait_ends_when_the_kernel_said_it_will() {
    let mut script = Script::new();
    script.find(waiting(0, true, 25_000));
    assert_eq!(script.tracker().next_deadline(), Some(at(25_000)));
    script.wait_until(30_000);
    assert_eq!(script.told(), ["25000 10.0.0.9:8899 10.0.0.5:51920 time_wait>close timer"]);
    assert_eq!(script.tracker().sockets(), 0);
}

#[test]
fn minisockets_found_in_any_order_end_in_order_of_time_among_others() {
    let mut script = Script::new();
    let from = |port: u16, left: u64| PresentSocket {
        cookie: port.into(),
        remote: (client_addr().ip(), port).into(),
        ..waiting(0, true, left)
    };
    script.find(from(1, 50_000));
    script.find(from(2, 10_000));
    script.find(from(3, 60_000));
    script.socket(server(20_000, FinWait2, Close).fin_acked().fin_received());
    script.events();
    script.wait_until(200_000);
    let ends: Vec<_> = script.events().iter().map(|event| event.time).collect();
    assert_eq!(ends, [at(50_000), at(60_000), at(80_000)], "the first was due before the transition");
}

#[test]
fn a_found_time_wait_that_begins_anew_lasts_for_its_whole_time() {
    let mut script = Script::new();
    script.find(waiting(0, true, 5_000));
    script.segment(from_client(1_000, Flags::FIN.union(Flags::ACK), 51, 102));
    script.wait_until(200_000);
    assert_eq!(script.told(), ["61000 10.0.0.9:8899 10.0.0.5:51920 time_wait>close timer"]);
}

#[test]
fn a_minisocket_that_is_late_in_going_does_not_last_for_weeks() {
    let mut script = Script::new();
    script.find(waiting(0, true, u32::MAX.into()));
    assert_eq!(script.tracker().next_deadline(), Some(at(60_000)));
}

#[test]
fn a_minisocket_found_awaiting_the_fin_is_closed_by_it() {
    let mut script = Script::new();
    script.find(waiting(0, false, 25_000));
    script.segment(from_client(10, Flags::FIN.union(Flags::ACK), 51, 102));
    let (told, closed) = told_and_closed(&mut script);
    assert_eq!(
        told,
        [
            "10 10.0.0.9:8899 10.0.0.5:51920 fin_wait2>time_wait segment",
            "10 server closed by local after ?, ? out ? in",
        ]
    );
    assert!(closed.partial);
}

#[test]
fn a_minisocket_found_before_its_socket_is_told_to_be_closed_is_not_two() {
    for (found, input) in [
        (waiting(0, true, 60_000), server(1, FinWait2, Close).fin_acked().fin_received()),
        (waiting(0, false, 60_000), SocketInput { orphan: true, ..server(1, FinWait2, Close).fin_acked() }),
    ] {
        let mut script = Script::new();
        script.find(found);
        script.socket(input);
        assert!(!script.told().iter().any(|line| line.contains(">close ")), "no end of a TIME_WAIT");
        assert_eq!(script.tracker().sockets(), 1);
        script.wait_until(70_000);
        assert_eq!(script.tracker().sockets(), 0);
    }
}

#[test]
fn a_new_connection_from_the_addresses_of_a_found_minisocket_ends_it() {
    let mut script = Script::new();
    script.find(waiting(0, true, 60_000));
    script.socket(SocketInput { cookie: 99, ..server(5, Listen, SynRecv) });
    assert_eq!(script.told()[0], "5 10.0.0.9:8899 10.0.0.5:51920 time_wait>close kernel");
}

#[test]
fn segments_of_a_found_connection_are_its_own() {
    let mut script = Script::inferring();
    script.find(in_state(0, Established));
    script.segment(from_server(5, Flags::FIN.union(Flags::ACK), 101, 51));
    script.socket(server(5, Established, FinWait1));
    let told = script.told();
    let ours: Vec<_> = told.iter().filter(|line| line.contains(" 10.0.0.9:8899 10.0.0.5:51920 ")).collect();
    assert_eq!(ours, ["5 10.0.0.9:8899 10.0.0.5:51920 established>fin_wait1 kernel"], "{told:#?}");
}

#[test]
fn both_ends_of_a_connection_may_be_found() {
    let options = Options { infer_from: InferFrom::ControlSegments, ..Options::default() };
    let mut script = Script::with(options);
    script.find(in_state(0, CloseWait));
    script.find(PresentSocket {
        cookie: 72,
        role: Role::Client,
        local: client_addr(),
        remote: server_addr(),
        ..waiting(0, false, 9000)
    });
    script.socket(server(10, CloseWait, LastAck).fin_received());
    script.segment(from_server(11, Flags::FIN.union(Flags::ACK), 101, 52));
    assert_eq!(
        script.told(),
        [
            "10 10.0.0.9:8899 10.0.0.5:51920 close_wait>last_ack kernel",
            "11 10.0.0.5:51920 10.0.0.9:8899 fin_wait2>time_wait segment",
            "11 client closed by local after ?, ? out ? in",
        ]
    );
}

#[test]
fn a_stuck_socket_is_told_as_it_was_found() {
    let stuck = Stuck {
        local: server_addr(),
        remote: client_addr(),
        role: Role::Server,
        state: CloseWait,
        age: Duration::from_secs(60),
        unread_bytes: 5,
        process: None,
        reason: StuckReason::Read,
    };
    let mut script = Script::new();
    script.handle(Input::Stuck(StuckSocket { time: at(7), netns: 1, cookie: 71, stuck }));
    let event = Event { netns: 1, cookie: 71, ..Event::new(at(7), EventKind::Stuck(stuck)) };
    assert_eq!(script.events(), [event]);
}

impl Script {
    fn find(&mut self, present: PresentSocket) {
        self.handle(Input::Present(present));
    }
}

/// The accepted socket, in a state at `ms`.
fn in_state(ms: u64, state: TcpState) -> PresentSocket {
    found(ms, Presence::Socket(state))
}

/// Its minisocket.
fn waiting(ms: u64, peer_closed: bool, left_ms: u64) -> PresentSocket {
    found(ms, Presence::Waiting { peer_closed, left: Duration::from_millis(left_ms) })
}

fn found(ms: u64, presence: Presence) -> PresentSocket {
    PresentSocket {
        time: at(ms),
        netns: 1,
        cookie: 71,
        role: Role::Server,
        local: server_addr(),
        remote: client_addr(),
        presence,
    }
}

fn told_and_closed(script: &mut Script) -> (Vec<String>, Closed) {
    let events = script.events();
    let Some(Event { kind: EventKind::Closed(closed), .. }) = events.last().cloned() else {
        panic!("{events:#?}")
    };
    let told = events.iter().filter(|event| !matches!(event.kind, EventKind::Segment(_)));
    (told.map(super::script::describe).collect(), closed)
}
