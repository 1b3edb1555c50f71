//! The sockets of the connections: which end has which.

use std::hash::BuildHasher;
use std::mem;

use super::Table;
use crate::lifecycle::connection::class::Class;
use crate::lifecycle::connection::endpoint::Endpoint;
use crate::lifecycle::connection::socket::{Socket, SocketKey};
use crate::lifecycle::connection::{EndRef, ORDERED_TO};
use crate::lifecycle::lookups;
use crate::lifecycle::time::Time;

impl Table {
    /// The end that has this socket.
    pub(in crate::lifecycle::tracker) fn find_socket(&self, key: &SocketKey) -> Option<EndRef> {
        lookups::count();
        let is_it = |at: &EndRef| self.socket(*at).is_some_and(|socket| socket.key == *key);
        self.by_socket.find(self.hasher.hash_one(key), is_it).copied()
    }

    pub(in crate::lifecycle::tracker) fn end(&self, at: EndRef) -> Option<&Endpoint> {
        Some(&self.connections.get(at.place)?.ends[at.end()])
    }

    pub(in crate::lifecycle::tracker) fn end_mut(&mut self, at: EndRef) -> Option<&mut Endpoint> {
        Some(&mut self.connections.get_mut(at.place)?.ends[at.end()])
    }

    pub(in crate::lifecycle::tracker) fn socket(&self, at: EndRef) -> Option<&Socket> {
        self.connections.get(at.place)?.ends[at.end()].socket.as_deref()
    }

    pub(in crate::lifecycle::tracker) fn socket_mut(&mut self, at: EndRef) -> Option<&mut Socket> {
        self.connections.get_mut(at.place)?.ends[at.end()].socket.as_deref_mut()
    }

    /// An end has this socket from now on.
    pub(in crate::lifecycle::tracker) fn add_socket(
        &mut self,
        at: EndRef,
        mut socket: Box<Socket>,
        now: Time,
    ) {
        self.take_socket(at);
        let key = socket.key;
        let Some(end) = self.end(at) else { return };
        let class = Class::of_end(end.life.state()) as usize;
        socket.queued = Some(self.sockets.insert(at, class, now));
        if let Some(end) = self.end_mut(at) {
            end.socket = Some(socket);
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
    pub(in crate::lifecycle::tracker) fn take_socket(&mut self, at: EndRef) -> Option<Box<Socket>> {
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
    pub(in crate::lifecycle::tracker) fn touch_socket(&mut self, at: EndRef, key: SocketKey, now: Time) {
        let Some(Endpoint { life, socket: Some(socket), .. }) = self.end(at) else { return };
        if socket.key == key {
            let class = Class::of_end(life.state()) as usize;
            if let Some(queued) = socket.queued {
                self.sockets.queue(queued, class, now, ORDERED_TO);
            }
        } else if let Some(mut socket) = self.take_socket(at) {
            socket.key = key;
            self.add_socket(at, socket, now);
        }
    }

    /// Another end has the socket from now on.
    pub(in crate::lifecycle::tracker) fn move_socket(&mut self, from: EndRef, to: EndRef) -> EndRef {
        if from == to {
            return to;
        }
        self.take_socket(to);
        let Some(end) = self.end_mut(from) else { return from };
        let Some(socket) = end.socket.take() else { return from };
        let life = mem::take(&mut end.life);
        lookups::count();
        let hash = self.hasher.hash_one(socket.key);
        if let Some(known) = self.by_socket.find_mut(hash, |known| *known == from) {
            *known = to;
        }
        if let Some(queued) = socket.queued.and_then(|queued| self.sockets.get_mut(queued)) {
            *queued = to;
        }
        if let Some(end) = self.end_mut(to) {
            (end.life, end.socket) = (life, Some(socket));
        }
        self.drop_if_empty(from.place);
        to
    }
}
