//! What the tracker lets go of, so that it never remembers more than it was told to.

use super::{SocketKey, Tracker};
use crate::lifecycle::inference::{Class, Inference};
use crate::lifecycle::socket::Socket;
use crate::lifecycle::time::Time;
use crate::lifecycle::waiting::Minisocket;

impl Tracker {
    /// How often something had to be forgotten because there was too much of it.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.sockets.evicted()
            + self.newborn.evicted()
            + self.connecting.evicted()
            + self.waiting.evicted()
            + self.flows.evicted()
            + self.inference.as_ref().map_or(0, Inference::evicted)
    }

    /// Makes sure that one more socket can be remembered. Minisockets go first: of most of them all is told but their end.
    pub(super) fn make_room(&mut self) {
        while self.sockets() >= self.max_connections {
            if let Some(minisocket) = self.waiting.evict() {
                self.flows.forget(&minisocket.socket.addresses());
            } else if let Some((key, socket)) = self.sockets.evict() {
                if socket.lacks_port() {
                    self.connecting.remove(&socket, key);
                }
                self.flows.forget(&socket.addresses());
            } else {
                return;
            }
        }
    }

    pub(super) fn add_waiting(&mut self, minisocket: Minisocket, now: Time) {
        self.make_room();
        self.waiting.insert(minisocket, now);
    }

    /// Remembers a socket that there is room for.
    pub(super) fn keep(&mut self, key: SocketKey, socket: Socket, now: Time) {
        let class = Class::of_end(socket.state());
        self.sockets.insert(key, socket, class as usize, now);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{InferFrom, MAX_SIGHTINGS, Options};
    use super::{Class, Socket, SocketKey};
    use crate::lifecycle::flow::Flows;
    use crate::lifecycle::inference::Inference;
    use crate::lifecycle::queues::Queues;
    use crate::lifecycle::sighting::Sightings;

    #[test]
    fn connections_take_no_more_memory_than_documented() {
        let socket = Queues::<SocketKey, Socket, { Class::ALL.len() }>::ENTRY + Flows::ENTRY;
        let bytes = [socket, Inference::ENTRY];
        assert!(bytes[0] < 600 && bytes[1] < 700, "{bytes:?}");
    }

    #[test]
    fn a_flood_of_syns_takes_no_more_memory_than_documented() {
        let options = Options { infer_from: InferFrom::ControlSegments, ..Options::default() };
        // Half-open and closed connections, as many flows, and the segments seen lately.
        let unproven = options.max_unproven() * (2 * Inference::ENTRY + Flows::ENTRY);
        let megabytes = (unproven + MAX_SIGHTINGS * Sightings::ENTRY) >> 20;
        assert!(megabytes < 20, "{megabytes} MB");
    }
}
