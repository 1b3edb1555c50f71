//! Events in, the file out: read again by this program's own reader of captures, and which comment is on which packet.

use std::collections::VecDeque;
use std::io::Cursor;
use std::net::SocketAddr;
use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::{Direction, Kind, ResetPhase, Role};

use super::held::{HOLD, MAX_HELD};
use super::{Annotated, MAX_INTERFACES, Pcapng};
use crate::capture::Capture;
use crate::lifecycle::event::{
    Closed, ClosedBy, Evidence, Handshake, Lost, Reset, Retransmit, Segment, StateChange, Step, Unexpected,
};
use crate::lifecycle::input::{ResetDirection, RetransmitKind};
use crate::lifecycle::{Event, EventKind, Time};
use crate::output::samples;

/// Two ends of a connection and a time that each event moves on by a microsecond.
struct Story {
    sink: Pcapng,
    now: Time,
}

impl Story {
    fn new() -> Self {
        Self { sink: Pcapng::new(|_, _| None), now: Time::from_nanos(1_000_000_000) }
    }

    fn tell(&mut self, event: impl FnOnce(Time) -> Event) -> &mut Self {
        self.now = self.now + Duration::from_micros(1);
        self.sink.take(&event(self.now));
        self
    }

    /// Another event of the same moment.
    fn and(&mut self, event: impl FnOnce(Time) -> Event) -> &mut Self {
        self.sink.take(&event(self.now));
        self
    }

    fn client_sends(&mut self, step: Step) -> &mut Self {
        self.tell(|time| segment(time, client(), server(), step))
    }

    fn server_sends(&mut self, step: Step) -> &mut Self {
        self.tell(|time| segment(time, server(), client(), step))
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
fn labels(packet: &Annotated) -> String {
    let words: Vec<_> = packet.comments.iter().filter_map(|comment| comment.split(' ').next()).collect();
    words.join(" ")
}

fn client() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 5], 51920))
}

fn server() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 9], 8899))
}

fn segment(time: Time, src: SocketAddr, dst: SocketAddr, step: Step) -> Event {
    Event::new(time, EventKind::Segment(Segment { src, dst, step, ..samples::syn() }))
}

fn ends(role: Role) -> (SocketAddr, SocketAddr) {
    match role {
        Role::Client => (client(), server()),
        Role::Server => (server(), client()),
    }
}

fn state(role: Role, from: TcpState, to: TcpState, evidence: Evidence) -> impl FnOnce(Time) -> Event {
    let (local, remote) = ends(role);
    move |time| {
        let change = EventKind::State(StateChange {
            local,
            remote: Some(remote),
            role,
            from,
            to,
            seq: None,
            ack: None,
            evidence,
            process: None,
            spent: None,
        });
        Event::new(time, change)
    }
}

fn changes(role: Role, from: TcpState, to: TcpState) -> impl FnOnce(Time) -> Event {
    state(role, from, to, Evidence::Kernel)
}

fn handshake(role: Role, result: Result<(), HandshakeFailure>) -> impl FnOnce(Time) -> Event {
    let (local, remote) = ends(role);
    let (duration, syn_retransmits) = (None, None);
    move |time| {
        let handshake = Handshake { local, remote, role, result, duration, syn_retransmits };
        Event::new(time, EventKind::Handshake(handshake))
    }
}

fn closed(role: Role, closed_by: ClosedBy) -> impl FnOnce(Time) -> Event {
    let (local, remote) = ends(role);
    move |time| {
        let closed = EventKind::Closed(Closed {
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
        });
        Event::new(time, closed)
    }
}

fn reset(role: Role, direction: ResetDirection) -> impl FnOnce(Time) -> Event {
    let (local, remote) = ends(role);
    let (remote, phase, reason, seq, ack) = (Some(remote), ResetPhase::Established, "unknown", None, None);
    let reset = Reset { local, remote, direction, phase, reason, seq, ack };
    move |time| Event::new(time, EventKind::Reset(reset))
}

fn again(role: Role, kind: RetransmitKind) -> impl FnOnce(Time) -> Event {
    let (local, remote) = ends(role);
    let again = Retransmit { local, remote, kind, state: TcpState::SynSent };
    move |time| Event::new(time, EventKind::Retransmit(again))
}

