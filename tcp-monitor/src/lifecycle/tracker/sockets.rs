//! What the kernel reports of sockets.

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::{ClosedBy, reset_reason_label};
use tcp_monitor_common::record::Role;
use tcp_monitor_common::rules::reset::may_be_late_data;
use tcp_monitor_common::transition::{Outcome, TransitionContext, is_synchronized, outcome};

use super::Tracker;
use super::connecting::Route;
use crate::lifecycle::connection::endpoint::Endpoint;
use crate::lifecycle::connection::life::Life;
use crate::lifecycle::connection::socket::{Socket, SocketKey, Transition, numbers_set_in};
use crate::lifecycle::connection::{EndRef, Identity};
use crate::lifecycle::event::{Event, EventKind, Evidence, Reset, Retransmit};
use crate::lifecycle::input::{ResetDirection, SocketEvent, SocketInput};
use crate::lifecycle::time::Time;
use crate::lifecycle::tuple::Tuple;

/// Why a socket is not followed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SocketEnd {
    /// It is closed.
    Closed,
    /// There are too many.
    Evicted,
}

impl Tracker {
    pub(super) fn process_socket(&mut self, input: &SocketInput, out: &mut Vec<Event>) {
        match input.kind {
            SocketEvent::State { from, to } if from == to => {}
            SocketEvent::State { from, to } => self.change_state(input, from, to, out),
            SocketEvent::Reset { direction, phase, reason, state } => {
                let identity = self.locate_other(input, out);
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
                out.push(event_of(input, reset).of(identity));
                if direction == ResetDirection::Sent && self.time_waits.len() > 0 {
                    let (tuple, end) = Tuple::of(input.netns, input.local, input.remote);
                    if let Some(place) = self.table.find(&tuple) {
                        let at = EndRef::new(place, end);
                        self.abort_time_wait(at, input.time, Evidence::Kernel, out);
                    }
                }
            }
            SocketEvent::Retransmit { kind, state } => {
                let identity = self.locate_other(input, out);
                let retransmit = EventKind::Retransmit(Retransmit {
                    local: input.local,
                    remote: input.remote,
                    kind,
                    state,
                });
                out.push(event_of(input, retransmit).of(identity));
            }
        }
    }

    /// The connection of an input that does not change the state of its socket, which may be none.
    fn locate_other(&mut self, input: &SocketInput, out: &mut Vec<Event>) -> Option<Identity> {
        match self.locate(input, out) {
            Some(at) => {
                self.table.touch_socket(at, SocketKey::of(input), input.time);
                self.table.end(at).map(|end| end.life.of())
            }
            None => {
                let (tuple, end) = Tuple::of(input.netns, input.local, input.remote);
                self.identity_of(&tuple, end)
            }
        }
    }

