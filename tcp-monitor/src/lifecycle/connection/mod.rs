//! One connection: its number and its two ends, each of which has one [`Life`](life::Life): the
//! states that it enters. The [`Source`](life::Source) of a life says where they are known from.
//! The kernel reports those of a socket; where it reports none, they are inferred from segments.
//!
//! When the kernel begins to report an end, its life begins anew, or goes on: that of a listener's
//! child does from the SYN_RECV of its half-open request. From then on segments change its state no
//! more. When its socket is evicted, or nothing more is inferred, the life is discarded.
//!
//! Beside its life an end has what one source alone knows:
//!
//! - [`Socket`](socket::Socket): which socket it is, whose, and what it moved;
//! - [`Flow`](flow::Flow), in the [`Inference`]: the positions in the stream that it sends.
//!
//! A [`TimeWait`](time_wait::TimeWait) socket has a life of its own: it may be of the connection
//! before on the same addresses.

use std::time::Duration;

use super::event::{ConnectionId, End};
use super::queues::Place;
use super::tuple::Tuple;
use endpoint::Endpoint;
use inference::Inference;

pub(super) mod check;
pub(super) mod class;
mod effect;
pub(super) mod endpoint;
mod enter;
mod flow;
pub(super) mod inference;
pub(super) mod life;
pub(super) mod numbers;
mod opening;
mod reset;
pub(super) mod socket;
mod stream;
mod time_in_states;
pub(super) mod time_wait;
pub(super) mod visibility;

/// A connection, and what lingers of the one before on the same addresses.
#[derive(Debug)]
pub(super) struct Connection {
    /// Its number, and which end is the first. A listener has none.
    pub(super) id: Option<ConnectionId>,
    /// The index of the end that opened it.
    pub(super) first: u8,
    /// It is found by its tuple. If not, its local port is not known yet, or it is a listener.
    pub(super) is_indexed: bool,
    /// What one end sent was acknowledged by the other, who so is where it says it is.
    pub(super) acknowledged: bool,
    /// Its segments are expected: `seen` of its ends counts.
    pub(super) is_seen: bool,
    /// A socket of its first end opened it on addresses that were in use before: the next SYN of
    /// that end is its own, not that of yet another connection.
    pub(super) awaits_syn: bool,
    /// The addresses, in the network namespace that it was first met in.
    pub(super) tuple: Tuple,
    /// Other network namespaces that see its packets.
    pub(super) other_netns: Option<Box<Namespaces>>,
    /// In the order of the tuple.
    pub(super) ends: [Endpoint; 2],
    /// What is inferred from its segments.
    pub(super) inference: Option<Box<Inference>>,
}

/// Network namespaces. Most connections have one, and take no memory for others.
#[derive(Debug, Default)]
pub(super) struct Namespaces(Vec<u32>);

/// Which connection, and which end of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) connection: Option<ConnectionId>,
    pub(super) end: End,
}

/// One end of a connection in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndRef {
    pub(super) place: Place,
    end: u8,
}

impl EndRef {
    pub(super) const fn new(place: Place, end: usize) -> Self {
        Self { place, end: (end != 0) as u8 }
    }

    /// Its index.
    pub(super) const fn end(self) -> usize {
        self.end as usize
    }
}

impl Identity {
    /// Of no connection.
    pub(super) const NONE: Self = Self { connection: None, end: End::First };

    pub(super) fn is_first(self) -> bool {
        self.end == End::First
    }
}

impl Connection {
    /// A connection whose end with the index `first` opened it.
    pub(super) fn new(id: Option<ConnectionId>, tuple: Tuple, first: usize) -> Self {
        Self {
            id,
            first: u8::from(first != 0),
            is_indexed: false,
            acknowledged: false,
            is_seen: false,
            awaits_syn: false,
            tuple,
            other_netns: None,
            ends: Default::default(),
            inference: None,
        }
    }

    /// Another connection begins on the same addresses. What is known of the ends' sockets and
    /// states stays theirs.
    pub(super) fn renew(&mut self, id: Option<ConnectionId>, first: usize) {
        (self.id, self.first) = (id, u8::from(first != 0));
        self.awaits_syn = false;
        self.ends.iter_mut().filter(|end| end.is_closed()).for_each(Endpoint::forget_life);
    }

    /// As [`Self::renew`], by the socket of the end `first`, whose SYN was not seen yet.
    pub(super) fn renew_by_socket(&mut self, id: Option<ConnectionId>, first: usize) {
        self.renew(id, first);
        self.awaits_syn = true;
    }

    /// The identity of an end, by its index.
    pub(super) fn identity(&self, end: usize) -> Identity {
        let is_first = usize::from(self.first) == end;
        Identity { connection: self.id, end: if is_first { End::First } else { End::Second } }
    }

    /// One more network namespace may see its packets.
    pub(super) fn has_room_for_namespace(&self) -> bool {
        self.other_netns.as_ref().is_none_or(|others| others.0.len() < MAX_OTHER_NETNS)
    }

    /// One more network namespace sees its packets.
    pub(super) fn add_namespace(&mut self, netns: u32) {
        self.other_netns.get_or_insert_default().0.push(netns);
    }

    /// The network namespaces that see its packets, that of its tuple first.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = u32> {
        let others = self.other_netns.iter().flat_map(|others| &others.0).copied();
        std::iter::once(self.tuple.netns).chain(others)
    }

    /// An end has a socket, or a timewait socket.
    pub(super) fn has_socket(&self) -> bool {
        self.ends.iter().any(|end| end.reported_state().is_some())
    }

    /// The kernel reports an end that is established, or both: what segments show adds nothing to
    /// that.
    pub(super) fn leaves_nothing_to_infer(&self) -> bool {
        let reported = self.ends.each_ref().map(Endpoint::reported_state);
        self.ends.iter().any(Endpoint::is_living) || reported.iter().all(Option::is_some)
    }

    /// Nothing of it is worth remembering.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_seen && self.inference.is_none() && !self.ends.iter().any(Endpoint::is_reported)
    }

    /// Discards what its segments showed.
    pub(super) fn discard_segments(&mut self) {
        self.ends.iter_mut().for_each(Endpoint::discard_segments);
        (self.acknowledged, self.is_seen) = (false, false);
    }
}

/// Network namespaces that one packet passes after the first.
const MAX_OTHER_NETNS: usize = 15;
/// Within this time it does not matter which of two connections was used last.
pub(super) const ORDERED_TO: Duration = Duration::from_secs(1);
