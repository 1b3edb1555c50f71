//! Sockets in SYN_SENT whose local port is not known yet: the kernel enters SYN_SENT before it
//! chooses the port.
//!
//! Their SYN, which follows at once, shows the port, if only one of them connects to its
//! destination just now. If not, the socket's next input does. Where neither comes soon, their
//! SYN_SENT is reported without the port.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::transition::Outcome;

use super::Tracker;
use crate::lifecycle::connection::EndRef;
use crate::lifecycle::connection::endpoint::Endpoint;
use crate::lifecycle::event::{Event, Evidence};
use crate::lifecycle::input::{SegmentInput, SocketInput};
use crate::lifecycle::map::Map;
use crate::lifecycle::queues::Place;
use crate::lifecycle::time::Time;
use crate::lifecycle::tuple::{Address, Tuple};

/// Their connections, by the part of the addresses that is known.
#[derive(Debug)]
pub(super) struct Connecting {
    routes: Map<Route, Vec<Place>, 1>,
    /// Those whose SYN_SENT is not reported yet, by when they entered it.
    deferred: BTreeSet<(Time, Place)>,
}

/// From where to where, without the local port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Route {
    netns: u32,
    local: Address,
    remote: Address,
}

impl Connecting {
    pub(super) fn new(limit: usize) -> Self {
        Self { routes: Map::new(limit), deferred: BTreeSet::new() }
    }

    /// Adds a connection whose socket entered SYN_SENT at `now`, which is not reported yet.
    pub(super) fn insert(&mut self, route: Route, connection: Place, now: Time) {
        self.deferred.insert((now, connection));
        let (place, _) = self.routes.find_or_insert(route, Vec::new(), 0, now);
        self.routes.queue(place, 0, now, Duration::ZERO);
        // More than that cannot be distinguished by their SYN anyway.
        if let Some(connections) = self.routes.get_mut(place).filter(|known| known.len() < MAX_AT_ONCE) {
            connections.push(connection);
        }
    }

    /// Removes a connection. `deferred` is when it entered SYN_SENT, if that is not reported yet.
    pub(super) fn remove(&mut self, route: Route, connection: Place, deferred: Option<Time>) {
        if let Some(since) = deferred {
            self.deferred.remove(&(since, connection));
        }
        if self.routes.is_empty() {
            return;
        }
        let Some(place) = self.routes.find(&route) else { return };
        let Some(connections) = self.routes.get_mut(place) else { return };
        connections.retain(|other| *other != connection);
        if connections.is_empty() {
            self.routes.remove_at(place);
        }
    }

    /// A connection that was taken is reported now.
    pub(super) fn remove_deferred(&mut self, connection: Place, since: Time) {
        self.deferred.remove(&(since, connection));
    }

    /// When the first of those not reported yet entered SYN_SENT.
    pub(super) fn first_deferred(&self) -> Option<Time> {
        self.deferred.first().map(|(since, _)| *since)
    }

    /// When the first of those not reported yet is to be reported without its port.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.first_deferred().map(|since| since + PORT_KNOWN_WITHIN)
    }

    /// Takes the first that is to be reported without its port. It stays among those whose SYN may
    /// come.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<Place> {
        if self.next_deadline()? > now {
            return None;
        }
        self.deferred.pop_first().map(|(_, connection)| connection)
    }

    /// Takes the one connection whose SYN `syn` can be.
    pub(super) fn take_sender_of(&mut self, syn: &SegmentInput) -> Option<Place> {
        if self.routes.is_empty() {
            return None;
        }
        let route = Route::of(syn.netns, syn.src, syn.dst);
        let connections = self.routes.remove_if(&route, |connections| connections.len() == 1)?;
        connections.first().copied()
    }

    pub(super) fn evicted(&self) -> u64 {
        self.routes.evicted()
    }
}

impl Tracker {
    /// The route of a socket that connects and whose local port is not known yet, and when it
    /// entered SYN_SENT if that is not reported yet.
    pub(super) fn route_of(&self, at: EndRef) -> Option<(Route, Option<Time>)> {
        let Endpoint { life, socket: Some(socket), .. } = self.table.end(at)? else { return None };
        let deferred = socket.deferred_syn_sent();
        let connects = deferred.is_some() || life.state() == TcpState::SynSent;
        if !connects {
            return None;
        }
        let (local, remote) = self.table.get(at.place)?.tuple.addresses(at.end());
        (local.port() == 0).then(|| (Route::of(socket.key.netns, local, remote), deferred))
    }

