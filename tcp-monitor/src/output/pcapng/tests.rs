//! The comments of packets, and the file as this program reads it.

use std::io::Cursor;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::{Direction, Kind, ResetPhase, Role};

use super::pending::{HOLD, MAX_PENDING, Packet};
use super::{Context, EventSink, MAX_INTERFACES, Pcapng};
use crate::capture::Capture;
use crate::clock::{WallClock, WallTime};
use crate::lifecycle::event::{
    Closed, ClosedBy, Evidence, Handshake, Lost, Reset, Retransmit, Segment, StateChange, Step, Unexpected,
};
use crate::lifecycle::input::{ResetDirection, RetransmitKind};
use crate::lifecycle::{ConnectionId, End, Event, EventKind, Input, SegmentInput, Time};
use crate::output::{Names, NoNames, samples};

/// Events of a connection, each a microsecond after the one before.
struct Script {
    sink: Pcapng,
    clock: WallClock,
    now: Time,
}

impl Script {
    fn new() -> Self {
        Self {
            sink: Pcapng::default(),
            clock: WallClock::of_capture(),
            now: Time::from_nanos(3_600_000_000_000),
        }
    }

    fn then(&mut self, event: impl FnOnce(Time) -> Event) -> &mut Self {
        self.now = self.now + Duration::from_micros(1);
        self.and(event)
    }

    /// Another event of the same moment.
    fn and(&mut self, event: impl FnOnce(Time) -> Event) -> &mut Self {
        let context = Context::new(&self.clock, &NoNames);
        self.sink.event(&event(self.now), &context, &mut Vec::new());
        self
    }

    fn client_sends(&mut self, step: Step) -> &mut Self {
        self.then(segment(Role::Client, step))
    }

    fn server_sends(&mut self, step: Step) -> &mut Self {
        self.then(segment(Role::Server, step))
    }

    /// Each packet's step, and the first word of each of its comments.
    fn packets(&mut self) -> Vec<(Step, String)> {
        let end = Time::from_nanos(u64::MAX);
        std::iter::from_fn(|| self.sink.pop(end))
            .map(|packet| (packet.segment.step, labels(&packet)))
            .collect()
    }
}

/// The first word of each comment.
fn labels(packet: &Packet) -> String {
    let words: Vec<_> = packet.comments.iter().filter_map(|comment| comment.split(' ').next()).collect();
    words.join(" ")
}

fn client() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 5], 51920))
}

fn server() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 9], 8899))
}

/// An event at the end with this role.
fn at_end(role: Role, time: Time, kind: EventKind) -> Event {
    let end = match role {
        Role::Client => End::First,
        Role::Server => End::Second,
    };
    let connection = NonZeroU64::new(1).map(ConnectionId::new);
    Event { connection, end: Some(end), ..Event::new(time, kind) }
}

fn segment(from: Role, step: Step) -> impl FnOnce(Time) -> Event {
    let (src, dst) = ends(from);
    sent(from, Segment { src, dst, step, ..samples::syn() })
}

fn sent(from: Role, segment: Segment) -> impl FnOnce(Time) -> Event {
    move |time| at_end(from, time, EventKind::Segment(segment))
}

fn ends(role: Role) -> (SocketAddr, SocketAddr) {
    match role {
        Role::Client => (client(), server()),
        Role::Server => (server(), client()),
    }
}

fn state(role: Role, from: TcpState, to: TcpState, evidence: Evidence) -> impl FnOnce(Time) -> Event {
    let (local, remote) = ends(role);
    let (seq, ack, process, spent) = (None, None, None, None);
    let remote = Some(remote);
    let change =
        StateChange { local, remote, role, from, to, seq, ack, evidence, process, state_duration: spent };
    move |time| at_end(role, time, EventKind::State(change))
}

fn changes(role: Role, from: TcpState, to: TcpState) -> impl FnOnce(Time) -> Event {
    state(role, from, to, Evidence::Kernel)
}

fn handshake(role: Role, result: Result<(), HandshakeFailure>) -> impl FnOnce(Time) -> Event {
    let (local, remote) = ends(role);
    let (duration, syn_retransmits) = (None, None);
    let handshake = Handshake { local, remote, role, result, duration, syn_retransmits };
    move |time| at_end(role, time, EventKind::Handshake(handshake))
}

