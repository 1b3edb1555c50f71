//! The tracker: takes inputs in, one at a time, and tells events. It does no I/O and has no clock.

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::reset_reason_label;
use tcp_monitor_common::record::Role;

use super::address::Address;
use super::connecting::Connecting;
use super::event::{ClosedBy, Event, EventKind, Evidence, Lost, Reset, Retransmit};
use super::flow::Flows;
use super::identity::Identities;
use super::inference::{Class, Inference, Unfinished};
use super::input::{Input, ResetDirection, SocketEvent, SocketInput, StuckSocket};
use super::newborn::Newborn;
use super::queues::Queues;
use super::sighting::Sightings;
use super::socket::{Socket, numbers_set_in};
use super::time::Time;
use super::waiting::{Addresses, Minisocket, Substate, Waiting};
use tcp_monitor_common::transition::{Outcome, TransitionContext, outcome};

mod limit;
mod options;
mod present;
mod segments;
mod timewait;

pub use options::{InferFrom, Options};

/// Follows every socket from its first state to its last.
///
/// Feed it with [`handle`](Self::handle) in order of time, and call [`expire`](Self::expire) at
/// [`next_deadline`](Self::next_deadline) if nothing is handled before. Events come out in order of time, but for a
/// birth that is told late: the SYN_SENT or SYN_RECV of a socket whose addresses were not known then. To put those in
/// their place, hold back what is later than [`first_untold`](Self::first_untold).
#[derive(Debug)]
pub struct Tracker {
    /// As many as this are remembered of sockets, of flows and of connections that are inferred.
    max_connections: usize,
    sockets: Queues<SocketKey, Socket, { Class::ALL.len() }>,
    newborn: Newborn,
    connecting: Connecting,
    waiting: Waiting,
    flows: Flows,
    sightings: Sightings,
    /// Explains connections of which the kernel tells nothing, if that is wanted.
    inference: Option<Inference>,
    identities: Identities,
}

/// Which socket of a network namespace. A TIME_WAIT minisocket is not among these: it shares the cookie of the socket
/// it stands in for, which may connect again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SocketKey {
    netns: u32,
    id: SocketId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum SocketId {
    Cookie(u64),
    /// For want of a cookie: kernels before 5.12 give them out only when asked.
    Address(u64),
}

impl Default for Tracker {
    fn default() -> Self {
        Self::new()
    }
}

impl Tracker {
    /// A tracker that knows of no socket, with the default options.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    /// A tracker that knows of no socket.
    #[must_use]
    pub fn with(options: Options) -> Self {
        let max_unproven = options.max_unproven();
        let infer_from = |is_whole| Some(Inference::new(is_whole, options.max_connections, max_unproven));
        Self {
            max_connections: options.max_connections,
            sockets: Queues::new(options.max_connections),
            newborn: Newborn::new(MAX_NEWBORN),
            connecting: Connecting::new(MAX_CONNECTING),
            waiting: Waiting::new(options.max_connections),
            flows: Flows::new(options.max_connections, max_unproven),
            sightings: Sightings::new(MAX_SIGHTINGS),
            inference: match options.infer_from {
                InferFrom::Nothing => None,
                InferFrom::ControlSegments => infer_from(false),
                InferFrom::AllSegments => infer_from(true),
            },
            identities: Identities::new(options.max_connections.saturating_mul(2)),
        }
    }

    /// Takes in one input and appends to `out` what it tells, after what was due before it.
    pub fn handle(&mut self, input: Input, out: &mut Vec<Event>) {
        self.expire(input.time(), out);
        let first = out.len();
        self.process(input, out);
        if let Some(events) = out.get_mut(first..) {
            self.identities.identify(events);
        }
    }

