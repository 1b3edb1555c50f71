//! All connections, and how they are found: by their addresses in a network namespace, and by their
//! sockets.
//!
//! Each is in one slab, in a queue of its class. What times out of a connection by itself, its
//! timewait sockets and what is inferred of it, has an entry in a queue of its own, and so have its
//! sockets, which are evicted when they are too many.

use std::hash::BuildHasher;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::lifecycle::connection::class::Class;
use crate::lifecycle::connection::inference::{Ids, Inference};
use crate::lifecycle::connection::socket::{Socket, SocketKey};
use crate::lifecycle::connection::{Connection, EndRef, ORDERED_TO};
use crate::lifecycle::event::ConnectionId;
use crate::lifecycle::lookups;
use crate::lifecycle::queues::{Place, Queues};
use crate::lifecycle::time::Time;
use crate::lifecycle::tuple::Tuple;

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
    /// Connections of which something is inferred, by the class of that.
    pub(super) inferences: Queues<Place, { Class::ALL.len() }>,
    pub(super) ids: Ids,
    /// So many may show their numbers, and so many of them without their handshake being complete.
    max_seen: usize,
    max_opening: usize,
    pub(super) evicted: u64,
}

/// The connections, by their lifetime.
pub(super) type Slab = Queues<Connection, { Lifetime::ALL.len() }>;

/// A connection as a network namespace knows it.
#[derive(Clone, Copy, Debug)]
struct Known {
    place: Place,
    netns: u32,
}

/// For how long what its segments show of a connection is remembered. The lower, the less is lost
/// with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// Its sockets here are closed: only stragglers are to come.
    Closed,
    /// No socket of it is known here, and its handshake is not complete.
    Opening,
    /// No socket of it is known here.
    Sockless,
    /// As long as its sockets.
    WithSocket,
    /// Nothing of its segments is remembered.
    Unseen,
}

impl Lifetime {
    const ALL: [Self; 5] = [Self::Closed, Self::Opening, Self::Sockless, Self::WithSocket, Self::Unseen];

    const fn timeout(self) -> Option<Duration> {
        match self {
            Self::Closed => Some(CLOSED),
            Self::Opening | Self::Sockless => Some(IDLE),
            Self::WithSocket | Self::Unseen => None,
        }
    }
}

