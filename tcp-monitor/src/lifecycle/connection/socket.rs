//! A socket as the kernel reports it: its states, how long each lasted, and what it moved.

use std::mem;
use std::net::SocketAddr;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::rules::payload::{is_fin_acked, payload_acked, payload_received};
use tcp_monitor_common::rules::role::{Role, role_in_state, role_in_transition};
use tcp_monitor_common::transition::{Outcome, is_synchronized};

use super::life::{Life, Reported, report};
use super::{Connection, Identity};
use crate::lifecycle::event::{Closed, ClosedBy, Event, EventKind, Evidence, Handshake, StateChange};
use crate::lifecycle::input::{PresentSocket, Process, SocketInput, TcpSock};
use crate::lifecycle::queues::Place;
use crate::lifecycle::time::Time;

/// One life of a socket, from its first state to CLOSE. A socket that connects again begins a new
/// one.
#[derive(Clone, Debug)]
pub(in crate::lifecycle) struct Socket {
    pub(in crate::lifecycle) key: SocketKey,
    pub(in crate::lifecycle) life: Life,
    /// Where it queues for its time, and to be evicted.
    pub(in crate::lifecycle) queued: Option<Place>,
    /// When it entered SYN_SENT, while that is not reported because its local port is not known
    /// yet.
    pub(in crate::lifecycle) deferred_syn_sent: Option<Time>,
    /// When it entered SYN_SENT.
    syn_sent: Option<Time>,
    process: Option<Process>,
    /// `process` made the call that the latest input is of.
    is_caller: bool,
    /// As the kernel last reported.
    tcp: Option<TcpSock>,
    /// Of a timewait socket, the next sequence number expected: the only one with which the peer's
    /// FIN or RST counts.
    rcv_nxt: Option<u32>,
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
    /// A socket met at its transition from `from` to `to`, in `from` still.
    pub(in crate::lifecycle) fn met(input: &SocketInput, of: Identity, from: TcpState, to: TcpState) -> Self {
        let role = role_in_transition(from, to).unwrap_or(input.role);
        let mut socket = Self::new(SocketKey::of(input), Life::met(of, role, from));
        socket.learn(input);
        socket
    }

    /// A socket found in `state`: nothing is known of how it got there.
    pub(in crate::lifecycle) fn from_dump(present: &PresentSocket, of: Identity, state: TcpState) -> Self {
        let role = role_in_state(state).unwrap_or(present.role);
        let key = SocketKey::with_cookie(present.netns, present.cookie);
        Self { is_from_dump: true, ..Self::new(key, Life::met(of, role, state)) }
    }

    fn new(key: SocketKey, life: Life) -> Self {
        Self {
            key,
            life,
            queued: None,
            deferred_syn_sent: None,
            syn_sent: None,
            process: None,
            is_caller: false,
            tcp: None,
            rcv_nxt: None,
            peer_closed: false,
            fin_acked: false,
            is_from_dump: false,
        }
    }

    /// Takes over what an input has besides the event itself.
    pub(in crate::lifecycle) fn learn(&mut self, input: &SocketInput) {
        // The kernel is never wrong in this, but behind `listen(fd, 0)` it takes a server's socket
        // for a client's.
        if mem::take(&mut self.is_from_dump) && input.role == Role::Server {
            self.life.role = Role::Server;
        }
        self.is_caller = input.process.is_some();
        self.process = input.process.or(self.process);
        self.tcp = input.tcp.or(self.tcp);
        self.peer_closed |= input.peer_closed;
    }

    /// Changes the state, and describes that.
    fn enter(&mut self, transition: Transition, (local, remote): (SocketAddr, SocketAddr)) -> StateChange {
        let Transition { from, to, time, evidence } = transition;
        let state_duration = self.life.enter(from, to, time);
        self.is_from_dump = false;
        self.fin_acked |= self.proves_fin_acked(from, to);
        if to == TcpState::SynSent {
            self.syn_sent = Some(time);
        }
        let (seq, ack) = match evidence {
            Evidence::Kernel => self.sequence_numbers(from, to),
            Evidence::Segment | Evidence::Timer => (None, None),
        };
        StateChange {
            local,
            remote: (remote.port() != 0).then_some(remote),
            role: self.life.role,
            from,
            to,
            seq,
            ack,
            evidence,
            process: self.process.filter(|_| mem::take(&mut self.is_caller)),
            state_duration,
        }
    }

    /// Its connection is established and not in TIME_WAIT.
    pub(in crate::lifecycle) fn is_living(&self) -> bool {
        is_synchronized(self.life.state()) && self.life.state() != TcpState::TimeWait
    }

