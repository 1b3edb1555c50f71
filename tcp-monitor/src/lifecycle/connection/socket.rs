//! What the kernel reports of a socket besides its states: which it is, whose, and what it moved.

use std::mem;
use std::net::SocketAddr;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::rules::payload::{is_fin_acked, payload_acked, payload_received};
use tcp_monitor_common::rules::role::Role;
use tcp_monitor_common::transition::Outcome;

use super::endpoint::Endpoint;
use super::life::{Life, Reported, report};
use super::time_wait::TimeWait;
use super::{Connection, Identity};
use crate::lifecycle::event::{Closed, ClosedBy, Event, EventKind, Evidence, Handshake, StateChange};
use crate::lifecycle::input::{PresentSocket, Process, SocketInput, TcpSock};
use crate::lifecycle::queues::Place;
use crate::lifecycle::time::Time;

/// What the kernel reports of a socket besides its states, in one life of its end: a socket that
/// connects again begins a new one.
#[derive(Clone, Debug)]
pub(in crate::lifecycle) struct Socket {
    pub(in crate::lifecycle) key: SocketKey,
    /// Where it queues for its time, and to be evicted.
    pub(in crate::lifecycle) queued: Option<Place>,
    /// When it entered SYN_SENT.
    syn_sent: Option<Time>,
    /// That is not reported yet, because its local port is not known.
    is_deferred: bool,
    process: Option<Process>,
    /// `process` made the call that the latest input is of.
    is_caller: bool,
    /// As the kernel last reported.
    tcp: Option<TcpSock>,
    peer_closed: bool,
    /// Our FIN was acknowledged.
    fin_acked: bool,
    /// It is from a dump, and nothing was reported of it since.
    is_from_dump: bool,
}

/// Which socket of a network namespace. A timewait socket has none: it shares the cookie of the
/// socket it stands in for, which may connect again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::lifecycle) struct SocketKey {
    pub(in crate::lifecycle) netns: u32,
    id: SocketId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum SocketId {
    Cookie(u64),
    /// For want of a cookie: kernels before 5.12 give them out only when asked.
    Address(u64),
}

impl SocketKey {
    pub(in crate::lifecycle) fn of(input: &SocketInput) -> Self {
        let id = if input.cookie == 0 { SocketId::Address(input.sk) } else { SocketId::Cookie(input.cookie) };
        Self { netns: input.netns, id }
    }

    /// The key that the socket had before it had a cookie.
    pub(in crate::lifecycle) const fn without_cookie(input: &SocketInput) -> Self {
        Self { netns: input.netns, id: SocketId::Address(input.sk) }
    }

    pub(in crate::lifecycle) const fn with_cookie(netns: u32, cookie: u64) -> Self {
        Self { netns, id: SocketId::Cookie(cookie) }
    }

    const fn cookie(self) -> u64 {
        match self.id {
            SocketId::Cookie(cookie) => cookie,
            SocketId::Address(_) => 0,
        }
    }
}

impl Socket {
    /// The socket that an input is of.
    pub(in crate::lifecycle) fn of(input: &SocketInput) -> Self {
        Self::new(SocketKey::of(input))
    }

    /// A socket from a dump.
    pub(in crate::lifecycle) fn from_dump(present: &PresentSocket) -> Self {
        Self { is_from_dump: true, ..Self::new(SocketKey::with_cookie(present.netns, present.cookie)) }
    }

    fn new(key: SocketKey) -> Self {
        Self {
            key,
            queued: None,
            syn_sent: None,
            is_deferred: false,
            process: None,
            is_caller: false,
            tcp: None,
            peer_closed: false,
            fin_acked: false,
            is_from_dump: false,
        }
    }

    /// Takes over what an input has besides the event itself.
    pub(in crate::lifecycle) fn learn(&mut self, input: &SocketInput, life: &mut Life) {
        // The kernel is never wrong in this, but behind `listen(fd, 0)` it takes a server's socket
        // for a client's.
        if mem::take(&mut self.is_from_dump) && input.role == Role::Server {
            life.role = Role::Server;
        }
        self.is_caller = input.process.is_some();
        self.process = input.process.or(self.process);
        self.tcp = input.tcp.or(self.tcp);
        self.peer_closed |= input.peer_closed;
    }

