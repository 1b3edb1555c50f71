//! All connections, and how they are found: by their addresses in a network namespace, and by their
//! sockets.
//!
//! Each is in one slab, and there in one queue: that of what keeps it. Its sockets and its timewait
//! sockets queue by themselves, for they are evicted and time out by themselves.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::lifecycle::connection::class::Class;
use crate::lifecycle::connection::inference::Ids;
use crate::lifecycle::connection::{Connection, EndRef};
use crate::lifecycle::event::ConnectionId;
use crate::lifecycle::lookups;
use crate::lifecycle::queues::{Place, Queues};
use crate::lifecycle::time::Time;
use crate::lifecycle::tuple::Tuple;
use retention::{Lifetime, Retention};

mod retention;
mod sockets;

/// The connections of every network namespace.
#[derive(Debug)]
pub(super) struct Table {
    connections: Slab,
    /// By the addresses in a network namespace. A connection whose packets several namespaces see
    /// is there as often.
    by_tuple: HashTable<Known>,
    /// By the key of a socket.
    by_socket: HashTable<EndRef>,
    /// Keys come from the network. With a seed of its own in each process it is unknown which of
    /// them collide.
    hasher: RandomState,
    /// Sockets, by the class of their state.
    pub(super) sockets: Queues<EndRef, { Class::ALL.len() }>,
    pub(super) ids: Ids,
    /// So many may show their numbers, and so many of them without their handshake being complete.
    max_seen: usize,
    max_opening: usize,
    pub(super) evicted: u64,
}

/// The connections, by what keeps them.
pub(super) type Slab = Queues<Connection, { Retention::COUNT }>;

/// A connection as a network namespace knows it.
#[derive(Clone, Copy, Debug)]
struct Known {
    place: Place,
    netns: u32,
}

impl Table {
    /// Bytes that a connection with one socket takes, and one that is inferred.
    #[cfg(test)]
    pub(super) const ENTRY: [usize; 2] = {
        use crate::lifecycle::connection::{inference::Inference, socket::Socket};
        use crate::lifecycle::map::INDEX_ENTRY;
        let connection = Slab::ENTRY + (size_of::<Known>() + 1) * 16 / 7;
        let socket = size_of::<Socket>() + Queues::<EndRef, 5>::ENTRY + INDEX_ENTRY;
        [connection + socket, connection + size_of::<Inference>()]
    };

    /// Of at most `limit` connections it is remembered what their segments show, and of those that
    /// are opening of `max_opening`.
    pub(super) fn new(limit: usize, max_opening: usize) -> Self {
        Self {
            connections: Queues::new(limit),
            by_tuple: HashTable::new(),
            by_socket: HashTable::new(),
            hasher: RandomState::default(),
            sockets: Queues::new(limit),
            ids: Ids::default(),
            max_seen: limit,
            max_opening,
            evicted: 0,
        }
    }

    /// All of them, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &Connection> {
        self.connections.values()
    }

    pub(super) fn get(&self, place: Place) -> Option<&Connection> {
        self.connections.get(place)
    }

    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut Connection> {
        self.connections.get_mut(place)
    }

    /// A connection, and where numbers come from.
    pub(super) fn get_with_ids(&mut self, place: Place) -> Option<(&mut Connection, &mut Ids)> {
        Some((self.connections.get_mut(place)?, &mut self.ids))
    }

    /// The connection with these addresses.
    pub(super) fn find(&self, tuple: &Tuple) -> Option<Place> {
        lookups::count();
        let is_it = |known: &Known| known.is(tuple, &self.connections);
        self.by_tuple.find(self.hasher.hash_one(tuple), is_it).map(|known| known.place)
    }

    /// The connection with these addresses. If there is none, `missing` says which it is from now
    /// on.
    pub(super) fn find_or(
        &mut self,
        tuple: &Tuple,
        missing: impl FnOnce(&mut Slab, &mut Ids) -> Option<Place>,
    ) -> Option<Place> {
        lookups::count();
        let Self { by_tuple, connections, hasher, ids, .. } = self;
        let is_it = |known: &Known| known.is(tuple, connections);
        let rehash = |known: &Known| {
            connections.get(known.place).map_or(0, |it| hasher.hash_one(it.tuple.in_netns(known.netns)))
        };
        let entry = by_tuple.entry(hasher.hash_one(tuple), is_it, rehash);
        let vacant = match entry {
            Entry::Occupied(entry) => return Some(entry.get().place),
            Entry::Vacant(vacant) => vacant,
        };
        let place = missing(connections, ids)?;
        let connection = connections.get_mut(place)?;
        if connection.is_indexed {
            connection.add_namespace(tuple.netns);
        } else {
            (connection.is_indexed, connection.tuple) = (true, *tuple);
        }
        vacant.insert(Known { place, netns: tuple.netns });
        Some(place)
    }

    /// The connection with these addresses; if there is none, a new one, which the end `first`
    /// opened.
    pub(super) fn find_or_add(&mut self, tuple: &Tuple, first: usize, now: Time) -> Option<Place> {
        self.find_or(tuple, |connections, ids| {
            let connection = Connection::new(Some(ids.next()), *tuple, first);
            Some(connections.insert(connection, Retention::Seen(Lifetime::Unseen).queue(), now))
        })
    }

    /// The same; if there is none, a new one with this number.
    pub(super) fn find_or_add_as(
        &mut self,
        tuple: &Tuple,
        id: Option<ConnectionId>,
        first: usize,
        now: Time,
    ) -> Option<Place> {
        self.find_or(tuple, |connections, _| {
            let connection = Connection::new(id, *tuple, first);
            Some(connections.insert(connection, Retention::Seen(Lifetime::Unseen).queue(), now))
        })
    }

    /// Adds a connection whose addresses are not known as a whole, or a listener.
    pub(super) fn add_unindexed(
        &mut self,
        id: Option<ConnectionId>,
        tuple: Tuple,
        first: usize,
        now: Time,
    ) -> Place {
        self.connections.insert(
            Connection::new(id, tuple, first),
            Retention::Seen(Lifetime::Unseen).queue(),
            now,
        )
    }

    pub(super) fn drop_if_empty(&mut self, place: Place) {
        if self.connections.get(place).is_none_or(|connection| !connection.is_empty()) {
            return;
        }
        let Some(connection) = self.connections.remove(place) else { return };
        if connection.is_indexed {
            for netns in connection.namespaces() {
                let hash = self.hasher.hash_one(connection.tuple.in_netns(netns));
                if let Ok(entry) = self.by_tuple.find_entry(hash, |known| known.place == place) {
                    entry.remove();
                }
            }
        }
    }
}

/// Adds a connection to a slab.
pub(super) fn insert(
    connections: &mut Slab,
    id: Option<ConnectionId>,
    tuple: Tuple,
    first: usize,
    now: Time,
) -> Place {
    connections.insert(Connection::new(id, tuple, first), Retention::Seen(Lifetime::Unseen).queue(), now)
}

impl Known {
    fn is<const N: usize>(&self, tuple: &Tuple, connections: &Queues<Connection, N>) -> bool {
        let connection = connections.get(self.place).filter(|_| self.netns == tuple.netns);
        connection.is_some_and(|connection| connection.tuple.has_addresses_of(tuple))
    }
}
