//! What keeps a connection in the table, for how long, and which is evicted first.

use std::time::Duration;

use super::Table;
use crate::lifecycle::connection::class::Class;
use crate::lifecycle::connection::endpoint::Endpoint;
use crate::lifecycle::connection::inference::Inference;
use crate::lifecycle::connection::{Connection, ORDERED_TO};
use crate::lifecycle::queues::Place;
use crate::lifecycle::time::Time;

/// What keeps a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lifecycle::tracker) enum Retention {
    /// What is inferred of it, as long as that is of this class.
    Inferred(Class),
    /// What its segments show of its numbers, and its sockets.
    Seen(Lifetime),
}

/// For how long a connection is remembered of which nothing is inferred. The lower, the less is
/// lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lifecycle::tracker) enum Lifetime {
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

impl Retention {
    /// So many there are.
    pub(super) const COUNT: usize = Class::ALL.len() + Lifetime::ALL.len();

    /// The number of its queue.
    pub(super) const fn queue(self) -> usize {
        match self {
            Self::Inferred(class) => class as usize,
            Self::Seen(lifetime) => Class::ALL.len() + lifetime as usize,
        }
    }
}

impl Lifetime {
    const ALL: [Self; 5] = [Self::Closed, Self::Opening, Self::Sockless, Self::WithSocket, Self::Unseen];

    fn of(connection: &Connection) -> Self {
        if !connection.is_seen {
            Self::Unseen
        } else if connection.has_socket() {
            Self::WithSocket
        } else if connection.ends.iter().any(Endpoint::is_closed) {
            Self::Closed
        } else if connection.acknowledged {
            Self::Sockless
        } else {
            Self::Opening
        }
    }

    const fn timeout(self) -> Option<Duration> {
        match self {
            Self::Closed => Some(CLOSED),
            Self::Opening | Self::Sockless => Some(IDLE),
            Self::WithSocket | Self::Unseen => None,
        }
    }
}

impl Table {
    /// Begins to infer what becomes of a connection.
    pub(in crate::lifecycle::tracker) fn add_inference(
        &mut self,
        place: Place,
        sees_all_segments: bool,
        now: Time,
    ) {
        let Some(connection) = self.connections.get_mut(place) else { return };
        for end in [0, 1] {
            let of = connection.identity(end);
            connection.ends[end].life.identify_listening(of);
        }
        connection.inference = Some(Box::new(Inference::new(sees_all_segments)));
        self.queue_inferred(place, Class::Closed, now, Duration::ZERO);
    }

    /// Discards what is inferred of a connection.
    pub(in crate::lifecycle::tracker) fn drop_inference(&mut self, place: Place, now: Time) {
        let Some(connection) = self.connections.get_mut(place) else { return };
        if connection.inference.take().is_some() {
            let inferred = connection.ends.iter_mut().filter(|end| end.socket.is_none() && !end.is_closed());
            inferred.for_each(Endpoint::forget_life);
        }
        self.note_use(place, now);
    }

    /// Moves a connection of which something is inferred to the back of a class, unless it is there
    /// since less than `at_least`.
    pub(in crate::lifecycle::tracker) fn queue_inferred(
        &mut self,
        place: Place,
        class: Class,
        now: Time,
        at_least: Duration,
    ) {
        self.connections.queue(place, Retention::Inferred(class).queue(), now, at_least);
    }

    /// Of how many connections something is inferred.
    pub(in crate::lifecycle::tracker) fn inferred(&self) -> usize {
        Class::ALL.into_iter().map(|class| self.inferred_in(class)).sum()
    }

    /// How many of them are in a class.
    pub(in crate::lifecycle::tracker) fn inferred_in(&self, class: Class) -> usize {
        self.connections.count(Retention::Inferred(class).queue())
    }

    /// The one of a class that was queued first, and when.
    pub(in crate::lifecycle::tracker) fn first_inferred(&self, class: Class) -> Option<(Time, Place)> {
        self.connections.front(Retention::Inferred(class).queue())
    }

    /// A segment of the connection was seen, or a socket of it changed its state or went: what
    /// keeps it may be another thing than before, if nothing is inferred of it.
    pub(in crate::lifecycle::tracker) fn note_use(&mut self, place: Place, now: Time) {
        let Some(connection) = self.connections.get(place) else { return };
        if connection.inference.is_none() {
            let lifetime = Lifetime::of(connection);
            self.connections.queue(place, Retention::Seen(lifetime).queue(), now, ORDERED_TO);
            self.limit_seen(lifetime, now);
            self.drop_if_empty(place);
        }
    }

    /// Discards what its segments showed of a connection without sockets, and the connection, if
    /// that was all.
    pub(in crate::lifecycle::tracker) fn discard_segments(&mut self, place: Place, now: Time) {
        let Some(connection) = self.connections.get_mut(place) else { return };
        connection.discard_segments();
        self.note_use(place, now);
    }

    /// Evicts a connection of which something is inferred.
    pub(in crate::lifecycle::tracker) fn evict_inferred(&mut self, place: Place, now: Time) {
        let Some(connection) = self.connections.get_mut(place) else { return };
        self.evicted += 1;
        if !connection.has_socket() {
            connection.discard_segments();
        }
        self.drop_inference(place, now);
    }

    /// When [`Self::expire`] has something to do.
    pub(in crate::lifecycle::tracker) fn next_deadline(&self) -> Option<Time> {
        Lifetime::ALL.into_iter().filter_map(|lifetime| self.first_of(lifetime)).map(|(due, _)| due).min()
    }

    /// Discards what the segments of connections showed that have no socket here and were silent
    /// for long.
    pub(in crate::lifecycle::tracker) fn expire(&mut self, now: Time) {
        for lifetime in Lifetime::ALL {
            while let Some((deadline, place)) = self.first_of(lifetime)
                && deadline <= now
            {
                self.discard_segments(place, now);
            }
        }
    }

    /// Evicts what a connection that is of this lifetime now is too many.
    fn limit_seen(&mut self, lifetime: Lifetime, now: Time) {
        while self.seen_for(Lifetime::Opening) > self.max_opening {
            self.evict_seen(Lifetime::Opening, now);
        }
        let seen = [Lifetime::Closed, Lifetime::Opening, Lifetime::Sockless, Lifetime::WithSocket];
        while seen.map(|lifetime| self.seen_for(lifetime)).into_iter().sum::<usize>() > self.max_seen {
            let lowest = seen.into_iter().find(|lifetime| self.seen_for(*lifetime) > 0);
            self.evict_seen(lowest.unwrap_or(lifetime), now);
        }
    }

    fn seen_for(&self, lifetime: Lifetime) -> usize {
        self.connections.count(Retention::Seen(lifetime).queue())
    }

    /// Discards what segments showed of the connection that is the first of this lifetime, and
    /// counts it.
    fn evict_seen(&mut self, lifetime: Lifetime, now: Time) {
        if let Some((_, place)) = self.connections.front(Retention::Seen(lifetime).queue()) {
            self.evicted += 1;
            self.discard_segments(place, now);
        }
    }

    fn first_of(&self, lifetime: Lifetime) -> Option<(Time, Place)> {
        let timeout = lifetime.timeout()?;
        let (queued, place) = self.connections.front(Retention::Seen(lifetime).queue())?;
        Some((queued + timeout, place))
    }
}

/// How long a connection without a socket here is remembered: longer than the longest pause between
/// two SYNs that a kernel retransmits by default (64 s).
const IDLE: Duration = Duration::from_secs(70);
/// How long it is remembered after its sockets here are closed.
const CLOSED: Duration = Duration::from_secs(5);