fn closed(role: Role, closed_by: ClosedBy) -> impl FnOnce(Time) -> Event {
    let (local, remote) = ends(role);
    let closed = Closed {
        local,
        remote,
        role,
        closed_by,
        duration: None,
        bytes_sent: None,
        bytes_received: None,
        retransmits: None,
        rtt_us: None,
        process: None,
        partial: false,
        states: Vec::new(),
    };
    move |time| at_end(role, time, EventKind::Closed(closed))
}

fn reset(role: Role, direction: ResetDirection) -> impl FnOnce(Time) -> Event {
    let (local, remote) = ends(role);
    let (remote, phase, reason, seq, ack) = (Some(remote), ResetPhase::Established, "unknown", None, None);
    let reset = Reset { local, remote, direction, phase, reason, seq, ack };
    move |time| at_end(role, time, EventKind::Reset(reset))
}

fn retransmit(role: Role, kind: RetransmitKind) -> impl FnOnce(Time) -> Event {
    let (local, remote) = ends(role);
    let retransmit = Retransmit { local, remote, kind, state: TcpState::SynSent };
    move |time| at_end(role, time, EventKind::Retransmit(retransmit))
}

/// The segments of a file.
fn read(file: Vec<u8>) -> Vec<SegmentInput> {
    let capture = Capture::read(Cursor::new(file)).expect("a capture");
    let segments = capture.map(|input| {
        let Ok(Input::Segment(segment)) = input else { panic!("{input:?} is no segment") };
        segment
    });
    segments.collect()
}

#[test]
fn the_reader_of_captures_finds_what_was_recorded() {
    struct Eth;
    impl Names for Eth {
        fn interface(&self, _: u32, ifindex: u32) -> Option<String> {
            (ifindex == 7).then(|| "eth0".to_owned())
        }

        fn netns(&self, _: u32) -> Option<String> {
            None
        }
    }
    let v6 = Segment {
        src: "[fd00::5]:51920".parse().expect("an address"),
        dst: "[fd00::9]:8899".parse().expect("an address"),
        ifindex: 7,
        direction: None,
        ..samples::syn()
    };
    let last = Time::from_nanos(u64::MAX);
    let events = [samples::connection(), vec![Event::new(last, EventKind::Segment(v6))]].concat();

    let clock = WallClock::of_capture();
    let context = Context::new(&clock, &Eth);
    let (mut sink, mut file) = (Pcapng::default(), Vec::new());
    Pcapng::begin(&mut file);
    for event in &events {
        sink.event(event, &context, &mut file);
    }
    sink.finish(&context, &mut file);
    assert!(file.windows(4).any(|bytes| bytes == b"eth0"));

    let recorded: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::Segment(segment) => Some((event.time, *segment)),
            EventKind::State(_)
            | EventKind::Handshake(_)
            | EventKind::Reset(_)
            | EventKind::Retransmit(_)
            | EventKind::Closed(_)
            | EventKind::Lost(_)
            | EventKind::Stuck(_) => None,
        })
        .collect();
    let read = read(file);
    assert_eq!(read.len(), recorded.len());
    for (packet, (time, segment)) in read.iter().zip(&recorded) {
        // The ports of the samples' headers are not always those of their addresses; a packet has
        // only the header's.
        assert_eq!((packet.src.ip(), packet.dst.ip()), (segment.src.ip(), segment.dst.ip()));
        assert_eq!((packet.time, packet.direction), (*time, segment.direction));
        assert_eq!((packet.header, packet.payload_len), (segment.header, segment.payload_len));
        assert_eq!(packet.ifindex & 0xffff, u32::from(segment.ifindex == 7));
    }
}

#[test]
fn a_step_of_the_wall_clock_delays_no_packet_and_changes_no_order() {
    const START: u64 = 1_800_000_000_000_000_000;
    for step in [3_600, -3_600, 120, -120_i64] {
        let step = step * 1_000_000_000;
        let mut script = Script::new();
        let begin = script.now;
        script.clock = WallClock::new(begin, WallTime::from_unix_nanos(START));
        let mut written = Vec::new();
        for second in 0..10_u64 {
            script.now = begin + Duration::from_secs(second);
            if second == 5 {
                let wall = (START + 5_000_000_000).saturating_add_signed(step);
                script.clock.set(script.now, WallTime::from_unix_nanos(wall));
            }
            script.client_sends(Step::Syn).and(retransmit(Role::Client, RetransmitKind::Syn));
            assert_eq!(script.sink.pop(script.now + HOLD - Duration::from_nanos(1)), None);
            written.extend(script.sink.pop(script.now + HOLD));
        }
        let times: Vec<_> = written.iter().map(|packet| packet.time.as_unix_nanos()).collect();
        let expected: Vec<_> = (0..10)
            .map(|second| START + second * 1_000_000_000 + 1_000)
            .enumerate()
            .map(|(second, wall)| if second < 5 { wall } else { wall.saturating_add_signed(step) })
            .collect();
        assert_eq!(times, expected);
        assert!(written.iter().all(|packet| labels(packet) == "RETRANS"));
    }
}