    /// The addresses of a known socket are those of its input, as far as that has them.
    pub(super) fn readdress(&mut self, at: EndRef, input: &SocketInput) -> EndRef {
        let Some(connection) = self.table.get(at.place) else { return at };
        let known = connection.tuple.addresses(at.end());
        let or = |new: SocketAddr, known| if new.port() == 0 { known } else { new };
        let addresses = (or(input.local, known.0), or(input.remote, known.1));
        if addresses == known {
            return at;
        }
        let (tuple, end) = Tuple::of(input.netns, addresses.0, addresses.1);
        let first = if connection.identity(at.end()).is_first() { end } else { tuple.peer_of(end) };
        let id = connection.id;
        if !tuple.is_complete() {
            return at;
        }
        match self.table.find_or_add_as(&tuple, id, first, input.time) {
            Some(place) => self.table.move_socket(at, EndRef::new(place, end)),
            None => at,
        }
    }

    /// The local port of a socket in SYN_SENT is known, if it is not 0. Reports its SYN_SENT,
    /// unless that was reported without.
    pub(super) fn set_port(
        &mut self,
        at: EndRef,
        local: SocketAddr,
        now: Time,
        out: &mut Vec<Event>,
    ) -> Option<EndRef> {
        let connection = self.table.get(at.place)?;
        let (netns, id) = (connection.tuple.netns, connection.id);
        let (tuple, end) = Tuple::of(netns, local, connection.tuple.addresses(at.end()).1);
        let at = if tuple.is_complete() {
            let place = self.table.find_or_add_as(&tuple, id, end, now)?;
            self.take_over(at, EndRef::new(place, end))
        } else {
            at
        };
        self.report_syn_sent(at, now, out);
        Some(at)
    }

    /// Reports the SYN_SENT of a socket whose port is known now, unless that was reported without.
    fn report_syn_sent(&mut self, at: EndRef, now: Time, out: &mut Vec<Event>) {
        let Some(socket) = self.table.socket_mut(at) else { return };
        let deferred = socket.take_deferred_syn_sent();
        let Some(connection) = self.table.get_mut(at.place) else { return };
        let has_port = connection.is_indexed;
        connection.is_seen |= has_port;
        match deferred {
            Some(since) => {
                self.reuse_time_wait(at, since, Evidence::Kernel, out);
                self.enter(at, TcpState::Close, TcpState::SynSent, since, Outcome::Continues, out);
            }
            None if has_port => self.reuse_time_wait(at, now, Evidence::Kernel, out),
            None => {}
        }
        self.table.note_use(at.place, now);
    }

    /// The SYN of a socket was seen, which shows its local port: it is of the connection with this
    /// end.
    pub(super) fn learn_port(&mut self, socket: EndRef, at: EndRef, now: Time, out: &mut Vec<Event>) {
        let at = self.take_over(socket, at);
        self.report_syn_sent(at, now, out);
    }

    /// A socket whose port was not known is of the connection with the addresses that it has now.
    fn take_over(&mut self, from: EndRef, to: EndRef) -> EndRef {
        let is_reported = self.table.socket(from).is_some_and(|socket| socket.deferred_syn_sent().is_none());
        let id = self.table.get(from.place).and_then(|connection| connection.id);
        // Its SYN may have been seen before it was known whose that was.
        let is_others = self
            .table
            .end(to)
            .is_some_and(|end| end.is_closed() || end.sent.isn().is_none() || end.time_wait.is_some());
        let at = self.table.move_socket(from, to);
        let Some(connection) = self.table.get_mut(at.place) else { return at };
        if connection.id != id && (is_reported || is_others) {
            connection.renew_by_socket(id, at.end());
        }
        let identity = connection.identity(at.end());
        connection.ends[at.end()].life.set_identity(identity);
        at
    }

    pub(super) fn report_without_port(&mut self, place: Place, now: Time, out: &mut Vec<Event>) {
        for at in [0, 1].map(|end| EndRef::new(place, end)) {
            let Some(socket) = self.table.socket_mut(at) else { continue };
            let key = socket.key;
            if let Some(since) = socket.take_deferred_syn_sent() {
                self.enter(at, TcpState::Close, TcpState::SynSent, since, Outcome::Continues, out);
            }
            self.table.touch_socket(at, key, now);
        }
    }
}

impl Route {
    pub(super) fn of(netns: u32, local: SocketAddr, remote: SocketAddr) -> Self {
        Self { netns, local: Address::from(local).host(), remote: remote.into() }
    }
}

/// Many times what lies between SYN_SENT and the SYN, unless the SYN waits for the answer to ARP or
/// ND. Lines must not wait that long: they come within 100 ms, half of which may pass until the
/// records are read.
const PORT_KNOWN_WITHIN: Duration = Duration::from_millis(20);
const MAX_AT_ONCE: usize = 64;
