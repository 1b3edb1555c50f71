//! Eviction at `max_connections`: TIME_WAIT first, then half-open connections, then those that were
//! idle for longest.

use tcp_monitor_common::TcpState::{self, Close, Established, FinWait1, FinWait2, SynSent};

use super::inference::wire::{ACK, FIN, SYN, SYN_ACK};
use super::random::Random;
use super::script::{Script, client, from_client, from_server};
use crate::lifecycle::segment::Flags;
use crate::lifecycle::{EventKind, InferFrom, Options, SegmentInput, SocketInput};

const SECOND: u64 = 1_000;

/// A tracker of at most four connections.
fn script(infer_from: InferFrom) -> Script {
    Script::with(Options { infer_from, max_connections: 4 })
}

/// A transition of one of many clients.
fn socket(id: u16, ms: u64, from: TcpState, to: TcpState) -> SocketInput {
    let mut input = client(ms, from, to);
    (input.cookie, input.sk) = (id.into(), id.into());
    input.local.set_port(id);
    input
}

fn connect(script: &mut Script, id: u16, ms: u64) {
    script.socket(socket(id, ms, Close, SynSent));
    script.socket(socket(id, ms, SynSent, Established));
}

/// Closes a connection at `ms`. Returns whether the tracker still had its entry.
fn is_tracked(script: &mut Script, id: u16, ms: u64) -> bool {
    script.events();
    script.socket(socket(id, ms, Established, Close));
    let closed = script.events().into_iter().find_map(|event| match event.kind {
        EventKind::Closed(closed) => Some(closed),
        EventKind::Segment(_)
        | EventKind::State(_)
        | EventKind::Handshake(_)
        | EventKind::Reset(_)
        | EventKind::Retransmit(_)
        | EventKind::Stuck(_)
        | EventKind::Lost(_) => None,
    });
    closed.is_some_and(|closed| !closed.partial && closed.duration.is_some())
}

#[test]
fn sockets_are_evicted_time_wait_first_then_half_open_then_idle() {
    let mut script = script(InferFrom::Nothing);
    connect(&mut script, 1, 0);
    connect(&mut script, 2, SECOND);
    script.socket(socket(3, 2 * SECOND, Close, SynSent));
    connect(&mut script, 4, 3 * SECOND);
    for (from, to) in [(Established, FinWait1), (FinWait1, FinWait2), (FinWait2, Close)] {
        script.socket(SocketInput { peer_closed: to == Close, ..socket(4, 3 * SECOND, from, to) });
    }
    assert_eq!((script.tracker().sockets(), script.tracker().evicted()), (4, 0));
    // The first connection is active, so it is not the one that was idle for longest.
    script.socket(SocketInput { process: None, ..socket(1, 4 * SECOND, Established, FinWait1) });
    script.socket(socket(1, 4 * SECOND, FinWait1, FinWait2));

    script.reported();
    connect(&mut script, 5, 5 * SECOND);
    script.wait_until(70 * SECOND);
    assert!(script.reported().iter().all(|line| !line.contains("time_wait>close")), "it was evicted");
    assert_eq!((script.tracker().sockets(), script.tracker().evicted()), (4, 1));

    connect(&mut script, 6, 71 * SECOND);
    script.reported();
    script.socket(socket(3, 72 * SECOND, SynSent, Close));
    let reported = script.reported();
    assert!(
        reported[0].ends_with("syn_sent>close kernel"),
        "the entry with its start was evicted: {reported:?}"
    );

    connect(&mut script, 7, 73 * SECOND);
    let tracked = [2, 5, 6, 7].map(|id| is_tracked(&mut script, id, 74 * SECOND));
    assert_eq!(tracked, [false, true, true, true]);
    assert_eq!(script.tracker().evicted(), 3);
}

