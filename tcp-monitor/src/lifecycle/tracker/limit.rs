//! What the tracker lets go of, so that it never remembers more than it was told to.

use tcp_monitor_common::TcpState;

use super::{SocketKey, Tracker};
use crate::lifecycle::inference::{Class, Inference};
use crate::lifecycle::socket::Socket;
use crate::lifecycle::time::Time;
use crate::lifecycle::waiting::{Addresses, Minisocket};

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

    pub(super) fn keep(&mut self, key: SocketKey, socket: Socket, now: Time) {
        self.make_room(now);
        let class = Class::of_end(socket.state());
        if let (_, Some((key, evicted))) = self.sockets.insert(key, socket, class as usize, now) {
            self.forget(key, &evicted, now);
        }
    }

    pub(super) fn add_waiting(&mut self, minisocket: Minisocket, now: Time) {
        self.make_room(now);
        if let Some(evicted) = self.waiting.insert(minisocket, now) {
            self.leave_flow(&evicted.socket.addresses(), now);
        }
    }

    /// Makes sure that one more socket can be remembered. Minisockets go first: of most of them all is told but their end.
    fn make_room(&mut self, now: Time) {
        while self.sockets() >= self.max_connections {
            if let Some(minisocket) = self.waiting.evict() {
                self.leave_flow(&minisocket.socket.addresses(), now);
            } else if let Some((key, socket)) = self.sockets.evict() {
                self.forget(key, &socket, now);
            } else {
                return;
            }
        }
    }

    fn forget(&mut self, key: SocketKey, socket: &Socket, now: Time) {
        if socket.lacks_port() {
            self.connecting.remove(socket, key);
        }
        self.leave_flow(&socket.addresses(), now);
    }

    /// A socket that is not known any more does not keep its flow.
    fn leave_flow(&mut self, addresses: &Addresses, now: Time) {
        self.flows.set_state(addresses, TcpState::Close, now);
    }
}