#[test]
fn what_follows_from_a_segment_is_noted_on_it_at_both_ends() {
    use TcpState::{
        Close, CloseWait, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent, TimeWait,
    };
    let (c, s) = (Role::Client, Role::Server);
    let packets = Script::new()
        .then(changes(c, Close, SynSent))
        .client_sends(Step::Syn)
        .server_sends(Step::SynAck)
        .then(changes(c, SynSent, Established))
        .and(handshake(c, Ok(())))
        .client_sends(Step::HandshakeAck)
        .then(changes(s, Listen, SynRecv))
        .then(changes(s, SynRecv, Established))
        .and(handshake(s, Ok(())))
        .then(changes(c, Established, FinWait1))
        .client_sends(Step::Fin)
        .then(changes(s, Established, CloseWait))
        .server_sends(Step::FinAck)
        .then(changes(c, FinWait1, FinWait2))
        .then(changes(s, CloseWait, LastAck))
        .server_sends(Step::Fin)
        .then(changes(c, FinWait2, TimeWait))
        .and(closed(c, ClosedBy::Local))
        .client_sends(Step::FinAck)
        .then(changes(s, LastAck, Close))
        .and(closed(s, ClosedBy::Remote))
        .packets();
    let expected = [
        (Step::Syn, "STATE"),
        // The transition that completes a handshake is part of the line OPEN.
        (Step::SynAck, "OPEN"),
        (Step::HandshakeAck, "STATE OPEN"),
        (Step::Fin, "STATE STATE"),
        (Step::FinAck, "STATE"),
        (Step::Fin, "STATE STATE CLOSED"),
        (Step::FinAck, "STATE CLOSED"),
    ];
    assert_eq!(packets, expected.map(|(step, labels)| (step, labels.to_owned())));
}

#[test]
fn an_abort_is_noted_on_the_rst_that_follows_or_went_before() {
    let (c, s) = (Role::Client, Role::Server);
    let abort = |script: &mut Script, by| {
        script.then(changes(c, TcpState::Established, TcpState::Close)).and(closed(c, by));
    };
    // close() with data unread: the state is left before the RST is sent.
    let mut script = Script::new();
    script.client_sends(Step::HandshakeAck);
    abort(&mut script, ClosedBy::LocalReset);
    let packets = script
        .client_sends(Step::Rst)
        .then(reset(s, ResetDirection::Received))
        .then(changes(s, TcpState::Established, TcpState::Close))
        .and(closed(s, ClosedBy::RemoteReset))
        .then(reset(c, ResetDirection::Sent))
        .packets();
    let none = String::new();
    assert_eq!(
        packets,
        [(Step::HandshakeAck, none.clone()), (Step::Rst, "STATE CLOSED RESET STATE CLOSED RESET".to_owned())]
    );

    // ss -K: it is left after.
    let mut script = Script::new();
    script.client_sends(Step::HandshakeAck).client_sends(Step::Rst);
    abort(&mut script, ClosedBy::Killed);
    assert_eq!(script.packets(), [(Step::HandshakeAck, none), (Step::Rst, "STATE CLOSED".to_owned())]);
}

#[test]
fn a_refusal_is_noted_on_the_rst() {
    let packets = Script::new()
        .client_sends(Step::Syn)
        .then(reset(Role::Server, ResetDirection::Sent))
        .server_sends(Step::Rst)
        .then(reset(Role::Client, ResetDirection::Received))
        .then(changes(Role::Client, TcpState::SynSent, TcpState::Close))
        .and(handshake(Role::Client, Err(HandshakeFailure::Refused)))
        .packets();
    assert_eq!(packets, [(Step::Syn, String::new()), (Step::Rst, "RESET RESET FAILED".to_owned())]);
}