#[test]
fn inferred_connections_are_evicted_in_the_same_order() {
    let mut script = script(InferFrom::AllSegments);
    open(&mut script, 1, 0);
    open(&mut script, 2, SECOND);
    script.segment(of(3, from_client(2 * SECOND, SYN, 0, 0)));
    open(&mut script, 4, 3 * SECOND);
    script.segment(of(4, from_client(3 * SECOND, FIN, 1, 1)));
    script.segment(of(4, from_server(3 * SECOND, FIN, 1, 2)));
    script.segment(of(4, from_client(3 * SECOND, ACK, 2, 2)));
    script.segment(of(1, from_client(4 * SECOND, ACK, 1, 1)));
    assert_eq!((script.tracker().inferred(), script.tracker().evicted()), (4, 0));

    script.reported();
    open(&mut script, 5, 5 * SECOND);
    script.wait_until(70 * SECOND);
    assert!(script.reported().iter().all(|line| !line.contains("time_wait>close")), "it was evicted");

    open(&mut script, 6, 71 * SECOND);
    script.wait_until(200 * SECOND);
    assert!(
        script.reported().iter().all(|line| !line.contains("timed_out")),
        "the half-open connection was evicted"
    );

    open(&mut script, 7, 201 * SECOND);
    assert_eq!((script.tracker().inferred(), script.tracker().evicted()), (4, 3));
    script.reported();
    for id in [1, 5, 6, 7] {
        script.segment(of(id, from_client(202 * SECOND, FIN, 1, 1)));
        assert_eq!(script.reported().len(), 1, "connection {id} is still tracked");
    }
    script.segment(of(2, from_client(203 * SECOND, Flags::RST, 1, 1)));
    assert_eq!(script.reported(), ["203000 reset sent unknown"; 0], "the connection is no longer tracked");
}

/// A segment of one of many connections.
fn of(id: u16, mut segment: SegmentInput) -> SegmentInput {
    let client = if segment.src.port() == 51920 { &mut segment.src } else { &mut segment.dst };
    client.set_port(id);
    segment
}

fn open(script: &mut Script, id: u16, ms: u64) {
    script.segment(of(id, from_client(ms, SYN, 0, 0)));
    script.segment(of(id, from_server(ms, SYN_ACK, 0, 1)));
    script.segment(of(id, from_client(ms, ACK, 1, 1)));
}

#[test]
fn a_syn_flood_evicts_at_most_one_connection() {
    let mut script = script(InferFrom::AllSegments);
    for id in 1..=4 {
        open(&mut script, id, SECOND * u64::from(id));
    }
    for id in 100..2_000 {
        script.segment(of(id, from_client(9 * SECOND, SYN, 0, 0)));
    }
    script.reported();
    for id in 2..=4 {
        script.segment(of(id, from_client(9 * SECOND, FIN, 1, 1)));
    }
    assert_eq!(script.reported().len(), 3);
    assert_eq!((script.tracker().inferred(), script.tracker().evicted()), (4, 1_900));
}

#[test]
fn a_syn_flood_fills_a_32nd_of_the_tracker_at_most() {
    for answer in [None, Some(SYN_ACK), Some(Flags::RST.union(Flags::ACK))] {
        let options = Options { infer_from: InferFrom::ControlSegments, max_connections: 320 };
        let mut script = Script::with(options);
        for id in 1..=100 {
            connect(&mut script, id, SECOND);
        }
        for id in 1_000..3_000 {
            script.segment(of(id, from_client(2 * SECOND, SYN, 0, 0)));
            if let Some(flags) = answer {
                script.segment(of(id, from_server(2 * SECOND, flags, 0, 1)));
            }
        }
        assert!(script.tracker().inferred() <= 2 * 10, "{answer:?}: {}", script.tracker().inferred());
        assert_eq!(script.tracker().sockets(), 100);
        assert!((1..=100).all(|id| is_tracked(&mut script, id, 3 * SECOND)));
    }
}

#[test]
fn the_limit_holds_for_random_inputs() {
    for infer_from in [InferFrom::Nothing, InferFrom::ControlSegments, InferFrom::AllSegments] {
        let (mut random, mut script, mut ms) = (Random::new(0x5eed), script(infer_from), 0);
        for _ in 0..30_000 {
            ms += u64::from(random.below(3));
            let id = 1 + u16::try_from(random.below(50)).unwrap_or_default();
            if random.once_in(2) {
                let mut input = random.socket(ms);
                (input.cookie, input.sk) = (id.into(), id.into());
                if input.local.port() != 0 {
                    input.local.set_port(id);
                }
                script.socket(input);
            } else {
                script.segment(of(id, random.segment(ms)));
            }
            let tracker = script.tracker();
            assert!(tracker.sockets() <= 4 && tracker.inferred() <= 4, "{infer_from:?}");
        }
        assert!(script.tracker().evicted() > 1_000, "{infer_from:?}");
    }
}
