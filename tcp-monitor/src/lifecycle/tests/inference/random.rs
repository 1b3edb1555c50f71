//! Whatever segments come in, in whatever order: states are legal, and each life ends once.

use std::collections::HashMap;
use std::net::SocketAddr;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::Direction;

use super::wire::Wire;
use crate::lifecycle::event::Handshake;
use crate::lifecycle::segment::Flags;
use crate::lifecycle::tests::random::Random;
use crate::lifecycle::tests::script::{from_client, from_server};
use crate::lifecycle::{Event, InferFrom, Options, SegmentInput, Time};

/// What was told of each end: its state, and whether its end was told.
#[derive(Default)]
struct Judge {
    lives: HashMap<(SocketAddr, SocketAddr), Life>,
    last: Option<Time>,
    /// An end may be told late, and states be left out then.
    may_skip: bool,
}

struct Life {
    state: TcpState,
    /// Its handshake failed, or its connection was closed.
    is_over: bool,
}

impl Judge {
    fn hear(&mut self, events: Vec<Event>) {
        for event in events {
            assert!(self.last.is_none_or(|last| last <= event.time()), "time went back: {event:?}");
            self.last = Some(event.time());
            match event {
                Event::State(change) => {
                    let Some(remote) = change.remote else { panic!("{change:?}") };
                    let before = Life { state: TcpState::Close, is_over: true };
                    let life = self.lives.entry((change.local, remote)).or_insert(before);
                    if life.state == TcpState::Close {
                        // A new life begins, met in its course or not.
                        assert!(life.is_over, "a life ended without a word: {change:?}");
                        *life = Life { state: change.from, is_over: false };
                    }
                    assert_eq!(life.state, change.from, "{change:?}");
                    let (from, to) = (change.from, change.to);
                    let is_right = is_legal(from, to) || self.may_skip && leads_to(from, to);
                    assert!(is_right, "{change:?}");
                    life.state = change.to;
                }
                // Where nobody listens there is no life.
                Event::Handshake(Handshake { result: Err(HandshakeFailure::NoListener), .. }) => {}
                Event::Handshake(handshake) if handshake.result.is_err() => {
                    self.end(handshake.local, handshake.remote);
                }
                Event::Closed(closed) => self.end(closed.local, closed.remote),
                Event::Segment(_)
                | Event::Handshake(_)
                | Event::Reset(_)
                | Event::Retransmit(_)
                | Event::Lost(_)
                | Event::Stuck(_) => {}
            }
        }
    }

    fn end(&mut self, local: SocketAddr, remote: SocketAddr) {
        let Some(life) = self.lives.get_mut(&(local, remote)) else { panic!("{local} was never told of") };
        assert!(!life.is_over, "{local} ended twice");
        assert!(matches!(life.state, TcpState::Close | TcpState::TimeWait), "{}", life.state);
        life.is_over = true;
    }
}

/// The transitions of RFC 9293, figure 5, and those that a RST, a timer or a lost segment adds.
fn is_legal(from: TcpState, to: TcpState) -> bool {
    use TcpState as S;
    let next: &[S] = match from {
        S::Close => &[S::SynSent],
        S::Listen => &[S::SynRecv],
        S::SynSent => &[S::SynRecv, S::Established, S::Close],
        S::SynRecv => &[S::Established, S::FinWait1, S::CloseWait, S::Close],
        S::Established => &[S::FinWait1, S::CloseWait, S::Close],
        S::FinWait1 => &[S::FinWait2, S::Closing, S::Close],
        S::FinWait2 => &[S::TimeWait, S::Close],
        S::CloseWait => &[S::LastAck, S::Close],
        S::Closing => &[S::TimeWait, S::Close],
        S::LastAck | S::TimeWait => &[S::Close],
        S::NewSynRecv => &[],
    };
    next.contains(&to)
}

/// Whether there is a way from one state to another.
fn leads_to(from: TcpState, to: TcpState) -> bool {
    let (mut reached, mut known) = (vec![from], 0);
    while known < reached.len() {
        let state = reached[known];
        let next = TcpState::ALL.into_iter().filter(|next| is_legal(state, *next));
        let new: Vec<_> = next.filter(|next| !reached.contains(next)).collect();
        reached.extend(new);
        known += 1;
    }
    reached.contains(&to)
}

/// Segments of a few connections: some follow from the last, some are nonsense.
struct Noise {
    random: Random,
    /// What each end of each connection sent last: next sequence number.
    next: [[u32; 2]; PORTS],
}

const PORTS: usize = 6;