#[test]
fn the_reader_of_captures_finds_what_was_recorded() {
    let v6 = Segment {
        src: "[fd00::5]:51920".parse().expect("an address"),
        dst: "[fd00::9]:8899".parse().expect("an address"),
        ifindex: 7,
        direction: None,
        ..samples::syn()
    };
    let mut recorded: Vec<(Time, Segment)> = samples::connection()
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
    recorded.push((Time::from_nanos(u64::MAX), v6));

    let mut sink = Pcapng::new(|_, ifindex| (ifindex == 7).then(|| "eth0".to_owned()));
    let mut file = Vec::new();
    Pcapng::begin(&mut file);
    for &(time, segment) in &recorded {
        let comments = vec!["Grüße".to_owned(), String::new()];
        sink.write(&Annotated { time, netns: 2, segment, comments }, &mut file);
    }
    let read: Vec<_> =
        Capture::read(Cursor::new(file)).expect("a capture").map(|packet| packet.expect("whole")).collect();
    assert_eq!(read.len(), recorded.len());
    for (packet, (time, segment)) in read.iter().zip(&recorded) {
        // The ports of the samples' headers are not always those of their addresses; a packet has only the header's.
        assert_eq!((packet.src.ip(), packet.dst.ip()), (segment.src.ip(), segment.dst.ip()));
        assert_eq!((packet.time, packet.direction), (*time, segment.direction));
        assert_eq!((packet.header, packet.payload_len), (segment.header, segment.payload_len));
        assert_eq!(packet.interface, u32::from(segment.ifindex == 7));
    }
}

