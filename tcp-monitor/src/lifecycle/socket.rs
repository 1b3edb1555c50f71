//! One socket as the tracker knows it: its state, how long it spent in each, and what it moved.

use std::mem;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::Role;

use super::address::Address;
use super::event::{Closed, ClosedBy, Event, EventKind, Evidence, Handshake, StateChange};
use super::input::{PresentSocket, Process, SocketInput, TcpSock};
use super::spent::Spent;
use super::time::Time;
use super::waiting::Addresses;
use tcp_monitor_common::transition::is_synchronized;

/// One life of a socket, from its first state to CLOSE. A socket that connects again begins a new one.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    pub(super) local: Address,
    pub(super) remote: Address,
    pub(super) role: Role,
    /// When it entered SYN_SENT, while that is not told because its local port is not known yet.
    pub(super) untold_syn_sent: Option<Time>,
    netns: u32,
    cookie: u64,
    state: TcpState,
    /// When it entered `state`, if that was seen.
    since: Option<Time>,
    /// When it entered SYN_SENT.
    syn_sent: Option<Time>,
    /// When the handshake was completed.
    established: Option<Time>,
    /// The connection was established before it was first met.
    partial: bool,
    process: Option<Process>,
    /// Who made the call that the latest input tells of.
    caller: Option<Process>,
    /// As the kernel last told.
    tcp: Option<TcpSock>,
    peer_closed: bool,
    /// Our FIN was acknowledged.
    fin_acked: bool,
    /// It was found, and nothing was told of it since.
    was_found: bool,
    spent: Spent,
}

impl Socket {
    /// A socket met at its transition from `from` to `to`, in `from` still.
    pub(super) fn met(input: &SocketInput, from: TcpState, to: TcpState) -> Self {
        let mut socket = Self {
            local: input.local.into(),
            remote: input.remote.into(),
            role: role_of(from, to).unwrap_or(input.role),
            untold_syn_sent: None,
            netns: input.netns,
            cookie: input.cookie,
            state: from,
            since: None,
            syn_sent: None,
            established: None,
            partial: is_synchronized(from),
            process: None,
            caller: None,
            tcp: None,
            peer_closed: false,
            fin_acked: false,
            was_found: false,
            spent: Spent::default(),
        };
        socket.learn(input);
        socket
    }

    /// A socket found in `state`: nothing is known of how it got there.
    pub(super) fn found(present: &PresentSocket, state: TcpState) -> Self {
        Self {
            local: present.local.into(),
            remote: present.remote.into(),
            role: role_in(state).unwrap_or(present.role),
            untold_syn_sent: None,
            netns: present.netns,
            cookie: present.cookie,
            state,
            since: None,
            syn_sent: None,
            established: None,
            partial: is_synchronized(state),
            process: None,
            caller: None,
            tcp: None,
            peer_closed: false,
            fin_acked: false,
            was_found: true,
            spent: Spent::default(),
        }
    }

    /// Takes over what an input tells besides the event itself.
    pub(super) fn learn(&mut self, input: &SocketInput) {
        // The kernel is never wrong in this, but behind `listen(fd, 0)` it takes a server's socket for a client's.
        if mem::take(&mut self.was_found) && input.role == Role::Server {
            self.role = Role::Server;
        }
        if input.local.port() != 0 {
            self.local = input.local.into();
        }
        if input.remote.port() != 0 {
            self.remote = input.remote.into();
        }
        if input.cookie != 0 {
            self.cookie = input.cookie;
        }
        self.caller = input.process;
        self.process = input.process.or(self.process);
        self.tcp = input.tcp.or(self.tcp);
        self.peer_closed |= input.peer_closed;
    }

    /// Changes the state and returns the event that tells it. The one place where a state changes.
    pub(super) fn enter(&mut self, from: TcpState, to: TcpState, time: Time, evidence: Evidence) -> Event {
        // Where a record was lost, `from` is not the state known here, and the time spent in it neither.
        let spent = self.since.filter(|_| self.state == from).map(|since| time.since(since));
        if let Some(spent) = spent {
            self.spent.add(from, spent);
        }
        self.state = to;
        self.since = Some(time);
        self.was_found = false;
        self.fin_acked |= self.proves_fin_acked(from, to);
        if to == TcpState::SynSent {
            self.syn_sent = Some(time);
        }
        if to == TcpState::Established {
            self.established = Some(time);
        }
        let (seq, ack) = match evidence {
            Evidence::Kernel => self.sequence_numbers(from, to),
            Evidence::Segment | Evidence::Timer => (None, None),
        };
        let change = StateChange {
            local: self.local.into(),
            remote: (self.remote.port() != 0).then(|| self.remote.into()),
            role: self.role,
            from,
            to,
            seq,
            ack,
            evidence,
            process: self.caller.take(),
            spent,
        };
        self.event(time, EventKind::State(change))
    }

    fn event(&self, time: Time, kind: EventKind) -> Event {
        Event { netns: self.netns, cookie: self.cookie, ..Event::new(time, kind) }
    }

    /// It is told already to be in SYN_RECV, since then.
    pub(super) fn resume_syn_recv(&mut self, since: Time) {
        self.state = TcpState::SynRecv;
        self.since = Some(since);
    }