impl Noise {
    fn segment(&mut self) -> SegmentInput {
        let random = &mut self.random;
        let (port, sender) = (random.below(6) as usize, random.below(2) as usize);
        let sane = !random.once_in(8);
        let flags = match random.below(12) {
            0 => Flags::SYN,
            1 | 2 => Flags::SYN.union(Flags::ACK),
            3 | 4 => Flags::FIN.union(Flags::ACK),
            5 if random.once_in(4) => Flags::RST,
            6 => u8::try_from(random.below(256)).map(Flags::from_low_byte).unwrap_or_default(),
            _ => Flags::ACK,
        };
        let len = if random.once_in(3) { random.below(3) * 10 } else { 0 };
        let next = &mut self.next[port];
        if flags.contains(Flags::SYN) && !flags.contains(Flags::ACK) && random.once_in(2) {
            next[sender] = random.below(1 << 20);
        }
        let (mut seq, mut ack) = (next[sender], next[1 - sender]);
        if !sane {
            seq = seq.wrapping_add(random.below(400)).wrapping_sub(200);
            ack = ack.wrapping_add(random.below(1 << 30) << 2);
        } else if random.once_in(6) {
            seq = seq.wrapping_sub(len);
        } else {
            let control = u32::from(flags.contains(Flags::SYN)) + u32::from(flags.contains(Flags::FIN));
            next[sender] = seq.wrapping_add(len + control);
        }
        let from = if sender == 0 { from_client } else { from_server };
        let mut segment = SegmentInput { payload_len: len, ..from(0, flags, 0, 0) };
        (segment.header.seq, segment.header.ack) = (seq, ack);
        let port = 1000 + u16::try_from(port).unwrap_or_default();
        if sender == 0 {
            segment.src.set_port(port);
        } else {
            segment.dst.set_port(port);
        }
        if self.random.once_in(300) {
            segment.dst = segment.src;
        }
        segment
    }
}

#[test]
fn every_life_ends_once_or_goes_on() {
    let mut wire = Wire::new();
    let mut noise = Noise { random: Random::new(0x9e37_79b9_7f4a_7c15), next: [[0; 2]; PORTS] };
    let (mut judge, mut now, mut closed) = (Judge::default(), 0, 0);
    for _ in 0..200_000 {
        let pause = match noise.random.below(500) {
            0 => 9_000_000,
            1..=9 => 20_000,
            _ => 5,
        };
        now += u64::from(noise.random.below(pause));
        wire.wait_until(now);
        let segment = noise.segment();
        wire.see(segment);
        now += 1;
        let events = wire.events();
        closed += events.iter().filter(|event| matches!(event, Event::Closed(_))).count();
        judge.hear(events);
        assert!(wire.tracker().inferred() <= 3 * PORTS);
    }
    assert!(closed > 1_000, "the noise closes nothing: {closed}");
    wire.wait_until(now + 20_000_000);
    judge.hear(wire.events());
    assert_eq!((wire.tracker().inferred(), wire.tracker().next_deadline()), (0, None));
    assert!(judge.lives.values().all(|life| life.is_over && life.state == TcpState::Close));
}

/// A running agent sees the same noise from several places, and no data.
#[test]
fn on_a_running_agent_every_life_that_is_told_ends_once_or_goes_on() {
    let mut wire = Wire::with(Options { infer_from: InferFrom::ControlSegments, ..Options::default() });
    let mut noise = Noise { random: Random::new(0x2545_f491_4f6c_dd1d), next: [[0; 2]; PORTS] };
    let mut judge = Judge { may_skip: true, ..Judge::default() };
    let (mut now, mut closed) = (0, 0);
    for _ in 0..60_000 {
        let pause = match noise.random.below(500) {
            0 => 300_000,
            1..=9 => 20_000,
            _ => 5,
        };
        now += u64::from(noise.random.below(pause));
        wire.wait_until(now);
        let mut segment = noise.segment();
        let is_from_client = segment.src.port() < segment.dst.port();
        segment.acks_syn_ack = noise.random.once_in(2);
        segment.acks_fin = !segment.acks_syn_ack;
        let mut hops = [(1, 2, Direction::Ingress), (1, 3, Direction::Egress), (2, 9, Direction::Ingress)];
        if !is_from_client {
            hops = [(2, 9, Direction::Ingress), (1, 3, Direction::Ingress), (1, 2, Direction::Egress)];
        }
        let count = if noise.random.once_in(20) { noise.random.below(4) } else { 3 };
        for (netns, ifindex, direction) in hops.into_iter().take(count as usize) {
            let direction = Some(direction);
            let lost_order = noise.random.once_in(50);
            let netns = if lost_order { noise.random.below(3) } else { netns };
            wire.see_as_is(SegmentInput { netns, ifindex, direction, ..segment });
        }
        now += 4;
        let events = wire.events();
        closed += events.iter().filter(|event| matches!(event, Event::Closed(_))).count();
        judge.hear(events);
    }
    assert!(closed > 1_000, "the noise closes nothing: {closed}");
    wire.wait_until(now + 1_000_000_000);
    judge.hear(wire.events());
    assert_eq!((wire.tracker().inferred(), wire.tracker().next_deadline()), (0, None));
}

#[test]
fn the_table_is_bounded_and_what_was_forgotten_is_met_again() {
    let mut wire = Wire::with(Options { infer_from: InferFrom::AllSegments, max_connections: 2 });
    let mut noise = Noise { random: Random::new(7), next: [[0; 2]; PORTS] };
    for _ in 0..50_000 {
        let segment = noise.segment();
        wire.see(segment);
        assert!(wire.tracker().inferred() <= 2);
    }
    assert!(wire.tracker().evicted() > 1_000);
}

#[test]
fn times_that_go_back_do_no_harm() {
    let mut wire = Wire::new();
    let mut noise = Noise { random: Random::new(99), next: [[0; 2]; PORTS] };
    for _ in 0..50_000 {
        wire.wait_until(u64::from(noise.random.below(200_000)));
        let segment = noise.segment();
        wire.see(segment);
    }
    wire.wait_until(100_000_000);
    assert_eq!(wire.tracker().inferred(), 0);
}
