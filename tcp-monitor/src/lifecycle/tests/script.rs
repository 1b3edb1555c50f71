//! Scripts for the tracker in virtual time: each input is one line, each event is short text.

use std::net::SocketAddr;
use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::{Direction, Role};

use crate::lifecycle::input::{Comm, Process, SocketEvent, TcpSock};
use crate::lifecycle::segment::Flags;
use crate::lifecycle::{
    Event, EventKind, InferFrom, Input, Options, SegmentInput, SocketInput, TcpHeader, Time, Tracker,
};

/// A tracker, and the events it reported that the test has not read yet.
pub(super) struct Script {
    tracker: Tracker,
    events: Vec<Event>,
}

impl Script {
    pub(super) fn new() -> Self {
        Self { tracker: Tracker::new(), events: Vec::new() }
    }

    /// A tracker that infers states from segments.
    pub(super) fn inferring() -> Self {
        Self::with(Options { infer_from: InferFrom::AllSegments, ..Options::default() })
    }

    pub(super) fn with(options: Options) -> Self {
        Self { tracker: Tracker::with(options), events: Vec::new() }
    }

    pub(super) fn socket(&mut self, input: SocketInput) {
        self.tracker.handle(Input::Socket(input), &mut self.events);
    }

    pub(super) fn segment(&mut self, input: SegmentInput) {
        self.tracker.handle(Input::Segment(input), &mut self.events);
    }

    pub(super) fn handle(&mut self, input: Input) {
        self.tracker.handle(input, &mut self.events);
    }

    pub(super) fn wait_until(&mut self, ms: u64) {
        self.tracker.expire(at(ms), &mut self.events);
    }

    pub(super) fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The events reported since the last call, except segments.
    pub(super) fn reported(&mut self) -> Vec<String> {
        let events = self.events();
        events.iter().filter(|event| !matches!(event.kind, EventKind::Segment(_))).map(describe).collect()
    }

    /// The segments reported since the last call.
    pub(super) fn segments(&mut self) -> Vec<String> {
        let events = self.events();
        events.iter().filter(|event| matches!(event.kind, EventKind::Segment(_))).map(describe).collect()
    }

    /// The server's side of a handshake that begins at `ms`, with its segments and 1 ms between
    /// steps.
    pub(super) fn server_handshake(&mut self, ms: u64) {
        self.segment(syn(ms));
        self.segment(syn_ack(ms + 1));
        self.segment(handshake_ack(ms + 2));
        self.socket(server(ms + 3, TcpState::Listen, TcpState::SynRecv));
        self.socket(server(ms + 4, TcpState::SynRecv, TcpState::Established));
    }
}

/// The point `ms` milliseconds into the script.
pub(super) fn at(ms: u64) -> Time {
    START + Duration::from_millis(ms)
}

const START: Time = Time::from_nanos(1_767_268_801_000_000_000);

pub(super) fn client_addr() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 5], 51920))
}

pub(super) fn server_addr() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 9], 8899))
}

pub(super) fn no_addr() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 0))
}

pub(super) const CLIENT_ISN: u32 = 1000;
pub(super) const SERVER_ISN: u32 = u32::MAX;

/// A transition of the accepted socket. Its numbers: 100 bytes sent, 50 received, all acknowledged.
pub(super) fn server(ms: u64, from: TcpState, to: TcpState) -> SocketInput {
    SocketInput {
        time: at(ms),
        netns: 1,
        cookie: 71,
        sk: 0xa1,
        cgroup: 0,
        role: Role::Server,
        local: server_addr(),
        remote: client_addr(),
        process: None,
        peer_closed: false,
        orphan: false,
        tcp: Some(TcpSock {
            snd_nxt: SERVER_ISN.wrapping_add(101),
            rcv_nxt: CLIENT_ISN + 51,
            snd_una: SERVER_ISN.wrapping_add(101),
            srtt_us: 480,
            bytes_acked: 100,
            bytes_received: 50,
            total_retrans: 0,
            sk_err: 0,
        }),
        kind: SocketEvent::State { from, to },
    }
}

/// A transition of the connecting socket. Its numbers mirror the server's; `bytes_acked` includes
/// its SYN.
pub(super) fn client(ms: u64, from: TcpState, to: TcpState) -> SocketInput {
    SocketInput {
        cookie: 72,
        sk: 0xa2,
        role: Role::Client,
        local: client_addr(),
        remote: server_addr(),
        tcp: Some(TcpSock {
            snd_nxt: CLIENT_ISN + 51,
            rcv_nxt: SERVER_ISN.wrapping_add(101),
            snd_una: CLIENT_ISN + 51,
            srtt_us: 480,
            bytes_acked: 51,
            bytes_received: 100,
            total_retrans: 0,
            sk_err: 0,
        }),
        ..server(ms, from, to)
    }
}

impl SocketInput {
    pub(super) fn with(mut self, change: impl FnMut(&mut TcpSock)) -> Self {
        self.tcp.iter_mut().for_each(change);
        self
    }