    /// It entered SYN_SENT, which is not reported until its local port is known.
    pub(in crate::lifecycle) fn defer_syn_sent(&mut self, time: Time) {
        (self.syn_sent, self.is_deferred) = (Some(time), true);
    }

    /// When it entered SYN_SENT, while that is not reported.
    pub(in crate::lifecycle) fn deferred_syn_sent(&self) -> Option<Time> {
        self.syn_sent.filter(|_| self.is_deferred)
    }

    /// The same; it is reported now.
    pub(in crate::lifecycle) fn take_deferred_syn_sent(&mut self) -> Option<Time> {
        self.syn_sent.filter(|_| mem::take(&mut self.is_deferred))
    }

    /// Its end enters a state, which means this.
    fn enter(
        &mut self,
        end: &mut KernelEnd<'_>,
        transition: Transition,
        outcome: Outcome,
        out: &mut Vec<Event>,
    ) {
        let Transition { from, to, time, evidence } = transition;
        let state_duration = end.life.enter(from, to, time);
        self.is_from_dump = false;
        self.fin_acked |= self.proves_fin_acked(from, to);
        if to == TcpState::SynSent {
            self.syn_sent = Some(time);
        }
        let (seq, ack) = match evidence {
            Evidence::Kernel => self.sequence_numbers(from, to),
            Evidence::Segment | Evidence::Timer => (None, None),
        };
        let (local, remote) = end.addresses;
        let change = StateChange {
            local,
            remote: (remote.port() != 0).then_some(remote),
            role: end.life.role,
            from,
            to,
            seq,
            ack,
            evidence,
            process: self.process.filter(|_| mem::take(&mut self.is_caller)),
            state_duration,
        };
        report(&SocketOf { socket: self, end }, change, outcome, time, out);
    }

    /// It is from a dump, and nothing was reported of it since.
    pub(in crate::lifecycle) fn is_from_dump(&self) -> bool {
        self.is_from_dump
    }

    /// Something was reported of it.
    pub(in crate::lifecycle) fn note_reported(&mut self) {
        self.is_from_dump = false;
    }

    /// RCV.NXT, as the kernel last reported.
    pub(super) fn rcv_nxt(&self) -> Option<u32> {
        self.tcp.map(|tcp| tcp.rcv_nxt)
    }

    /// FIN_WAIT2 and TIME_WAIT begin with the acknowledgment of our FIN (RFC 9293, section 3.6),
    /// and LAST_ACK ends with it if nothing went wrong.
    fn proves_fin_acked(&self, from: TcpState, to: TcpState) -> bool {
        let all_acked = self.tcp.is_some_and(|tcp| tcp.snd_una == tcp.snd_nxt);
        let sk_err = self.tcp.map_or(0, |tcp| tcp.sk_err);
        matches!(to, TcpState::FinWait2 | TcpState::TimeWait)
            || to == TcpState::Close && is_fin_acked(from, sk_err, all_acked)
    }

    /// SND.NXT and RCV.NXT at a transition, where the kernel has set them.
    fn sequence_numbers(&self, from: TcpState, to: TcpState) -> (Option<u32>, Option<u32>) {
        // Nothing was sent yet, and what the kernel has may be of the socket's last connection.
        if from == TcpState::Close {
            return (None, None);
        }
        // Where the peer's SYN ends SYN_SENT, RCV.NXT is set already.
        let answered = from == TcpState::SynSent && to != TcpState::Close;
        let decides = if answered { to } else { from };
        numbers_set_in(decides, self.tcp)
    }
}

/// A transition of a socket.
#[derive(Clone, Copy, Debug)]
pub(in crate::lifecycle) struct Transition {
    pub(in crate::lifecycle) from: TcpState,
    pub(in crate::lifecycle) to: TcpState,
    pub(in crate::lifecycle) time: Time,
    pub(in crate::lifecycle) evidence: Evidence,
}

/// An end whose states the kernel reports.
struct KernelEnd<'a> {
    life: &'a mut Life,
    /// Local and remote.
    addresses: (SocketAddr, SocketAddr),
    /// When the first SYN of this end was seen, and of the peer.
    syn_at: [Option<Time>; 2],
}

/// A socket and its end.
struct SocketOf<'a> {
    socket: &'a Socket,
    end: &'a KernelEnd<'a>,
}