#[test]
fn a_retransmitted_or_unexpected_segment_has_a_comment() {
    let mut script = Script::new();
    let again = Segment { retransmission: true, ..samples::syn() };
    script.client_sends(Step::Syn).then(sent(Role::Client, again));
    script
        .then(retransmit(Role::Client, RetransmitKind::Syn))
        .then(retransmit(Role::Client, RetransmitKind::Data));
    let unexpected = Some(Unexpected::OutOfWindow);
    script.then(sent(Role::Client, Segment { unexpected, ..samples::syn() }));
    let packets = script.packets();
    // Data is not recorded, so retransmitted data has no packet.
    let expected = ["", "SYN RETRANS", "SYN"].map(|labels| (Step::Syn, labels.to_owned()));
    assert_eq!(packets, expected);
}

#[test]
fn inferred_transitions_are_comments_on_the_segment_and_timeouts_are_left_out() {
    let (c, s) = (Role::Client, Role::Server);
    let packets = Script::new()
        .client_sends(Step::Fin)
        .then(state(s, TcpState::FinWait2, TcpState::TimeWait, Evidence::Segment))
        .and(closed(s, ClosedBy::Local))
        .then(state(c, TcpState::Established, TcpState::FinWait1, Evidence::Segment))
        .then(state(s, TcpState::TimeWait, TcpState::Close, Evidence::Timer))
        .packets();
    assert_eq!(packets, [(Step::Fin, "STATE CLOSED STATE".to_owned())]);
}

#[test]
fn lost_records_are_noted_on_the_last_packet() {
    let lost = |time| Event::new(time, EventKind::Lost(Lost { kind: Kind::Segment, count: 3 }));
    let packets = Script::new().client_sends(Step::Syn).server_sends(Step::SynAck).then(lost).packets();
    assert_eq!(packets, [(Step::Syn, String::new()), (Step::SynAck, "LOST".to_owned())]);
    assert_eq!(Script::new().then(lost).packets(), []);
}

#[test]
fn what_comes_too_late_or_of_another_connection_is_on_no_packet() {
    let mut script = Script::new();
    script.client_sends(Step::Syn);
    assert_eq!(script.sink.pop(script.now + HOLD - Duration::from_nanos(1)), None);
    assert!(script.sink.pop(script.now + HOLD).is_some());
    // Its packet is gone, and no other gets its comment; nor does one that comes later than
    // announced.
    script.then(handshake(Role::Client, Err(HandshakeFailure::TimedOut))).then(changes(
        Role::Client,
        TcpState::Close,
        TcpState::SynSent,
    ));
    script.now = script.now + HOLD;
    assert_eq!(script.sink.pop(script.now), None);
    // The same addresses, in another namespace.
    let other = NonZeroU64::new(2).map(ConnectionId::new);
    let of_other = |time| Event { connection: other, ..segment(Role::Client, Step::Syn)(time) };
    script.client_sends(Step::Syn).then(of_other);
    script.then(reset(Role::Server, ResetDirection::Received));
    let packets = script.packets();
    assert_eq!(packets, [(Step::Syn, "RESET".to_owned()), (Step::Syn, String::new())]);
}

#[test]
fn a_burst_is_not_held_but_for_its_end() {
    let mut script = Script::new();
    let mut out = Vec::new();
    for _ in 0..2 * MAX_PENDING {
        // Announcements that no packet follows are as many.
        script.then(changes(Role::Server, TcpState::Established, TcpState::FinWait1)).client_sends(Step::Syn);
        out.extend(script.sink.pop(script.now));
    }
    assert_eq!(out.len(), MAX_PENDING);
    assert!(script.sink.pending.len() <= (MAX_PENDING, MAX_PENDING), "{:?}", script.sink.pending.len());
    assert_eq!(script.packets().len(), MAX_PENDING);
    assert_eq!(script.sink.pending.len(), (0, 0));
}

#[test]
fn more_interfaces_than_a_section_has_begin_another() {
    let clock = WallClock::of_capture();
    let context = Context::new(&clock, &NoNames);
    let (mut sink, mut file) = (Pcapng::default(), Vec::new());
    Pcapng::begin(&mut file);
    let count = MAX_INTERFACES as u32 + 2;
    for netns in 0..count {
        let segment = Segment { direction: Some(Direction::Egress), ..samples::syn() };
        let (time, comments) = (WallTime::default(), Vec::new());
        sink.write(&Packet { time, netns, segment, comments }, &context, &mut file);
    }
    let interfaces = read(file).into_iter().map(|packet| packet.ifindex & 0x00ff_ffff);
    assert!(interfaces.eq(0..count));
}
