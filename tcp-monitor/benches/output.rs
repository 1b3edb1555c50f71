//! The cost of outputs: events a second on one core, as text and as JSON, in memory. Run by `cargo
//! xtask bench output`.
//!
//! The events are those of short connections over loopback, two at a time, as a running monitor
//! has them: 20 each. The time is processor time; the best of several rounds counts.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tcp_monitor::clock::WallClock;
use tcp_monitor::lifecycle::input::{Comm, Process, SocketEvent, TcpSock};
use tcp_monitor::lifecycle::segment::{Flags, Options, Timestamps};
use tcp_monitor::lifecycle::{Event, Input, SegmentInput, SocketInput, TcpHeader, Time, Tracker};
use tcp_monitor::output::{Context, EventSink, Json, Names, Pcapng, Style, Text};
use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::{Direction, Role};

fn main() {
    println!("{:<20}{:>12}{:>10}{:>12}", "", "events/s", "ns each", "bytes each");
    for (version, hosts) in [("IPv4", V4), ("IPv6", V6)] {
        let events = events(hosts);
        for (format, sink) in FORMATS {
            let (mut best, mut bytes) = (Duration::MAX, 0);
            for _ in 0..ROUNDS {
                let (time, len) = measure(sink(), &events);
                (best, bytes) = (best.min(time), len);
            }
            let each = best.as_secs_f64() / events.len() as f64;
            let name = format!("{format}, {version}");
            println!("{name:<20}{:>12.0}{:>10.0}{:>12}", 1.0 / each, each * 1e9, bytes / events.len());
        }
    }
}

type MakeSink = fn() -> Box<dyn EventSink>;

const FORMATS: [(&str, MakeSink); 3] = [
    ("text", || Box::new(Text::new(Style::default()))),
    ("JSON", || Box::new(Json::default())),
    ("recording", || Box::new(Pcapng::default())),
];

/// The time that `sink` takes for `events`, and how many bytes it writes.
fn measure(mut sink: Box<dyn EventSink>, events: &[Event]) -> (Duration, usize) {
    let clock = WallClock::of_capture();
    let mut out = Vec::new();
    let mut bytes = 0;
    let begin = processor_time();
    for batch in events.chunks(BATCH) {
        let context = Context::new(&clock, &Loopback);
        for event in batch {
            sink.advance(event.time, &context, &mut out);
            sink.event(event, &context, &mut out);
        }
        bytes += out.len();
        black_box(&out);
        out.clear();
    }
    (processor_time() - begin, bytes)
}

fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

struct Loopback;

impl Names for Loopback {
    fn interface(&self, _: u32, _: u32) -> Option<String> {
        Some("lo".into())
    }

    fn netns(&self, _: u32) -> Option<String> {
        None
    }
}

/// What the tracker makes of connections between these hosts, client and server.
fn events(hosts: [&str; 2]) -> Vec<Event> {
    let mut tracker = Tracker::new();
    let mut events = Vec::new();
    let mut now = Time::from_nanos(1_767_268_801_000_000_000);
    for first in (0..CONNECTIONS).step_by(2) {
        for step in LIFE {
            for id in [first, first + 1] {
                now = now + Duration::from_nanos(1300);
                tracker.handle(input(now, id, hosts, step), &mut events);
            }
        }
    }
    assert_eq!(events.len(), CONNECTIONS as usize * 20, "events of a connection");
    events
}

#[derive(Clone, Copy)]
enum Step {
    /// A transition of a socket. It is the process's doing if the last is set.
    Socket(Role, TcpState, TcpState, bool),
    /// A segment: who sends it, and its relative numbers.
    Segment(Role, Flags, u32, u32),
}