    fn process(&mut self, input: Input, out: &mut Vec<Event>) {
        match input {
            Input::Socket(input) => match input.kind {
                SocketEvent::State { from, to } if from == to => {}
                SocketEvent::State { from, to } => self.change_state(&input, from, to, out),
                SocketEvent::Reset { direction, phase, reason, state } => {
                    self.hear_of(&input, out);
                    let (seq, ack) = state.map_or((None, None), |state| numbers_set_in(state, input.tcp));
                    let reset = EventKind::Reset(Reset {
                        local: input.local,
                        remote: Some(input.remote).filter(|remote| remote.port() != 0),
                        direction,
                        phase,
                        reason: reset_reason_label(reason),
                        seq,
                        ack,
                    });
                    out.push(event_of(&input, reset));
                    if direction == ResetDirection::Sent {
                        self.abort_waiting(addresses_of(&input), input.time, Evidence::Kernel, out);
                    }
                }
                SocketEvent::Retransmit { kind, state } => {
                    self.hear_of(&input, out);
                    let retransmit = EventKind::Retransmit(Retransmit {
                        local: input.local,
                        remote: input.remote,
                        kind,
                        state,
                    });
                    out.push(event_of(&input, retransmit));
                }
            },
            Input::Segment(segment) => self.handle_segment(&segment, out),
            Input::Present(present) => {
                self.identities.find(&present);
                self.find(&present);
            }
            Input::Stuck(StuckSocket { time, netns, cookie, stuck }) => {
                out.push(Event { netns, cookie, ..Event::new(time, EventKind::Stuck(stuck)) });
            }
            Input::Lost { time, kind, count } => {
                out.push(Event::new(time, EventKind::Lost(Lost { kind, count })));
            }
        }
    }