    fn change_state(&mut self, input: &SocketInput, from: TcpState, to: TcpState, out: &mut Vec<Event>) {
        let is_child = (from, to) == (TcpState::Listen, TcpState::SynRecv);
        if is_child && input.remote.port() == 0 {
            self.unaddressed.insert(input.netns, input.sk, input.time);
            return;
        }
        let time = input.time;
        // Out of CLOSE begins a new life, even if the end of the last was lost.
        let begins = from == TcpState::Close || is_child;
        let known = self.locate(input, out);
        let at = match known.filter(|_| !begins) {
            Some(at) => Some(self.readdress(at, input)),
            None => self.meet(known, input, from, to, out),
        };
        let Some(at) = at else { return };
        let Some(Endpoint { life, socket: Some(socket), .. }) = self.table.end_mut(at) else { return };
        socket.learn(input, life);
        let (role, state) = (life.role, life.state());
        if to == TcpState::Close {
            self.drop_successor(at, time);
        }
        // Two sockets never have the same addresses: this one took over from the timewait socket.
        self.reuse_time_wait(at, time, Evidence::Kernel, out);
        if to == TcpState::SynSent
            && let Some(connection) = self.table.get(at.place)
            && let (local, remote) = connection.tuple.addresses(at.end())
            && local.port() == 0
        {
            self.connecting.insert(Route::of(input.netns, local, remote), at.place, time);
            if let Some(socket) = self.table.socket_mut(at) {
                socket.defer_syn_sent(time);
            }
            self.table.touch_socket(at, SocketKey::of(input), time);
            return;
        }
        let context = TransitionContext {
            role,
            sk_err: input.tcp.map_or(0, |tcp| tcp.sk_err),
            peer_closed: input.peer_closed,
        };
        match outcome(from, to, context) {
            // The half-open request that it takes over from was reported to be.
            Outcome::Continues if is_child && state == to => {
                self.table.touch_socket(at, SocketKey::of(input), time);
            }
            meaning @ (Outcome::Continues | Outcome::Established) => {
                self.enter(at, from, to, time, meaning, out);
                self.table.touch_socket(at, SocketKey::of(input), time);
            }
            meaning @ (Outcome::HandshakeFailed(_) | Outcome::ListenerClosed) => {
                self.enter(at, from, to, time, meaning, out);
                self.end_socket(at, SocketEnd::Closed, time);
            }
            Outcome::Closed(closed_by) => {
                let meaning = Outcome::Closed(self.blame(at, from, closed_by));
                self.enter(at, from, to, time, meaning, out);
                self.end_socket(at, SocketEnd::Closed, time);
            }
            meaning @ Outcome::EntersTimeWait(_) => {
                self.enter(at, from, TcpState::TimeWait, time, meaning, out);
                self.start_time_wait(at, time);
            }
            Outcome::EntersFinWait2Timewait => self.await_fin(at, time, out),
        }
        self.table.note_use(at.place, time);
    }

    pub(super) fn enter(
        &mut self,
        at: EndRef,
        from: TcpState,
        to: TcpState,
        time: Time,
        meaning: Outcome,
        out: &mut Vec<Event>,
    ) {
        let Some(connection) = self.table.get_mut(at.place) else { return };
        let begins = !is_synchronized(to) && to != TcpState::Close;
        if begins && connection.ends[at.end()].is_living() {
            // The end of the last connection was lost, and what was seen since was taken to be of
            // that one.
            connection.discard_segments();
        }
        // The SYN follows.
        connection.is_seen |= to == TcpState::SynSent && connection.is_indexed;
        let transition = Transition { from, to, time, evidence: Evidence::Kernel };
        connection.enter(at.end(), transition, meaning, out);
    }

    /// A socket not known before, or at the beginning of a new life. If it is a listener's child,
    /// its SYN_RECV is reported first.
    fn meet(
        &mut self,
        last: Option<EndRef>,
        input: &SocketInput,
        from: TcpState,
        to: TcpState,
        out: &mut Vec<Event>,
    ) -> Option<EndRef> {
        let time = input.time;
        let is_living = |tracker: &Self, at: EndRef| {
            tracker.table.end(at).is_some_and(|end| end.socket.is_some() && end.is_living())
        };
        let was_living = last.is_some_and(|at| is_living(self, at));
        if let Some(at) = last {
            self.end_socket(at, SocketEnd::Closed, time);
        }
        if to != TcpState::Close {
            self.make_room(time);
        }
        let mut life = Life::of_socket(Identity::NONE, from, to, input.role);
        let (tuple, end) = Tuple::of(input.netns, input.local, input.remote);
        let first = match life.role {
            Role::Client => end,
            Role::Server => tuple.peer_of(end),
        };
        let place = if tuple.is_complete() {
            self.table.find_or_add(&tuple, first, time)?
        } else {
            let id = (input.remote.port() != 0).then(|| self.table.ids.next());
            self.table.add_unindexed(id, tuple, first, time)
        };
        let at = EndRef::new(place, end);
        let was_living = was_living || is_living(self, at);
        let (connection, ids) = self.table.get_with_ids(place)?;
        let mine = &connection.ends[end];
        let is_fresh = mine.socket.is_none()
            && !mine.is_closed()
            && (life.role == Role::Server || mine.sent.isn().is_none());
        let begins = matches!(from, TcpState::Close | TcpState::Listen);
        if begins && was_living {
            connection.discard_segments();
        }
        if begins && !is_fresh {
            match life.role {
                Role::Client => connection.renew_by_socket(Some(ids.next()), first),
                // Its peer's SYN has come.
                Role::Server => connection.renew(Some(ids.next()), first),
            }
        }
        let of = connection.identity(end);
        let mine = &mut connection.ends[end];
        // A listener's child is in SYN_RECV for as long as its half-open request was.
        let is_child = from == TcpState::SynRecv || (from, to) == (TcpState::Listen, TcpState::SynRecv);
        let takes_over = is_child && mine.life.is_inferred_in(TcpState::SynRecv);
        if takes_over {
            mine.life.continue_as_child();
        } else {
            life.set_identity(of);
            mine.life = life;
        }
        self.table.add_socket(at, Box::new(Socket::of(input)), time);
        self.note_kernel(place, time);
        if from == TcpState::SynRecv {
            let entered_syn_recv = self.unaddressed.remove(input.netns, input.sk).filter(|_| !takes_over);
            if let Some(entered_syn_recv) = entered_syn_recv {
                if let Some(end) = self.table.end_mut(at) {
                    end.life.role = Role::Server;
                }
                self.reuse_time_wait(at, entered_syn_recv, Evidence::Kernel, out);
                self.enter(
                    at,
                    TcpState::Listen,
                    TcpState::SynRecv,
                    entered_syn_recv,
                    Outcome::Continues,
                    out,
                );
            }
        }
        Some(at)
    }