    pub(super) fn addresses(&self) -> Addresses {
        Addresses { netns: self.netns, local: self.local, remote: self.remote }
    }

    /// It was found, and nothing was told of it since.
    pub(super) fn was_found(&self) -> bool {
        self.was_found
    }

    /// Something was told of it.
    pub(super) fn note_told(&mut self) {
        self.was_found = false;
    }

    pub(super) fn state(&self) -> TcpState {
        self.state
    }

    pub(super) fn netns(&self) -> u32 {
        self.netns
    }

    /// It connects, and its local port is not known yet.
    pub(super) fn lacks_port(&self) -> bool {
        let connects = self.untold_syn_sent.is_some() || self.state == TcpState::SynSent;
        connects && self.local.port() == 0
    }

    /// Next sequence number expected, as the kernel last told.
    pub(super) fn rcv_nxt(&self) -> Option<u32> {
        self.tcp.map(|tcp| tcp.rcv_nxt)
    }

    /// The end of its handshake. `syn_seen` is when the first SYN passed an interface.
    pub(super) fn handshake(
        &self,
        time: Time,
        result: Result<(), HandshakeFailure>,
        syn_seen: Option<Time>,
    ) -> Event {
        let begun = match self.role {
            // A SYN older than the socket's own is of an earlier connection.
            Role::Client => syn_seen.filter(|seen| Some(*seen) >= self.syn_sent).or(self.syn_sent),
            Role::Server => syn_seen,
        };
        let handshake = Handshake {
            local: self.local.into(),
            remote: self.remote.into(),
            role: self.role,
            result,
            duration: begun.map(|begun| time.since(begun)),
            // No other segment was sent yet. A child takes over the count of its half-open request.
            syn_retransmits: self.tcp.map(|tcp| tcp.total_retrans),
        };
        self.event(time, EventKind::Handshake(handshake))
    }

    /// The end of its connection.
    pub(super) fn closed(&self, time: Time, closed_by: ClosedBy) -> Event {
        let closed = Closed {
            local: self.local.into(),
            remote: self.remote.into(),
            role: self.role,
            closed_by,
            duration: self.established.map(|established| time.since(established)),
            bytes_sent: self.bytes_sent(),
            bytes_received: self.bytes_received(),
            retransmits: self.tcp.map(|tcp| tcp.total_retrans),
            rtt_us: self.tcp.map(|tcp| tcp.srtt_us).filter(|rtt| *rtt != 0),
            process: self.process,
            partial: self.partial,
            states: self.spent.states(),
        };
        self.event(time, EventKind::Closed(closed))
    }

    /// `bytes_acked` grows with SND.UNA (kernel: `tcp_snd_una_update`), which passes our FIN and, unless the socket was
    /// born with its SYN-ACK acknowledged, our SYN.
    fn bytes_sent(&self) -> Option<u64> {
        let tcp = self.tcp?;
        let syn = match self.role {
            Role::Client => 1,
            Role::Server => 0,
        };
        Some(tcp.bytes_acked.saturating_sub(syn + u64::from(self.fin_acked)))
    }

    /// `bytes_received` grows with RCV.NXT (kernel: `tcp_rcv_nxt_update`) from after the peer's SYN on, past its FIN.
    fn bytes_received(&self) -> Option<u64> {
        Some(self.tcp?.bytes_received.saturating_sub(u64::from(self.peer_closed)))
    }

    /// FIN_WAIT2 and TIME_WAIT begin with the acknowledgment of our FIN (RFC 9293, section 3.6), and LAST_ACK ends with it
    /// if nothing went wrong.
    fn proves_fin_acked(&self, from: TcpState, to: TcpState) -> bool {
        let all_acked = self.tcp.is_some_and(|tcp| tcp.sk_err == 0 && tcp.snd_una == tcp.snd_nxt);
        from == TcpState::FinWait2
            || matches!(to, TcpState::FinWait2 | TcpState::TimeWait)
            || (from, to) == (TcpState::LastAck, TcpState::Close) && all_acked
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

/// SND.NXT and RCV.NXT of a socket in `state`, where the kernel has set them.
pub(super) fn numbers_set_in(state: TcpState, tcp: Option<TcpSock>) -> (Option<u32>, Option<u32>) {
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
        // Those of the connection that has just ended: an abort enters CLOSE and then sends its RST.
        | TcpState::Close => (seq, ack),
    }
}

/// The role that a transition proves.
fn role_of(from: TcpState, to: TcpState) -> Option<Role> {
    role_in(to).or(role_in(from))
}

/// The role that being in `state` proves.
const fn role_in(state: TcpState) -> Option<Role> {
    match state {
        TcpState::SynSent => Some(Role::Client),
        TcpState::Listen => Some(Role::Server),
        TcpState::Close
        | TcpState::Established
        | TcpState::SynRecv
        | TcpState::FinWait1
        | TcpState::FinWait2
        | TcpState::TimeWait
        | TcpState::CloseWait
        | TcpState::LastAck
        | TcpState::Closing
        | TcpState::NewSynRecv => None,
    }
}