    /// When [`expire`](Self::expire) has something to do, at the earliest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let inferred = self.inference.as_ref().and_then(Inference::next_deadline);
        let deadlines = [
            self.connecting.next_deadline(),
            self.waiting.next_deadline(),
            self.flows.next_deadline(),
            inferred,
        ];
        deadlines.into_iter().flatten().min()
    }

    /// When the first birth happened that is known but not told yet. `now` is the time of the latest input: births that
    /// are told unusually late are not waited for.
    #[must_use]
    pub fn first_untold(&self, now: Time) -> Option<Time> {
        let newborn = self.newborn.first_expected(now);
        [self.connecting.first_untold(), newborn].into_iter().flatten().min()
    }

    /// Appends to `out` what time alone brought about until `now`: TIME_WAIT and FIN_WAIT2 that ended, SYN_SENT of sockets
    /// whose local port did not become known, and where states are inferred, whatever was not answered.
    pub fn expire(&mut self, now: Time, out: &mut Vec<Event>) {
        let first = out.len();
        self.pass_time(now, out);
        if let Some(events) = out.get_mut(first..) {
            self.identities.identify(events);
        }
    }

    fn pass_time(&mut self, now: Time, out: &mut Vec<Event>) {
        while let Some(key) = self.connecting.pop_due(now) {
            self.tell_without_port(key, now, out);
        }
        loop {
            let inferred = self.inference.as_ref().and_then(Inference::next_deadline);
            let waiting = self.waiting.next_deadline();
            let Some(deadline) = [waiting, inferred].into_iter().flatten().min().filter(|due| *due <= now)
            else {
                break;
            };
            if waiting == Some(deadline) {
                if let Some(minisocket) = self.waiting.pop_due(deadline) {
                    self.end_waiting(minisocket, deadline, Evidence::Timer, ClosedBy::Local, out);
                }
            } else if let Some(inference) = &mut self.inference {
                inference.expire_next(now, out);
            }
        }
        self.newborn.expire(now);
        self.flows.expire(now);
    }

    /// How many sockets are known, those in TIME_WAIT included.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.sockets.len() + self.waiting.len()
    }

    /// How many connections are known from their segments, those closed a moment ago included.
    #[must_use]
    pub fn inferred(&self) -> usize {
        self.inference.as_ref().map_or(0, Inference::len)
    }

    /// Which of them have not ended yet.
    #[must_use]
    pub fn unfinished(&self) -> Unfinished {
        self.inference.as_ref().map_or_else(Unfinished::default, Inference::unfinished)
    }

    fn change_state(&mut self, input: &SocketInput, from: TcpState, to: TcpState, out: &mut Vec<Event>) {
        let is_birth = (from, to) == (TcpState::Listen, TcpState::SynRecv);
        if is_birth && input.remote.port() == 0 {
            self.newborn.insert(input.netns, input.sk, input.time);
            return;
        }
        let known = self.take(input, out);
        // Out of CLOSE begins a new life, even if the end of the last was lost.
        let mut socket = match known.filter(|_| from != TcpState::Close && !is_birth) {
            Some(socket) => socket,
            None => self.meet(input, from, to, out),
        };
        socket.learn(input);
        if to == TcpState::Close {
            self.forget_successor(&socket.addresses());
        }
        // Two sockets never have the same addresses: this one took over from the minisocket.
        self.reuse_waiting(socket.addresses(), input.time, Evidence::Kernel, out);
        if to == TcpState::SynSent && socket.local.port() == 0 {
            socket.untold_syn_sent = Some(input.time);
            self.connecting.insert(&socket, SocketKey::of(input), input.time);
            self.keep(SocketKey::of(input), socket, input.time);
            return;
        }
        let at = TransitionContext {
            role: socket.role,
            sk_err: input.tcp.map_or(0, |tcp| tcp.sk_err),
            peer_closed: input.peer_closed,
        };
        match outcome(from, to, at) {
            Outcome::Continues => {
                if !(is_birth && self.resume_half_open(&mut socket, input.time)) {
                    self.enter(&mut socket, from, to, input.time, out);
                }
                self.keep(SocketKey::of(input), socket, input.time);
            }
            Outcome::Established => {
                self.enter(&mut socket, from, to, input.time, out);
                let handshake = socket.handshake(input.time, Ok(()), self.syn_seen(&socket));
                out.push(handshake);
                self.keep(SocketKey::of(input), socket, input.time);
            }
            Outcome::HandshakeFailed(failure) => {
                self.enter(&mut socket, from, to, input.time, out);
                let handshake = socket.handshake(input.time, Err(failure), self.syn_seen(&socket));
                out.push(handshake);
            }
            Outcome::Closed(closed_by) => {
                let closed_by = self.blame(&socket, from, closed_by);
                self.enter(&mut socket, from, to, input.time, out);
                out.push(socket.closed(input.time, closed_by));
            }
            Outcome::EntersTimeWait(closed_by) => {
                self.enter(&mut socket, from, TcpState::TimeWait, input.time, out);
                out.push(socket.closed(input.time, closed_by));
                self.add_waiting(Minisocket::new(socket, Substate::TimeWait), input.time);
            }
            Outcome::EntersFinWait2Timewait => self.await_fin(socket, input.time, out),
            Outcome::ListenerClosed => self.enter(&mut socket, from, to, input.time, out),
        }
    }

    fn enter(&mut self, socket: &mut Socket, from: TcpState, to: TcpState, time: Time, out: &mut Vec<Event>) {
        let change = socket.enter(from, to, time, Evidence::Kernel);
        // Without its port, this is not the flow of its segments.
        if socket.local.port() != 0 {
            self.flows.set_state(&socket.addresses(), to, time);
        }
        out.push(change);
    }

    /// A socket not known before. If it is a listener's child, its birth is told first.
    fn meet(&mut self, input: &SocketInput, from: TcpState, to: TcpState, out: &mut Vec<Event>) -> Socket {
        if to != TcpState::Close {
            self.make_room();
        }
        let mut socket = Socket::met(input, from, to);
        if from == TcpState::SynRecv {
            let born = self.newborn.remove(input.netns, input.sk);
            let was_told = self.resume_half_open(&mut socket, input.time);
            if was_told || born.is_some() {
                socket.role = Role::Server;
            }
            if let Some(born) = born.filter(|_| !was_told) {
                self.reuse_waiting(socket.addresses(), born, Evidence::Kernel, out);
                self.enter(&mut socket, TcpState::Listen, TcpState::SynRecv, born, out);
            }
        }
        socket
    }

    /// A listener's child takes over from the half-open request. Returns whether that is told to be in SYN_RECV: then the child
    /// is, since as long.
    fn resume_half_open(&mut self, socket: &mut Socket, now: Time) -> bool {
        let addresses = socket.addresses();
        let inference = self.inference.as_mut().filter(|inference| !inference.is_whole());
        let Some(since) = inference.and_then(|inference| inference.hand_over(&addresses, now)) else {
            return false;
        };
        socket.resume_syn_recv(since);
        self.flows.set_state(&addresses, TcpState::SynRecv, now);
        true
    }

    /// The socket an input is of, removed, for it may be known without its cookie. Tells its SYN_SENT if its port was
    /// not known until now.
    fn take(&mut self, input: &SocketInput, out: &mut Vec<Event>) -> Option<Socket> {
        let mut key = SocketKey::of(input);
        let mut socket = self.sockets.remove(&key);
        // What was told of it wins over what was found.
        if socket.as_ref().is_none_or(Socket::was_found) {
            let without = SocketKey { netns: input.netns, id: SocketId::Address(input.sk) };
            let known = self.sockets.find(&without).and_then(|place| self.sockets.get(place));
            if known.is_some_and(|socket| socket.remote == input.remote.into()) {
                key = without;
                socket = self.sockets.remove(&key);
            }
        }
        let mut socket = socket?;
        if socket.lacks_port() {
            self.connecting.remove(&socket, key);
            let opens_again = matches!(input.kind, SocketEvent::State { from: TcpState::Close, .. });
            if !opens_again {
                self.set_port(&mut socket, input.local.into(), input.time, out);
            }
        }
        Some(socket)
    }

    /// Learns of a socket from an input that does not change its state.
    fn hear_of(&mut self, input: &SocketInput, out: &mut Vec<Event>) {
        if let Some(socket) = self.take(input, out) {
            self.keep(SocketKey::of(input), socket, input.time);
        }
    }

    /// The local port of a socket in SYN_SENT is known. Tells its SYN_SENT, unless that was told without.
    fn set_port(&mut self, socket: &mut Socket, local: Address, now: Time, out: &mut Vec<Event>) {
        let before = socket.addresses();
        socket.local = local;
        self.identities.rename(&before, &socket.addresses(), now);
        match socket.untold_syn_sent.take() {
            Some(since) => {
                self.reuse_waiting(socket.addresses(), since, Evidence::Kernel, out);
                self.enter(socket, TcpState::Close, TcpState::SynSent, since, out);
            }
            None if local.port() != 0 => {
                self.reuse_waiting(socket.addresses(), now, Evidence::Kernel, out);
                self.flows.set_state(&socket.addresses(), TcpState::SynSent, now);
            }
            None => {}
        }
    }

    fn tell_without_port(&mut self, key: SocketKey, now: Time, out: &mut Vec<Event>) {
        if let Some(mut socket) = self.sockets.remove(&key) {
            if let Some(since) = socket.untold_syn_sent.take() {
                self.enter(&mut socket, TcpState::Close, TcpState::SynSent, since, out);
            }
            self.keep(key, socket, now);
        }
    }

    /// When the SYN that opened this socket's connection was first seen.
    fn syn_seen(&self, socket: &Socket) -> Option<Time> {
        let opener = match socket.role {
            Role::Client => socket.addresses(),
            Role::Server => socket.addresses().of_peer(),
        };
        self.flows.end(&opener).syn_seen
    }

    /// Data that comes after the application closed makes the kernel set ECONNRESET, as for a RST of the peer, though it
    /// is this end that sends one (kernel: `TCPABORTONDATA`). If segments are seen, but no RST of the peer, it was that.
    fn blame(&self, socket: &Socket, from: TcpState, closed_by: ClosedBy) -> ClosedBy {
        let had_closed = matches!(from, TcpState::FinWait1 | TcpState::FinWait2);
        let peer = self.flows.end(&socket.addresses().of_peer());
        if closed_by == ClosedBy::RemoteReset && had_closed && peer.isn.is_some() && !peer.reset {
            ClosedBy::LocalReset
        } else {
            closed_by
        }
    }
}

impl SocketKey {
    fn of(input: &SocketInput) -> Self {
        let id = if input.cookie == 0 { SocketId::Address(input.sk) } else { SocketId::Cookie(input.cookie) };
        Self { netns: input.netns, id }
    }
}

fn event_of(input: &SocketInput, kind: EventKind) -> Event {
    Event { netns: input.netns, cookie: input.cookie, ..Event::new(input.time, kind) }
}

fn addresses_of(input: &SocketInput) -> Addresses {
    Addresses::of(input.netns, input.local, input.remote)
}

/// Children between birth and handshake: moments.
const MAX_NEWBORN: usize = 1 << 12;
/// Destinations to which sockets connect whose port is not known: moments.
const MAX_CONNECTING: usize = 1 << 12;
/// Segments that a copy or a retransmission may follow.
const MAX_SIGHTINGS: usize = 1 << 15;