    pub(super) fn with_err(self, sk_err: u32) -> Self {
        self.with(|tcp| tcp.sk_err = sk_err)
    }

    /// Our FIN is acknowledged: it takes one sequence number.
    pub(super) fn fin_acked(self) -> Self {
        self.with(|tcp| {
            tcp.snd_nxt += 1;
            tcp.snd_una += 1;
            tcp.bytes_acked += 1;
        })
    }

    /// The peer's FIN is received: it takes one sequence number.
    pub(super) fn fin_received(self) -> Self {
        let input = self.with(|tcp| {
            tcp.rcv_nxt += 1;
            tcp.bytes_received += 1;
        });
        Self { peer_closed: true, ..input }
    }

    pub(super) fn by(self, pid: u32) -> Self {
        Self { process: Some(Process { pid, comm: Comm(*b"app\0\0\0\0\0\0\0\0\0\0\0\0\0") }), ..self }
    }
}

pub(super) fn from_client(ms: u64, flags: Flags, seq_rel: u32, ack_rel: u32) -> SegmentInput {
    SegmentInput {
        time: at(ms),
        netns: 1,
        ifindex: 2,
        direction: Some(Direction::Ingress),
        src: client_addr(),
        dst: server_addr(),
        header: TcpHeader {
            src_port: client_addr().port(),
            dst_port: server_addr().port(),
            seq: CLIENT_ISN + seq_rel,
            ack: SERVER_ISN.wrapping_add(ack_rel),
            flags,
            header_len: 20,
            ..TcpHeader::default()
        },
        payload_len: 0,
        acks_syn_ack: false,
        acks_fin: false,
        syn_cookie: false,
        frame: None,
    }
}

pub(super) fn from_server(ms: u64, flags: Flags, seq_rel: u32, ack_rel: u32) -> SegmentInput {
    let mut segment = from_client(ms, flags, 0, 0);
    segment.direction = Some(Direction::Egress);
    (segment.src, segment.dst) = (server_addr(), client_addr());
    (segment.header.src_port, segment.header.dst_port) = (server_addr().port(), client_addr().port());
    segment.header.seq = SERVER_ISN.wrapping_add(seq_rel);
    segment.header.ack = CLIENT_ISN + ack_rel;
    segment
}

pub(super) fn syn(ms: u64) -> SegmentInput {
    from_client(ms, Flags::SYN, 0, 0)
}

pub(super) fn syn_ack(ms: u64) -> SegmentInput {
    from_server(ms, Flags::SYN.union(Flags::ACK), 0, 1)
}

pub(super) fn handshake_ack(ms: u64) -> SegmentInput {
    SegmentInput { acks_syn_ack: true, ..from_client(ms, Flags::ACK, 1, 1) }
}

pub(super) fn describe(event: &Event) -> String {
    let ms = event.time.since(START).as_millis();
    match &event.kind {
        EventKind::Segment(segment) => {
            let relative = |number: Option<u32>| number.map_or("?".into(), |n| format!("+{n}"));
            let (seq, ack) = (relative(segment.seq_rel), relative(segment.ack_rel));
            let retransmitted = if segment.retransmission { " retransmitted" } else { "" };
            format!("{ms} {} {} {seq} {ack}{retransmitted}", segment.src, segment.step.label())
        }
        EventKind::State(change) => {
            let after =
                change.state_duration.map_or(String::new(), |after| format!(" after {}", millis(after)));
            let (from, to) = (change.from.label(), change.to.label());
            let remote = change.remote.map_or("*".into(), |remote| remote.to_string());
            format!("{ms} {} {remote} {from}>{to} {}{after}", change.local, change.evidence.label())
        }
        EventKind::Handshake(handshake) => {
            let duration = handshake.duration.map_or("?".into(), millis);
            let (role, result) = (handshake.role.label(), handshake.result_label());
            format!("{ms} {role} handshake {result} in {duration}")
        }
        EventKind::Reset(reset) => format!("{ms} reset {} {}", reset.direction.label(), reset.reason),
        EventKind::Retransmit(retransmit) => {
            format!("{ms} retransmit {} in {}", retransmit.kind.label(), retransmit.state.label())
        }
        EventKind::Closed(closed) => {
            let duration = closed.duration.map_or("?".into(), millis);
            let bytes = |bytes: Option<u64>| bytes.map_or("?".into(), |n| n.to_string());
            let (sent, received) = (bytes(closed.bytes_sent), bytes(closed.bytes_received));
            let (role, by) = (closed.role.label(), closed.closed_by.label());
            format!("{ms} {role} closed by {by} after {duration}, {sent} out {received} in")
        }
        EventKind::Stuck(stuck) => format!("{ms} stuck in {} for {}", stuck.state.label(), millis(stuck.age)),
        EventKind::Lost(lost) => format!("{ms} lost {} {}", lost.count, lost.kind.label()),
    }
}

fn millis(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}
