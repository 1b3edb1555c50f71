//! What the tracker does with sockets from a dump, which existed before anything was reported of
//! them.

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Role;

use super::Tracker;
use crate::lifecycle::connection::EndRef;
use crate::lifecycle::connection::life::Life;
use crate::lifecycle::connection::socket::{Socket, SocketKey};
use crate::lifecycle::connection::time_wait::TimeWait;
use crate::lifecycle::input::{Presence, PresentSocket};
use crate::lifecycle::tuple::Tuple;

impl Tracker {
    /// Follows a socket from the state it was found in. Nothing is reported: how it got there was
    /// not seen.
    ///
    /// If anything was reported of the socket, that is of later, and wins.
    pub(super) fn merge_dump(&mut self, present: &PresentSocket) {
        let PresentSocket { time, netns, cookie, .. } = *present;
        let (tuple, end) = Tuple::of(netns, present.local, present.remote);
        let known = self.table.find(&tuple).and_then(|place| self.table.get(place));
        let is_known = known.is_some_and(|connection| connection.ends[end].is_reported())
            || self.table.find_socket(&SocketKey::with_cookie(netns, cookie)).is_some();
        if is_known {
            return;
        }
        self.make_room(time);
        let first = match present.role {
            Role::Client => end,
            Role::Server => tuple.peer_of(end),
        };
        let Some(place) = self.table.find_or_add(&tuple, first, time) else { return };
        let Some(connection) = self.table.get_mut(place) else { return };
        connection.is_seen = true;
        let (at, of) = (EndRef::new(place, end), connection.identity(end));
        match present.presence {
            Presence::Socket(state) => {
                connection.ends[end].life = Life::from_dump(of, state, present.role);
                self.table.add_socket(at, Box::new(Socket::from_dump(present)), time);
            }
            Presence::Waiting { peer_closed, left } => {
                let state = if peer_closed { TcpState::TimeWait } else { TcpState::FinWait2 };
                let life = Life::from_dump(of, state, present.role);
                self.find_time_wait(at, TimeWait::of(life, Box::new(Socket::from_dump(present))), left, time);
            }
        }
        self.table.note_use(place, time);
    }
}
