//! Sockets in SYN_SENT whose local port is not known yet: the kernel enters SYN_SENT before it chooses the port.
//!
//! Their SYN, which follows at once, tells the port, if only one of them connects to its destination just now. If not,
//! the socket's next input does.

use std::net::{IpAddr, SocketAddr};

use super::input::{SegmentInput, SocketInput};
use super::socket::Socket;
use super::table::Table;
use super::time::Time;
use super::tracker::SocketKey;

/// The sockets, by the part of their addresses that is known.
#[derive(Debug)]
pub(super) struct Connecting {
    table: Table<Place, Vec<SocketKey>>,
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
        Self { table: Table::new(limit) }
    }

    pub(super) fn insert(&mut self, input: &SocketInput, key: SocketKey) {
        let place = Place { netns: input.netns, local: input.local.ip(), remote: input.remote };
        match self.table.touch(&place, input.time) {
            Some(keys) if keys.len() < MAX_AT_ONCE => keys.push(key),
            // More than that are not told apart by their SYN anyway.
            Some(_) => {}
            None => {
                self.table.insert(place, vec![key], input.time);
            }
        }
    }

    pub(super) fn remove(&mut self, socket: &Socket, key: SocketKey, now: Time) {
        let place = Place { netns: socket.netns(), local: socket.local.ip(), remote: socket.remote };
        let Some(keys) = self.table.touch(&place, now) else { return };
        keys.retain(|other| *other != key);
        if keys.is_empty() {
            self.table.remove(&place);
        }
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

const MAX_AT_ONCE: usize = 64;
