//! Sockets in SYN_SENT whose local port is not known yet: the kernel enters SYN_SENT before it chooses the port.
//!
//! Their SYN, which follows at once, tells the port, if only one of them connects to its destination just now. If not,
//! the socket's next input does. Where neither comes soon, their SYN_SENT is told without the port.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::input::SegmentInput;
use super::socket::Socket;
use super::table::Table;
use super::time::Time;
use super::tracker::SocketKey;

/// The sockets, by the part of their addresses that is known.
#[derive(Debug)]
pub(super) struct Connecting {
    table: Table<Place, Vec<SocketKey>>,
    /// Those whose SYN_SENT is not told yet, by when they entered it.
    untold: BTreeSet<(Time, SocketKey)>,
}

/// From where to where, without the local port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    netns: u32,
    local: IpAddr,
    remote: SocketAddr,
}

impl Connecting {
    pub(super) fn new(limit: usize) -> Self {
        Self { table: Table::new(limit), untold: BTreeSet::new() }
    }

    /// Adds a socket that entered SYN_SENT at `now`, which is not told yet.
    pub(super) fn insert(&mut self, socket: &Socket, key: SocketKey, now: Time) {
        self.untold.insert((now, key));
        let place = Place::of(socket);
        match self.table.touch(&place, now) {
            Some(keys) if keys.len() < MAX_AT_ONCE => keys.push(key),
            // More than that are not told apart by their SYN anyway.
            Some(_) => {}
            None => {
                self.table.insert(place, vec![key], now);
            }
        }
    }

    pub(super) fn remove(&mut self, socket: &Socket, key: SocketKey, now: Time) {
        if let Some(since) = socket.untold_syn_sent {
            self.untold.remove(&(since, key));
        }
        let place = Place::of(socket);
        let Some(keys) = self.table.touch(&place, now) else { return };
        keys.retain(|other| *other != key);
        if keys.is_empty() {
            self.table.remove(&place);
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
        let place = Place { netns: syn.netns, local: syn.src.ip(), remote: syn.dst };
        match self.table.get(&place)?.as_slice() {
            [key] => Some(*key),
            _ => None,
        }
    }

    pub(super) fn evicted(&self) -> u64 {
        self.table.evicted()
    }
}

impl Place {
    fn of(socket: &Socket) -> Self {
        Self { netns: socket.netns(), local: socket.local.ip(), remote: socket.remote }
    }
}

/// Many times what lies between SYN_SENT and the SYN, unless the SYN waits for the answer to ARP or ND. Lines must not wait
/// that long: they come within 100 ms, half of which may pass until the records are read.
pub(super) const PORT_KNOWN_WITHIN: Duration = Duration::from_millis(20);
const MAX_AT_ONCE: usize = 64;