impl Connection {
    /// An end with a socket enters a state, which means this.
    pub(in crate::lifecycle) fn enter(
        &mut self,
        end: usize,
        transition: Transition,
        outcome: Outcome,
        out: &mut Vec<Event>,
    ) {
        let (addresses, syn_at) = (self.tuple.addresses(end), self.syn_at(end));
        let Endpoint { life, socket, .. } = &mut self.ends[end];
        if let Some(socket) = socket {
            socket.enter(&mut KernelEnd { life, addresses, syn_at }, transition, outcome, out);
        }
    }

    /// The timewait socket of an end enters a state, which means this.
    pub(in crate::lifecycle) fn enter_time_wait(
        &mut self,
        end: usize,
        transition: Transition,
        outcome: Outcome,
        out: &mut Vec<Event>,
    ) {
        let (addresses, syn_at) = (self.tuple.addresses(end), self.syn_at(end));
        if let Some(TimeWait { life, socket, .. }) = self.ends[end].time_wait.as_deref_mut() {
            socket.enter(&mut KernelEnd { life, addresses, syn_at }, transition, outcome, out);
        }
    }

    /// When the first SYN of an end was seen, and of its peer.
    fn syn_at(&self, end: usize) -> [Option<Time>; 2] {
        [end, self.tuple.peer_of(end)].map(|end| self.ends[end].syn_at)
    }
}

impl Reported for SocketOf<'_> {
    fn event(&self, time: Time, kind: EventKind) -> Event {
        let Identity { connection, end } = self.end.life.of();
        Event {
            time,
            connection,
            end: connection.map(|_| end),
            netns: self.socket.key.netns,
            cookie: self.socket.key.cookie(),
            frame: None,
            kind,
        }
    }

    fn handshake(&self, time: Time, result: Result<(), HandshakeFailure>) -> Handshake {
        let Self { socket, end } = *self;
        let [own_syn, peers_syn] = end.syn_at;
        let begun = match end.life.role {
            // A SYN older than the socket's own is of an earlier connection.
            Role::Client => own_syn.filter(|seen| Some(*seen) >= socket.syn_sent).or(socket.syn_sent),
            Role::Server => peers_syn,
        };
        let (local, remote) = end.addresses;
        Handshake {
            local,
            remote,
            role: end.life.role,
            result,
            duration: begun.map(|begun| time.since(begun)),
            // No other segment was sent yet. A child takes over the count of its half-open request.
            syn_retransmits: socket.tcp.map(|tcp| tcp.total_retrans),
        }
    }

    fn closed(&self, time: Time, closed_by: ClosedBy) -> Closed {
        let Self { socket, end } = *self;
        let (local, remote) = end.addresses;
        let life = &end.life;
        Closed {
            local,
            remote,
            role: life.role,
            closed_by,
            duration: life.established.map(|established| time.since(established)),
            bytes_sent: socket.tcp.map(|tcp| payload_acked(tcp.bytes_acked, life.role, socket.fin_acked)),
            bytes_received: socket.tcp.map(|tcp| payload_received(tcp.bytes_received, socket.peer_closed)),
            retransmits: socket.tcp.map(|tcp| tcp.total_retrans),
            rtt_us: socket.tcp.map(|tcp| tcp.srtt_us).filter(|rtt| *rtt != 0),
            process: socket.process,
            partial: life.partial,
            states: life.time_in_states.states(),
        }
    }
}

/// SND.NXT and RCV.NXT of a socket in `state`, where the kernel has set them.
pub(in crate::lifecycle) fn numbers_set_in(
    state: TcpState,
    tcp: Option<TcpSock>,
) -> (Option<u32>, Option<u32>) {
    let (seq, ack) = (tcp.map(|tcp| tcp.snd_nxt), tcp.map(|tcp| tcp.rcv_nxt));
    match state {
        // Nothing was sent yet, or, of a listener's child, the numbers are not filled in yet.
        TcpState::Listen => (None, None),
        // Nothing was received yet.
        TcpState::SynSent => (seq, None),
        TcpState::Established
        | TcpState::SynRecv
        | TcpState::FinWait1
        | TcpState::FinWait2
        | TcpState::TimeWait
        | TcpState::CloseWait
        | TcpState::LastAck
        | TcpState::Closing
        | TcpState::NewSynRecv
        // Those of the connection that has just ended: an abort enters CLOSE and then sends its
        // RST.
        | TcpState::Close => (seq, ack),
    }
}
