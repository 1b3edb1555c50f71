//! Existing sockets: those that a dump finds when monitoring starts.

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
fn a_connection_found_open_is_tracked_to_its_end_and_is_partial() {
    let mut script = Script::new();
    script.find(in_state(0, Established));
    assert_eq!((script.reported(), script.tracker().sockets()), (vec![], 1));
    script.socket(server(10, Established, CloseWait).fin_received());
    script.socket(server(15, CloseWait, LastAck).fin_received());
    script.socket(server(16, LastAck, Close).fin_received().fin_acked());
    let (reported, closed) = reported_and_closed(&mut script);
    assert_eq!(
        reported,
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
fn the_server_role_wins_whether_the_dump_or_the_kernel_programs_report_it() {
    // With `listen(fd, 0)` an accepted socket looks like a client's. Its SYN would then be
    // subtracted from the bytes sent.
    for (found, reported, expected) in [
        (Role::Server, Role::Client, "5 server closed by local_reset after ?, 100 out 50 in"),
        (Role::Client, Role::Server, "5 server closed by local_reset after ?, 100 out 50 in"),
        (Role::Client, Role::Client, "5 client closed by local_reset after ?, 99 out 50 in"),
    ] {
        let mut script = Script::new();
        script.find(PresentSocket { role: found, ..in_state(0, Established) });
        script.socket(SocketInput { role: reported, ..server(5, Established, Close) });
        assert_eq!(script.reported()[1], expected);
    }
}

#[test]
fn a_handshake_found_under_way_completes_and_its_connection_is_not_partial() {
    let mut script = Script::new();
    script.find(in_state(0, SynSent));
    script.socket(SocketInput { role: Role::Client, ..server(5, SynSent, Established) });
    script.socket(server(6, Established, Close));
    let (reported, closed) = reported_and_closed(&mut script);
    assert_eq!(reported[1], "5 client handshake completed in ?");
    assert!(!closed.partial, "it was established while monitored");
}

#[test]
fn what_the_kernel_reported_of_a_socket_wins_over_the_dump() {
    let mut script = Script::new();
    script.server_handshake(0);
    script.socket(server(10, Established, FinWait1));
    script.events();
    script.find(in_state(11, Established));
    script.socket(server(20, FinWait1, Close));
    assert_eq!(
        script.reported(),
        [
            "20 10.0.0.9:8899 10.0.0.5:51920 fin_wait1>close kernel after 10 ms",
            "20 server closed by local_reset after 16 ms, 100 out 50 in",
        ]
    );
    assert_eq!(script.tracker().sockets(), 0);
}

#[test]
fn a_socket_reported_without_a_cookie_and_found_with_one_is_one_socket() {
    let without = |input: SocketInput| SocketInput { cookie: 0, ..input };
    let mut script = Script::new();
    // No segment was seen: only the local and remote address show that it is the same socket.
    script.socket(without(server(1, SynRecv, Established)));
    script.find(in_state(2, Established));
    script.events();
    script.socket(server(10, Established, Close));
    assert_eq!(script.reported()[1], "10 server closed by local_reset after 9 ms, 100 out 50 in");
    assert_eq!(script.tracker().sockets(), 0, "the entry from the dump is removed with it");
}

#[test]
fn a_transition_between_the_dump_and_its_input_is_reported_unchanged() {
    let mut script = Script::new();
    // The dump read the socket after this transition, but has an earlier time.
    script.find(in_state(0, CloseWait));
    script.socket(server(1, Established, CloseWait).fin_received());
    script.socket(server(5, CloseWait, LastAck).fin_received());
    assert_eq!(
        script.reported(),
        [
            "1 10.0.0.9:8899 10.0.0.5:51920 established>close_wait kernel",
            "5 10.0.0.9:8899 10.0.0.5:51920 close_wait>last_ack kernel after 4 ms",
        ]
    );
}

#[test]
fn a_child_whose_handshake_is_reported_after_the_dump_is_not_partial() {
    let mut script = Script::new();
    script.find(in_state(0, Established));
    script.socket(server(1, Listen, SynRecv));
    script.socket(server(2, SynRecv, Established));
    script.socket(server(3, Established, Close));
    let (reported, closed) = reported_and_closed(&mut script);
    assert_eq!(reported.len(), 5, "{reported:#?}");
    assert_eq!(reported[0], "1 10.0.0.9:8899 10.0.0.5:51920 listen>syn_recv kernel");
    assert!(!closed.partial);
}

#[test]
fn time_wait_ends_when_the_timer_in_the_dump_expires() {
    let mut script = Script::new();
    script.find(timewait(0, true, 25_000));
    assert_eq!(script.tracker().next_deadline(), Some(at(25_000)));
    script.wait_until(30_000);
    assert_eq!(script.reported(), ["25000 10.0.0.9:8899 10.0.0.5:51920 time_wait>close timer"]);
    assert_eq!(script.tracker().sockets(), 0);
}

#[test]
fn timewait_sockets_found_in_any_order_end_in_order_of_expiry() {
    let mut script = Script::new();
    let from = |port: u16, left: u64| PresentSocket {
        cookie: port.into(),
        remote: (client_addr().ip(), port).into(),
        ..timewait(0, true, left)
    };
    script.find(from(1, 50_000));
    script.find(from(2, 10_000));
    script.find(from(3, 60_000));
    script.socket(server(20_000, FinWait2, Close).fin_acked().fin_received());
    script.events();
    script.wait_until(200_000);
    let ends: Vec<_> = script.events().iter().map(|event| event.time).collect();
    assert_eq!(ends, [at(50_000), at(60_000), at(80_000)], "the first expired before the transition");
}

#[test]
fn a_time_wait_from_a_dump_lasts_60_s_after_a_restart() {
    let mut script = Script::new();
    script.find(timewait(0, true, 5_000));
    script.segment(from_client(1_000, Flags::FIN.union(Flags::ACK), 51, 102));
    script.wait_until(200_000);
    assert_eq!(script.reported(), ["61000 10.0.0.9:8899 10.0.0.5:51920 time_wait>close timer"]);
}

#[test]
fn a_timewait_socket_with_an_overdue_timer_lasts_at_most_60_s() {
    let mut script = Script::new();
    script.find(timewait(0, true, u32::MAX.into()));
    assert_eq!(script.tracker().next_deadline(), Some(at(60_000)));
}

#[test]
fn a_timewait_socket_found_in_fin_wait2_enters_time_wait_with_the_peers_fin() {
    let mut script = Script::new();
    script.find(timewait(0, false, 25_000));
    script.segment(from_client(10, Flags::FIN.union(Flags::ACK), 51, 102));
    let (reported, closed) = reported_and_closed(&mut script);
    assert_eq!(
        reported,
        [
            "10 10.0.0.9:8899 10.0.0.5:51920 fin_wait2>time_wait segment",
            "10 server closed by local after ?, ? out ? in",
        ]
    );
    assert!(closed.partial);
}

#[test]
fn a_timewait_socket_found_before_the_close_of_its_socket_is_reported_is_one_socket() {
    for (found, input) in [
        (timewait(0, true, 60_000), server(1, FinWait2, Close).fin_acked().fin_received()),
        (timewait(0, false, 60_000), SocketInput { orphan: true, ..server(1, FinWait2, Close).fin_acked() }),
    ] {
        let mut script = Script::new();
        script.find(found);
        script.socket(input);
        assert!(!script.reported().iter().any(|line| line.contains(">close ")), "no TIME_WAIT ends");
        assert_eq!(script.tracker().sockets(), 1);
        script.wait_until(70_000);
        assert_eq!(script.tracker().sockets(), 0);
    }
}

#[test]
fn a_new_connection_from_the_addresses_of_a_found_timewait_socket_ends_it() {
    let mut script = Script::new();
    script.find(timewait(0, true, 60_000));
    script.socket(SocketInput { cookie: 99, ..server(5, Listen, SynRecv) });
    assert_eq!(script.reported()[0], "5 10.0.0.9:8899 10.0.0.5:51920 time_wait>close kernel");
}

#[test]
fn segments_change_no_state_of_a_found_socket() {
    let mut script = Script::inferring();
    script.find(in_state(0, Established));
    script.segment(from_server(5, Flags::FIN.union(Flags::ACK), 101, 51));
    script.socket(server(5, Established, FinWait1));
    let reported = script.reported();
    let ours: Vec<_> =
        reported.iter().filter(|line| line.contains(" 10.0.0.9:8899 10.0.0.5:51920 ")).collect();
    assert_eq!(ours, ["5 10.0.0.9:8899 10.0.0.5:51920 established>fin_wait1 kernel"], "{reported:#?}");
}

#[test]
fn both_ends_of_a_connection_may_be_in_the_dump() {
    let options = Options { infer_from: InferFrom::ControlSegments, ..Options::default() };
    let mut script = Script::with(options);
    script.find(in_state(0, CloseWait));
    script.find(PresentSocket {
        cookie: 72,
        role: Role::Client,
        local: client_addr(),
        remote: server_addr(),
        ..timewait(0, false, 9000)
    });
    script.socket(server(10, CloseWait, LastAck).fin_received());
    script.segment(from_server(11, Flags::FIN.union(Flags::ACK), 101, 52));
    assert_eq!(
        script.reported(),
        [
            "10 10.0.0.9:8899 10.0.0.5:51920 close_wait>last_ack kernel",
            "11 10.0.0.5:51920 10.0.0.9:8899 fin_wait2>time_wait segment",
            "11 client closed by local after ?, ? out ? in",
        ]
    );
}

#[test]
fn a_stuck_socket_is_reported_as_it_was_found() {
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

/// Its timewait socket.
fn timewait(ms: u64, peer_closed: bool, left_ms: u64) -> PresentSocket {
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

fn reported_and_closed(script: &mut Script) -> (Vec<String>, Closed) {
    let events = script.events();
    let Some(Event { kind: EventKind::Closed(closed), .. }) = events.last().cloned() else {
        panic!("{events:#?}")
    };
    let reported = events.iter().filter(|event| !matches!(event.kind, EventKind::Segment(_)));
    (reported.map(super::script::describe).collect(), closed)
}