    /// The end that has the socket of an input. Reports its SYN_SENT if its port was not known
    /// until now.
    fn locate(&mut self, input: &SocketInput, out: &mut Vec<Event>) -> Option<EndRef> {
        let mut known = self.table.find_socket(&SocketKey::of(input));
        // What was reported of it wins over what was found in a dump.
        let is_from_dump = |at| self.table.socket(at).is_some_and(Socket::is_from_dump);
        if input.cookie != 0 && known.is_none_or(is_from_dump) {
            let without = self.table.find_socket(&SocketKey::without_cookie(input)).filter(|at| {
                let connection = self.table.get(at.place);
                connection.is_some_and(|it| it.tuple.addresses(at.end()).1 == input.remote)
            });
            if without.is_some() {
                if let Some(at) = known {
                    self.end_socket(at, SocketEnd::Evicted, input.time);
                }
                known = without;
            }
            if let Some(at) = without {
                self.table.touch_socket(at, SocketKey::of(input), input.time);
            }
        }
        let at = known?;
        let Some((route, deferred)) = self.route_of(at) else { return Some(at) };
        self.connecting.remove(route, at.place, deferred);
        let opens_again = matches!(input.kind, SocketEvent::State { from: TcpState::Close, .. });
        if opens_again { Some(at) } else { self.set_port(at, input.local, input.time, out) }
    }

    /// The socket of an end is followed no more.
    pub(super) fn end_socket(&mut self, at: EndRef, end: SocketEnd, now: Time) {
        let had_socket = self.table.take_socket(at).is_some();
        if let Some(known) = self.table.end_mut(at).filter(|_| had_socket) {
            match end {
                SocketEnd::Closed => known.close(),
                SocketEnd::Evicted => known.forget_life(),
            }
        }
        self.table.note_use(at.place, now);
    }

    /// Data that comes after the application closed makes the kernel set ECONNRESET, as for a RST
    /// of the peer, though it is this end that sends one (kernel: `TCPABORTONDATA`). If segments
    /// are seen, but no RST of the peer, it was that.
    fn blame(&self, at: EndRef, from: TcpState, closed_by: ClosedBy) -> ClosedBy {
        let Some(connection) = self.table.get(at.place) else { return closed_by };
        let peer = &connection.ends[connection.tuple.peer_of(at.end())];
        if closed_by == ClosedBy::RemoteReset
            && may_be_late_data(from)
            && peer.sent.isn().is_some()
            && !peer.sent_rst
        {
            ClosedBy::LocalReset
        } else {
            closed_by
        }
    }
}

fn event_of(input: &SocketInput, kind: EventKind) -> Event {
    Event { netns: input.netns, cookie: input.cookie, ..Event::new(input.time, kind) }
}