fn input(time: Time, id: u32, hosts: [&str; 2], step: Step) -> Input {
    let port = 32_768 + u16::try_from(id % 28_000).unwrap_or_default();
    let [client, server] = [(hosts[0], port), (hosts[1], 8899)]
        .map(|(host, port)| SocketAddr::new(host.parse().expect("an address"), port));
    let isn = 2_554_283_808_u32.wrapping_add(id);
    match step {
        Step::Socket(role, from, to, of_process) => {
            let (mut local, remote) = if role == Role::Client { (client, server) } else { (server, client) };
            if to == TcpState::SynSent {
                local.set_port(0);
            }
            let numbers = TcpSock { snd_nxt: isn, rcv_nxt: isn, srtt_us: 4, ..TcpSock::default() };
            Input::Socket(SocketInput {
                time,
                netns: NETNS,
                cookie: u64::from(id) * 2 + role as u64 + 1,
                sk: u64::from(id) * 2 + role as u64,
                cgroup: 1,
                role,
                local,
                remote,
                process: of_process
                    .then_some(Process { pid: 3237, comm: Comm(*b"churn\0\0\0\0\0\0\0\0\0\0\0") }),
                peer_closed: matches!(from, TcpState::FinWait2 | TcpState::CloseWait | TcpState::LastAck),
                orphan: from == TcpState::FinWait2,
                tcp: Some(numbers),
                kind: SocketEvent::State { from, to },
            })
        }
        Step::Segment(from, flags, seq, ack) => {
            let (src, dst) = if from == Role::Client { (client, server) } else { (server, client) };
            let has_ack = flags.contains(Flags::ACK);
            let header = TcpHeader {
                src_port: src.port(),
                dst_port: dst.port(),
                seq: isn.wrapping_add(seq),
                ack: if has_ack { isn.wrapping_add(ack) } else { 0 },
                flags,
                window: 65_483,
                checksum: 65_127,
                header_len: 32,
                options: Options {
                    timestamps: Some(Timestamps { value: 850_650_195, echo: 4_258_283_862 }),
                    ..Options::default()
                },
                ..TcpHeader::default()
            };
            Input::Segment(SegmentInput {
                time,
                netns: NETNS,
                ifindex: 1,
                direction: Some(Direction::Egress),
                src,
                dst,
                header,
                payload_len: 0,
                acks_syn_ack: flags == Flags::ACK && seq == 1,
                acks_fin: flags == Flags::ACK && seq > 1,
                syn_cookie: false,
                frame: None,
            })
        }
    }
}

/// The server closes first.
const LIFE: [Step; 16] = [
    Step::Socket(Role::Client, TcpState::Close, TcpState::SynSent, true),
    Step::Segment(Role::Client, Flags::SYN, 0, 0),
    Step::Segment(Role::Server, Flags::SYN.union(Flags::ACK), 0, 1),
    Step::Socket(Role::Client, TcpState::SynSent, TcpState::Established, false),
    Step::Segment(Role::Client, Flags::ACK, 1, 1),
    Step::Socket(Role::Server, TcpState::Listen, TcpState::SynRecv, false),
    Step::Socket(Role::Server, TcpState::SynRecv, TcpState::Established, false),
    Step::Socket(Role::Server, TcpState::Established, TcpState::FinWait1, true),
    Step::Segment(Role::Server, Flags::FIN.union(Flags::ACK), 14, 14),
    Step::Socket(Role::Client, TcpState::Established, TcpState::CloseWait, false),
    Step::Socket(Role::Client, TcpState::CloseWait, TcpState::LastAck, true),
    Step::Segment(Role::Client, Flags::FIN.union(Flags::ACK), 14, 15),
    Step::Socket(Role::Server, TcpState::FinWait1, TcpState::FinWait2, false),
    Step::Segment(Role::Server, Flags::ACK, 15, 15),
    Step::Socket(Role::Server, TcpState::FinWait2, TcpState::Close, false),
    Step::Socket(Role::Client, TcpState::LastAck, TcpState::Close, false),
];

const NETNS: u32 = 4_026_532_387;
const V4: [&str; 2] = ["127.0.0.1", "127.1.0.55"];
const V6: [&str; 2] = ["2001:db8:7a00:1::5", "2001:db8:7a00:1:4c5a:12ff:fe3b:9"];
const CONNECTIONS: u32 = 20_000;
/// Events between two writes.
const BATCH: usize = 2048;
const ROUNDS: usize = 5;
