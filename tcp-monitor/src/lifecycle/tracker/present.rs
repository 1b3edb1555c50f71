//! What the tracker does with sockets that were there before anything was told of them.

use tcp_monitor_common::TcpState;

use super::{SocketId, SocketKey, Tracker};
use crate::lifecycle::input::{Presence, PresentSocket};
use crate::lifecycle::socket::Socket;
use crate::lifecycle::waiting::{Addresses, Minisocket, Substate};

impl Tracker {
    /// Follows a socket from the state it was found in. Nothing is told: how it got there was not seen.
    ///
    /// If anything was told of the socket, that is of later, and wins.
    pub(super) fn find(&mut self, present: &PresentSocket) {
        let PresentSocket { time, netns, cookie, .. } = *present;
        let addresses = Addresses::of(netns, present.local, present.remote);
        let key = SocketKey { netns, id: SocketId::Cookie(cookie) };
        let is_known = self.sockets.find(&key).is_some()
            || self.waiting.get(&addresses).is_some()
            || self.flows.end(&addresses).state.is_some();
        if is_known {
            return;
        }
        self.make_room();
        match present.presence {
            Presence::Socket(state) => {
                self.flows.find_socket(&addresses, state, time);
                self.keep(key, Socket::found(present, state), time);
            }
            Presence::Waiting { peer_closed, left } => {
                let (state, substate) = if peer_closed {
                    (TcpState::TimeWait, Substate::TimeWait)
                } else {
                    (TcpState::FinWait2, Substate::FinWait2)
                };
                self.flows.find_socket(&addresses, state, time);
                let minisocket = Minisocket::new(Socket::found(present, state), substate);
                self.waiting.find(minisocket, left, time);
            }
        }
    }

    /// A socket is closed, to the minisocket of which what is found here was looked at a moment later.
    pub(super) fn forget_successor(&mut self, addresses: &Addresses) {
        if self.waiting.get(addresses).is_some_and(|minisocket| minisocket.socket.was_found()) {
            self.waiting.remove(addresses);
        }
    }
}