    /// It is from a dump, and nothing was reported of it since.
    pub(in crate::lifecycle) fn is_from_dump(&self) -> bool {
        self.is_from_dump
    }

    /// Something was reported of it.
    pub(in crate::lifecycle) fn note_reported(&mut self) {
        self.is_from_dump = false;
    }

    /// A timewait socket takes over.
    pub(in crate::lifecycle) fn become_time_wait(&mut self) {
        self.rcv_nxt = self.tcp.map(|tcp| tcp.rcv_nxt);
    }

    /// Of a timewait socket: the peer's FIN was received.
    pub(in crate::lifecycle) fn pass_fin(&mut self) {
        self.rcv_nxt = self.rcv_nxt.map(|next| next.wrapping_add(1));
    }

    /// Of a timewait socket: whether a segment of the peer that begins at `seq` continues what was
    /// received.
    pub(in crate::lifecycle) fn accepts(&self, seq: u32) -> bool {
        self.rcv_nxt.is_none_or(|next| next == seq)
    }

    /// Of a timewait socket: whether the peer's FIN at `seq` is the one awaited.
    pub(in crate::lifecycle) fn awaits_fin(&self, seq: u32) -> bool {
        self.life.state() == TcpState::FinWait2 && self.accepts(seq)
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

/// A socket with its connection.
struct SocketOf<'a> {
    socket: &'a Socket,
    connection: &'a Connection,
    end: usize,
}

impl Connection {
    /// The socket of an end enters a state, which means this.
    pub(in crate::lifecycle) fn enter(
        &mut self,
        end: usize,
        transition: Transition,
        outcome: Outcome,
        out: &mut Vec<Event>,
    ) {
        if let Some(mut socket) = self.ends[end].socket.take() {
            let change = socket.enter(transition, self.tuple.addresses(end));
            report(
                &SocketOf { socket: &socket, connection: self, end },
                change,
                outcome,
                transition.time,
                out,
            );
            self.ends[end].socket = Some(socket);
        }
    }

    /// The same of the timewait socket of an end.
    pub(in crate::lifecycle) fn enter_time_wait(
        &mut self,
        end: usize,
        transition: Transition,
        outcome: Outcome,
        out: &mut Vec<Event>,
    ) {
        if let Some(mut socket) = self.ends[end].time_wait.take() {
            let change = socket.enter(transition, self.tuple.addresses(end));
            report(
                &SocketOf { socket: &socket, connection: self, end },
                change,
                outcome,
                transition.time,
                out,
            );
            self.ends[end].time_wait = Some(socket);
        }
    }
}

impl Reported for SocketOf<'_> {
    fn event(&self, time: Time, kind: EventKind) -> Event {
        let Identity { connection, end } = self.socket.life.of();
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
        let Self { socket, connection, end } = *self;
        let begun = match socket.life.role {
            // A SYN older than the socket's own is of an earlier connection.
            Role::Client => {
                let syn_at = connection.ends[end].syn_at;
                syn_at.filter(|seen| Some(*seen) >= socket.syn_sent).or(socket.syn_sent)
            }
            Role::Server => connection.ends[connection.tuple.peer_of(end)].syn_at,
        };
        let (local, remote) = connection.tuple.addresses(end);
        Handshake {
            local,
            remote,
            role: socket.life.role,
            result,
            duration: begun.map(|begun| time.since(begun)),
            // No other segment was sent yet. A child takes over the count of its half-open request.
            syn_retransmits: socket.tcp.map(|tcp| tcp.total_retrans),
        }
    }

    fn closed(&self, time: Time, closed_by: ClosedBy) -> Closed {
        let Self { socket, connection, end } = *self;
        let (local, remote) = connection.tuple.addresses(end);
        Closed {
            local,
            remote,
            role: socket.life.role,
            closed_by,
            duration: socket.life.established.map(|established| time.since(established)),
            bytes_sent: socket
                .tcp
                .map(|tcp| payload_acked(tcp.bytes_acked, socket.life.role, socket.fin_acked)),
            bytes_received: socket.tcp.map(|tcp| payload_received(tcp.bytes_received, socket.peer_closed)),
            retransmits: socket.tcp.map(|tcp| tcp.total_retrans),
            rtt_us: socket.tcp.map(|tcp| tcp.srtt_us).filter(|rtt| *rtt != 0),
            process: socket.process,
            partial: socket.life.partial,
            states: socket.life.time_in_states.states(),
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
