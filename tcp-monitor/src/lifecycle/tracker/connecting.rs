//! Sockets in SYN_SENT whose local port is not known yet: the kernel enters SYN_SENT before it
//! chooses the port.
//!
//! Their SYN, which follows at once, shows the port, if only one of them connects to its
//! destination just now. If not, the socket's next input does. Where neither comes soon, their
//! SYN_SENT is reported without the port.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::lifecycle::input::SegmentInput;
use crate::lifecycle::map::Map;
use crate::lifecycle::queues::Place;
use crate::lifecycle::time::Time;
use crate::lifecycle::tuple::Address;

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