#[test]
fn what_follows_from_a_segment_is_noted_on_it_at_both_ends() {
    use TcpState::{
        Close, CloseWait, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent, TimeWait,
    };
    let (c, s) = (Role::Client, Role::Server);
    let packets = Story::new()
        .tell(changes(c, Close, SynSent))
        .client_sends(Step::Syn)
        .server_sends(Step::SynAck)
        .tell(changes(c, SynSent, Established))
        .and(handshake(c, Ok(())))
        .client_sends(Step::HandshakeAck)
        .tell(changes(s, Listen, SynRecv))
        .tell(changes(s, SynRecv, Established))
        .and(handshake(s, Ok(())))
        .tell(changes(c, Established, FinWait1))
        .client_sends(Step::Fin)
        .tell(changes(s, Established, CloseWait))
        .server_sends(Step::FinAck)
        .tell(changes(c, FinWait1, FinWait2))
        .tell(changes(s, CloseWait, LastAck))
        .server_sends(Step::Fin)
        .tell(changes(c, FinWait2, TimeWait))
        .and(closed(c, ClosedBy::Local))
        .client_sends(Step::FinAck)
        .tell(changes(s, LastAck, Close))
        .and(closed(s, ClosedBy::Remote))
        .packets();
    let expected = [
        (Step::Syn, "STATE"),
        // The transition that completes a handshake is told in the line OPEN.
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
    let abort = |story: &mut Story, by| {
        story.tell(changes(c, TcpState::Established, TcpState::Close)).and(closed(c, by));
    };
    // close() with data unread: the state is left before the RST is sent.
    let mut story = Story::new();
    story.client_sends(Step::HandshakeAck);
    abort(&mut story, ClosedBy::LocalReset);
    let packets = story
        .client_sends(Step::Rst)
        .tell(reset(s, ResetDirection::Received))
        .tell(changes(s, TcpState::Established, TcpState::Close))
        .and(closed(s, ClosedBy::RemoteReset))
        .tell(reset(c, ResetDirection::Sent))
        .packets();
    let none = String::new();
    assert_eq!(
        packets,
        [(Step::HandshakeAck, none.clone()), (Step::Rst, "STATE CLOSED RESET STATE CLOSED RESET".to_owned())]
    );

    // ss -K: it is left after.
    let mut story = Story::new();
    story.client_sends(Step::HandshakeAck).client_sends(Step::Rst);
    abort(&mut story, ClosedBy::Killed);
    assert_eq!(story.packets(), [(Step::HandshakeAck, none), (Step::Rst, "STATE CLOSED".to_owned())]);
}

#[test]
fn a_refusal_is_noted_on_the_rst() {
    let packets = Story::new()
        .client_sends(Step::Syn)
        .tell(reset(Role::Server, ResetDirection::Sent))
        .server_sends(Step::Rst)
        .tell(reset(Role::Client, ResetDirection::Received))
        .tell(changes(Role::Client, TcpState::SynSent, TcpState::Close))
        .and(handshake(Role::Client, Err(HandshakeFailure::Refused)))
        .packets();
    assert_eq!(packets, [(Step::Syn, String::new()), (Step::Rst, "RESET RESET FAILED".to_owned())]);
}

#[test]
fn a_segment_sent_again_or_unexpected_says_so() {
    let mut story = Story::new();
    story.client_sends(Step::Syn).tell(|time| {
        Event::new(time, EventKind::Segment(Segment { retransmission: true, ..samples::syn() }))
    });
    story.tell(again(Role::Client, RetransmitKind::Syn)).tell(again(Role::Client, RetransmitKind::Data));
    story.tell(|time| {
        let unexpected = Some(Unexpected::OutOfWindow);
        Event::new(time, EventKind::Segment(Segment { unexpected, ..samples::syn() }))
    });
    let packets = story.packets();
    // Data is not recorded, so of data sent again there is no packet.
    let expected = ["", "SYN AGAIN", "SYN"].map(|labels| (Step::Syn, labels.to_owned()));
    assert_eq!(packets, expected);
}

#[test]
fn inferred_transitions_are_noted_on_the_segment_and_those_of_the_clock_nowhere() {
    let (c, s) = (Role::Client, Role::Server);
    let packets = Story::new()
        .client_sends(Step::Fin)
        .tell(state(s, TcpState::FinWait2, TcpState::TimeWait, Evidence::Segment))
        .and(closed(s, ClosedBy::Local))
        .tell(state(c, TcpState::Established, TcpState::FinWait1, Evidence::Segment))
        .tell(state(s, TcpState::TimeWait, TcpState::Close, Evidence::Timer))
        .packets();
    assert_eq!(packets, [(Step::Fin, "STATE CLOSED STATE".to_owned())]);
}

#[test]
fn lost_records_are_noted_on_the_last_packet() {
    let lost = |time| Event::new(time, EventKind::Lost(Lost { kind: Kind::Segment, count: 3 }));
    let packets = Story::new().client_sends(Step::Syn).server_sends(Step::SynAck).tell(lost).packets();
    assert_eq!(packets, [(Step::Syn, String::new()), (Step::SynAck, "LOST".to_owned())]);
    assert_eq!(Story::new().tell(lost).packets(), []);
}

#[test]
fn what_comes_too_late_or_of_another_connection_is_on_no_packet() {
    let mut story = Story::new();
    story.client_sends(Step::Syn);
    assert_eq!(story.sink.pop(story.now + HOLD - Duration::from_nanos(1)), None);
    assert!(story.sink.pop(story.now + HOLD).is_some());
    // Its packet is gone, and no other gets its comment; nor does one that comes later than announced.
    story.tell(handshake(Role::Client, Err(HandshakeFailure::TimedOut))).tell(changes(
        Role::Client,
        TcpState::Close,
        TcpState::SynSent,
    ));
    story.now = story.now + HOLD;
    assert_eq!(story.sink.pop(story.now), None);
    let other = SocketAddr::from(([10, 0, 0, 6], 51920));
    story.client_sends(Step::Syn).tell(|time| segment(time, other, server(), Step::Syn));
    story.tell(reset(Role::Server, ResetDirection::Received));
    let packets = story.packets();
    assert_eq!(packets, [(Step::Syn, "RESET".to_owned()), (Step::Syn, String::new())]);
}

#[test]
fn a_burst_is_not_held_but_for_its_end() {
    let mut story = Story::new();
    let mut out = VecDeque::new();
    for _ in 0..2 * MAX_HELD {
        // Announcements that no packet follows are as many.
        story.tell(changes(Role::Server, TcpState::Established, TcpState::FinWait1)).client_sends(Step::Syn);
        out.extend(story.sink.pop(story.now));
    }
    assert_eq!(out.len(), MAX_HELD);
    assert!(story.sink.held.len() <= (MAX_HELD, MAX_HELD), "{:?}", story.sink.held.len());
    assert_eq!(story.packets().len(), MAX_HELD);
    assert_eq!(story.sink.held.len(), (0, 0));
}

#[test]
fn more_interfaces_than_a_section_has_begin_another() {
    let mut sink = Pcapng::new(|_, _| None);
    let mut file = Vec::new();
    Pcapng::begin(&mut file);
    let count = MAX_INTERFACES as u32 + 2;
    for netns in 0..count {
        let segment = Segment { direction: Some(Direction::Egress), ..samples::syn() };
        let time = Time::default();
        sink.write(&Annotated { time, netns, segment, comments: Vec::new() }, &mut file);
    }
    let packets = Capture::read(Cursor::new(file)).expect("a capture");
    let interfaces: Vec<_> = packets.map(|packet| packet.expect("whole").interface).collect();
    assert!(interfaces.into_iter().eq(0..count));
}
