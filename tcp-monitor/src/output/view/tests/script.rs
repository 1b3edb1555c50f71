//! Connections as scripts of events, in virtual time.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::Role;

use crate::lifecycle::event::{
    AckCheck, Acknowledged, Check, Closed, ClosedBy, Evidence, Handshake, Retransmit, Segment, SeqCheck,
    StateChange, Step,
};
use crate::lifecycle::input::{Comm, Process, RetransmitKind};
use crate::lifecycle::segment::Flags;
use crate::lifecycle::{ConnectionId, End, Event, EventKind, TcpHeader, Time};

pub(super) const ACK: Flags = Flags::ACK;
pub(super) const FIN: Flags = Flags::FIN.union(ACK);
pub(super) const RST: Flags = Flags::RST;
pub(super) const RST_ACK: Flags = Flags::RST.union(ACK);
pub(super) const SYN: Flags = Flags::SYN;
pub(super) const SYN_ACK: Flags = Flags::SYN.union(ACK);

/// The events of a connection between two ends, of which both or one may be on this host.
#[derive(Clone)]
pub(super) struct Script {
    pub(super) events: Vec<Event>,
    client: SocketAddr,
    server: SocketAddr,
    isns: [u32; 2],
    now: u64,
    netns: u32,
    connection: u64,
    evidence: Evidence,
}

impl Script {
    pub(super) fn new() -> Self {
        Self::between("10.0.0.5:51920", "10.0.0.9:8899")
    }

    pub(super) fn between(client: &str, server: &str) -> Self {
        Self {
            events: Vec::new(),
            client: client.parse().expect("an address"),
            server: server.parse().expect("an address"),
            isns: [303_234_858, 4_294_967_290],
            now: 0,
            netns: 1,
            connection: 1,
            evidence: Evidence::Kernel,
        }
    }

    /// What follows happens `us` microseconds into the script.
    pub(super) fn at(&mut self, us: u64) -> &mut Self {
        self.now = us;
        self
    }

    /// What follows is of the connection with this number.
    pub(super) fn of(&mut self, connection: u64) -> &mut Self {
        self.connection = connection;
        self
    }

    /// What follows is seen in this namespace.
    pub(super) fn seen_in(&mut self, netns: u32) -> &mut Self {
        self.netns = netns;
        self
    }

    /// States that follow are known in this way.
    pub(super) fn known_by(&mut self, evidence: Evidence) -> &mut Self {
        self.evidence = evidence;
        self
    }

    fn push(&mut self, end: Role, kind: EventKind) {
        let connection = NonZeroU64::new(self.connection).map(ConnectionId::new);
        let end = match end {
            Role::Client => End::First,
            Role::Server => End::Second,
        };
        let event = Event::new(self.time(), kind);
        self.events.push(Event { connection, end: Some(end), netns: self.netns, ..event });
    }

    pub(super) fn starting_at(&mut self, isns: [u32; 2]) -> &mut Self {
        self.isns = isns;
        self
    }

    /// A segment with relative numbers.
    pub(super) fn send(&mut self, from: Role, step: Step, flags: Flags, seq: u32, ack: u32) -> &mut Self {
        let (src, dst) = self.ends(from);
        let [mine, peers] = match from {
            Role::Client => self.isns,
            Role::Server => [self.isns[1], self.isns[0]],
        };
        let has_ack = flags.contains(ACK);
        self.push(
            from,
            EventKind::Segment(Segment {
                src,
                dst,
                header: TcpHeader {
                    src_port: src.port(),
                    dst_port: dst.port(),
                    seq: mine.wrapping_add(seq),
                    ack: if has_ack { peers.wrapping_add(ack) } else { 0 },
                    flags,
                    header_len: 20,
                    ..TcpHeader::default()
                },
                payload_len: 0,
                seq_rel: Some(seq),
                ack_rel: has_ack.then_some(ack),
                ifindex: 1,
                direction: None,
                step,
                syn_cookie: false,
                retransmission: false,
                unexpected: None,
                check: Check::default(),
            }),
        );
        self
    }

    /// The last segment acknowledges this, rightly or not.
    pub(super) fn acks(&mut self, of: Acknowledged, seq: u32, len: u32) -> &mut Self {
        self.change(|segment| {
            let ack = segment.header.ack;
            let isn = ack.wrapping_sub(segment.ack_rel.unwrap_or_default());
            let check = AckCheck { of, seq: isn.wrapping_add(seq), len, holds: true };
            segment.check.ack = Some(AckCheck { holds: check.expected() == ack, ..check });
        })
    }

