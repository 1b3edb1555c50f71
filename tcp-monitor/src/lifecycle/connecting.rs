//! Sockets in SYN_SENT whose local port is not known yet: the kernel enters SYN_SENT before it chooses the port.
//!
//! Their SYN, which follows at once, tells the port, if only one of them connects to its destination just now. If not,
//! the socket's next input does. Where neither comes soon, their SYN_SENT is told without the port.

use std::collections::BTreeSet;
use std::time::Duration;

use super::address::Address;
use super::input::SegmentInput;
use super::queues::Queues;
use super::socket::Socket;
use super::time::Time;
use super::tracker::SocketKey;

/// The sockets, by the part of their addresses that is known.
#[derive(Debug)]
pub(super) struct Connecting {
    routes: Queues<Route, Vec<SocketKey>, 1>,
    /// Those whose SYN_SENT is not told yet, by when they entered it.
    untold: BTreeSet<(Time, SocketKey)>,
}

/// From where to where, without the local port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Route {
    netns: u32,
    local: Address,
    remote: Address,
}

impl Connecting {
    pub(super) fn new(limit: usize) -> Self {
        Self { routes: Queues::new(limit), untold: BTreeSet::new() }
    }

    /// Adds a socket that entered SYN_SENT at `now`, which is not told yet.
    pub(super) fn insert(&mut self, socket: &Socket, key: SocketKey, now: Time) {
        self.untold.insert((now, key));
        let route = Route::of(socket);
        let Some(place) = self.routes.find(&route) else {
            self.routes.insert(route, vec![key], 0, now);
            return;
        };
        self.routes.queue(place, 0, now, Duration::ZERO);
        // More than that are not told apart by their SYN anyway.
        if let Some(keys) = self.routes.get_mut(place).filter(|keys| keys.len() < MAX_AT_ONCE) {
            keys.push(key);
        }
    }

    pub(super) fn remove(&mut self, socket: &Socket, key: SocketKey) {
        if let Some(since) = socket.untold_syn_sent {
            self.untold.remove(&(since, key));
        }
        let Some(place) = self.routes.find(&Route::of(socket)) else { return };
        let Some(keys) = self.routes.get_mut(place) else { return };
        keys.retain(|other| *other != key);
        if keys.is_empty() {
            self.routes.remove_at(place);
        }
    }

    /// When the first of those not told yet entered SYN_SENT.
    pub(super) fn first_untold(&self) -> Option<Time> {
        self.untold.first().map(|(since, _)| *since)
    }

    /// When the first of those not told yet is to be told without its port.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.first_untold().map(|since| since + PORT_KNOWN_WITHIN)
    }

    /// Takes the first that is to be told without its port. It stays among those whose SYN may come.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<SocketKey> {
        if self.next_deadline()? > now {
            return None;
        }
        self.untold.pop_first().map(|(_, key)| key)
    }

    /// The one socket whose SYN `syn` can be.
    pub(super) fn sender_of(&self, syn: &SegmentInput) -> Option<SocketKey> {
        let local = Address::from(syn.src).host();
        let route = Route { netns: syn.netns, local, remote: syn.dst.into() };
        match self.routes.get(self.routes.find(&route)?)?.as_slice() {
            [key] => Some(*key),
            _ => None,
        }
    }

    pub(super) fn evicted(&self) -> u64 {
        self.routes.evicted()
    }
}

impl Route {
    fn of(socket: &Socket) -> Self {
        Self { netns: socket.netns(), local: socket.local.host(), remote: socket.remote }
    }
}

/// Many times what lies between SYN_SENT and the SYN, unless the SYN waits for the answer to ARP or ND. Lines must not wait
/// that long: they come within 100 ms, half of which may pass until the records are read.
const PORT_KNOWN_WITHIN: Duration = Duration::from_millis(20);
const MAX_AT_ONCE: usize = 64;
