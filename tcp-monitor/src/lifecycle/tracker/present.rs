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
        let PresentSocket { time, netns, cookie, local, remote, .. } = *present;
        let key = SocketKey { netns, id: SocketId::Cookie(cookie) };
        let is_known = self.sockets.get(&key).is_some()
            || self.waiting.get(&Addresses { netns, local, remote }).is_some()
            || self.flows.end(netns, local, remote).state.is_some();
        if is_known {
            return;
        }
        match present.presence {
            Presence::Socket(state) => {
                self.flows.find(netns, local, remote, state, time);
                self.keep(key, Socket::found(present, state), time);
            }
            Presence::Waiting { peer_closed, left } => {
                let (state, substate) = if peer_closed {
                    (TcpState::TimeWait, Substate::TimeWait)
                } else {
                    (TcpState::FinWait2, Substate::FinWait2)
                };
                self.flows.find(netns, local, remote, state, time);
                let minisocket = Minisocket::new(Socket::found(present, state), substate, time);
                // One that is late in going has a time left that wrapped around.
                let deadline = minisocket.deadline.min(time + left);
                self.add_waiting(Minisocket { deadline, ..minisocket }, time);
            }
        }
    }

    /// A socket is closed, to the minisocket of which what is found here was looked at a moment later.
    pub(super) fn forget_successor(&mut self, addresses: Addresses) {
        if self.waiting.get(&addresses).is_some_and(|minisocket| minisocket.socket.was_found()) {
            self.waiting.remove(&addresses);
        }
    }
}