    /// The last segment should have this sequence number.
    pub(super) fn follows(&mut self, seq: u32) -> &mut Self {
        self.change(|segment| {
            let isn = segment.header.seq.wrapping_sub(segment.seq_rel.unwrap_or_default());
            let expected = isn.wrapping_add(seq);
            segment.check.seq = Some(SeqCheck { expected, holds: expected == segment.header.seq });
        })
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut Segment)) -> &mut Self {
        if let Some(Event { kind: EventKind::Segment(segment), .. }) = self.events.last_mut() {
            change(segment);
        }
        self
    }

    pub(super) fn state(&mut self, end: Role, from: TcpState, to: TcpState) -> &mut Self {
        let (local, remote) = self.ends(end);
        self.push(
            end,
            EventKind::State(StateChange {
                local,
                remote: Some(remote),
                role: end,
                from,
                to,
                seq: None,
                ack: None,
                evidence: self.evidence,
                process: process(end),
                state_duration: None,
            }),
        );
        self
    }

    pub(super) fn opened(&mut self, end: Role, result: Result<(), HandshakeFailure>) -> &mut Self {
        let (local, remote) = self.ends(end);
        self.push(
            end,
            EventKind::Handshake(Handshake {
                local,
                remote,
                role: end,
                result,
                duration: Some(Duration::from_micros(self.now)),
                syn_retransmits: None,
            }),
        );
        self
    }

    /// The end has sent and received so many bytes.
    pub(super) fn closed(&mut self, end: Role, closed_by: ClosedBy, bytes: [Option<u64>; 2]) -> &mut Self {
        let (local, remote) = self.ends(end);
        self.push(
            end,
            EventKind::Closed(Closed {
                local,
                remote,
                role: end,
                closed_by,
                duration: Some(Duration::from_micros(self.now)),
                bytes_sent: bytes[0],
                bytes_received: bytes[1],
                retransmits: None,
                rtt_us: None,
                process: None,
                partial: false,
                states: Vec::new(),
            }),
        );
        self
    }

    pub(super) fn data_retransmitted(&mut self, end: Role) -> &mut Self {
        let (local, remote) = self.ends(end);
        let (kind, state) = (RetransmitKind::Data, TcpState::Established);
        self.push(end, EventKind::Retransmit(Retransmit { local, remote, kind, state }));
        self
    }

    /// A handshake from 0 µs to 491 µs, seen at the client, with the server's states if that is
    /// here too.
    pub(super) fn handshake(&mut self, server_is_here: bool) -> &mut Self {
        use TcpState as S;
        self.at(0).state(Role::Client, S::Close, S::SynSent);
        self.at(7).send(Role::Client, Step::Syn, SYN, 0, 0);
        self.at(470).send(Role::Server, Step::SynAck, SYN_ACK, 0, 1).acks(Acknowledged::Syn, 0, 0);
        self.at(480).state(Role::Client, S::SynSent, S::Established).opened(Role::Client, Ok(()));
        self.at(488).send(Role::Client, Step::HandshakeAck, ACK, 1, 1);
        self.acks(Acknowledged::Syn, 0, 0).follows(1);
        if server_is_here {
            self.at(490).state(Role::Server, S::Listen, S::SynRecv);
            self.at(491).state(Role::Server, S::SynRecv, S::Established).opened(Role::Server, Ok(()));
        }
        self
    }

    fn ends(&self, this: Role) -> (SocketAddr, SocketAddr) {
        match this {
            Role::Client => (self.client, self.server),
            Role::Server => (self.server, self.client),
        }
    }

    fn time(&self) -> Time {
        at(self.now)
    }
}

/// `us` microseconds into a script.
pub(super) fn at(us: u64) -> Time {
    Time::from_nanos((1_767_268_801_000_000 + us) * 1000)
}

fn process(end: Role) -> Option<Process> {
    match end {
        Role::Client => Some(Process { pid: 4711, comm: Comm(*b"curl\0\0\0\0\0\0\0\0\0\0\0\0") }),
        Role::Server => Some(Process { pid: 812, comm: Comm(*b"nginx\0\0\0\0\0\0\0\0\0\0\0") }),
    }
}