impl Table {
    /// Bytes that a connection with one socket takes, and one that is inferred.
    #[cfg(test)]
    pub(super) const ENTRY: [usize; 2] = {
        use crate::lifecycle::map::INDEX_ENTRY;
        let connection = Queues::<Connection, 5>::ENTRY + (size_of::<Known>() + 1) * 16 / 7;
        let socket = size_of::<Socket>() + Queues::<EndRef, 5>::ENTRY + INDEX_ENTRY;
        [connection + socket, connection + size_of::<Inference>() + Queues::<Place, 5>::ENTRY]
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
            inferences: Queues::new(limit),
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
            Some(connections.insert(connection, Lifetime::Unseen as usize, now))
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
            Some(connections.insert(connection, Lifetime::Unseen as usize, now))
        })
    }

    /// Another end has the socket from now on.
    pub(super) fn move_socket(&mut self, from: EndRef, to: EndRef) -> EndRef {
        if from == to {
            return to;
        }
        self.take_socket(to);
        let connection = self.connections.get_mut(from.place);
        let Some(socket) = connection.and_then(|connection| connection.ends[from.end()].socket.take()) else {
            return from;
        };
        lookups::count();
        let hash = self.hasher.hash_one(socket.key);
        if let Some(known) = self.by_socket.find_mut(hash, |known| *known == from) {
            *known = to;
        }
        if let Some(queued) = socket.queued.and_then(|queued| self.sockets.get_mut(queued)) {
            *queued = to;
        }
        if let Some(connection) = self.connections.get_mut(to.place) {
            connection.ends[to.end()].socket = Some(socket);
        }
        self.drop_if_empty(from.place);
        to
    }

    /// Adds a connection whose addresses are not known as a whole, or a listener.
    pub(super) fn add_unindexed(
        &mut self,
        id: Option<ConnectionId>,
        tuple: Tuple,
        first: usize,
        now: Time,
    ) -> Place {
        self.connections.insert(Connection::new(id, tuple, first), Lifetime::Unseen as usize, now)
    }

    /// The end that has this socket.
    pub(super) fn find_socket(&self, key: &SocketKey) -> Option<EndRef> {
        lookups::count();
        let is_it = |at: &EndRef| self.socket(*at).is_some_and(|socket| socket.key == *key);
        self.by_socket.find(self.hasher.hash_one(key), is_it).copied()
    }

    pub(super) fn socket(&self, at: EndRef) -> Option<&Socket> {
        self.connections.get(at.place)?.ends[at.end()].socket.as_deref()
    }

    pub(super) fn socket_mut(&mut self, at: EndRef) -> Option<&mut Socket> {
        self.connections.get_mut(at.place)?.ends[at.end()].socket.as_deref_mut()
    }

    /// An end has this socket from now on.
    pub(super) fn add_socket(&mut self, at: EndRef, mut socket: Box<Socket>, now: Time) {
        self.take_socket(at);
        let key = socket.key;
        socket.queued = Some(self.sockets.insert(at, Class::of_end(socket.life.state()) as usize, now));
        if let Some(connection) = self.connections.get_mut(at.place) {
            connection.ends[at.end()].socket = Some(socket);
        }
        lookups::count();
        let Self { by_socket, hasher, connections, .. } = self;
        let rehash = |at: &EndRef| {
            let connection = connections.get(at.place);
            let socket = connection.and_then(|connection| connection.ends[at.end()].socket.as_ref());
            socket.map_or(0, |socket| hasher.hash_one(socket.key))
        };
        by_socket.insert_unique(hasher.hash_one(key), at, rehash);
    }

    /// An end has no socket any more.
    pub(super) fn take_socket(&mut self, at: EndRef) -> Option<Box<Socket>> {
        let key = self.socket(at)?.key;
        lookups::count();
        let hash = self.hasher.hash_one(key);
        if let Ok(entry) = self.by_socket.find_entry(hash, |known| *known == at) {
            entry.remove();
        }
        let mut socket = self.connections.get_mut(at.place)?.ends[at.end()].socket.take()?;
        if let Some(queued) = socket.queued.take() {
            self.sockets.remove(queued);
        }
        Some(socket)
    }

    /// The socket of an end is known under this key, and was used now.
    pub(super) fn touch_socket(&mut self, at: EndRef, key: SocketKey, now: Time) {
        let Some(socket) = self.socket(at) else { return };
        if socket.key == key {
            let class = Class::of_end(socket.life.state()) as usize;
            if let Some(queued) = socket.queued {
                self.sockets.queue(queued, class, now, ORDERED_TO);
            }
        } else if let Some(mut socket) = self.take_socket(at) {
            socket.key = key;
            self.add_socket(at, socket, now);
        }
    }

    /// Remembers what is inferred of a connection.
    pub(super) fn add_inference(&mut self, place: Place, sees_all_segments: bool, now: Time) {
        let Some(connection) = self.connections.get_mut(place) else { return };
        let queued = self.inferences.insert(place, Class::Closed as usize, now);
        let of = [0, 1].map(|end| connection.identity(end));
        connection.inference = Some(Box::new(Inference::new(sees_all_segments, of, queued)));
    }

    /// Discards what is inferred of a connection.
    pub(super) fn drop_inference(&mut self, place: Place) {
        let Some(connection) = self.connections.get_mut(place) else { return };
        if let Some(inference) = connection.inference.take() {
            self.inferences.remove(inference.queued);
        }
        self.drop_if_empty(place);
    }

    /// A segment of the connection was seen: it is remembered for as long as one without a socket,
    /// or with one.
    pub(super) fn note_segment(&mut self, place: Place, now: Time) {
        let Some(connection) = self.connections.get(place) else { return };
        let lifetime = if connection.has_socket() {
            Lifetime::WithSocket
        } else if connection.acknowledged {
            Lifetime::Sockless
        } else {
            Lifetime::Opening
        };
        self.set_lifetime(place, lifetime, now);
    }

    /// A socket of the connection changed its state, or went.
    pub(super) fn note_socket(&mut self, place: Place, now: Time) {
        let Some(connection) = self.connections.get(place) else { return };
        let lifetime = match (connection.is_seen, connection.has_socket()) {
            (false, _) => Lifetime::Unseen,
            (true, true) => Lifetime::WithSocket,
            (true, false) => Lifetime::Closed,
        };
        self.set_lifetime(place, lifetime, now);
        self.drop_if_empty(place);
    }

    /// Discards what its segments showed of a connection without sockets, and the connection, if
    /// that was all.
    pub(super) fn discard_segments(&mut self, place: Place, now: Time) {
        let Some(connection) = self.connections.get_mut(place) else { return };
        connection.discard_segments();
        self.connections.queue(place, Lifetime::Unseen as usize, now, Duration::ZERO);
        self.drop_if_empty(place);
    }

    /// When [`Self::expire`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        Lifetime::ALL.into_iter().filter_map(|lifetime| self.first_of(lifetime)).map(|(due, _)| due).min()
    }

    /// Discards what the segments of connections showed that have no socket here and were silent
    /// for long.
    pub(super) fn expire(&mut self, now: Time) {
        for lifetime in Lifetime::ALL {
            while let Some((deadline, place)) = self.first_of(lifetime)
                && deadline <= now
            {
                self.discard_segments(place, now);
            }
        }
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

    fn set_lifetime(&mut self, place: Place, lifetime: Lifetime, now: Time) {
        self.connections.queue(place, lifetime as usize, now, ORDERED_TO);
        while self.connections.count(Lifetime::Opening as usize) > self.max_opening {
            self.evict_segments(Lifetime::Opening, now);
        }
        let seen =
            |table: &Self| table.connections.len() - table.connections.count(Lifetime::Unseen as usize);
        while seen(self) > self.max_seen {
            let lowest =
                Lifetime::ALL.into_iter().find(|lifetime| self.connections.count(*lifetime as usize) > 0);
            self.evict_segments(lowest.unwrap_or(lifetime), now);
        }
    }

    /// Discards what segments showed of the connection that is the first of this lifetime, and
    /// counts it.
    fn evict_segments(&mut self, lifetime: Lifetime, now: Time) {
        if let Some((_, place)) = self.connections.front(lifetime as usize) {
            self.evicted += 1;
            self.discard_segments(place, now);
        }
    }

    fn first_of(&self, lifetime: Lifetime) -> Option<(Time, Place)> {
        let timeout = lifetime.timeout()?;
        self.connections.front(lifetime as usize).map(|(queued, place)| (queued + timeout, place))
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
    connections.insert(Connection::new(id, tuple, first), Lifetime::Unseen as usize, now)
}

impl Known {
    fn is<const N: usize>(&self, tuple: &Tuple, connections: &Queues<Connection, N>) -> bool {
        let connection = connections.get(self.place).filter(|_| self.netns == tuple.netns);
        connection.is_some_and(|connection| connection.tuple.has_addresses_of(tuple))
    }
}

/// How long a connection without a socket here is remembered: longer than the longest pause between
/// two SYNs that a kernel retransmits by default (64 s).
const IDLE: Duration = Duration::from_secs(70);
/// How long it is remembered after its sockets here are closed.
const CLOSED: Duration = Duration::from_secs(5);
