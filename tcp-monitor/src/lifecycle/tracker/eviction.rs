//! Eviction: keeps the tracker within its limits.

use super::{SocketEnd, Tracker};
use crate::lifecycle::connection::EndRef;
use crate::lifecycle::connection::class::Class;
use crate::lifecycle::queues::Place;
use crate::lifecycle::time::Time;

impl Tracker {
    /// How often something had to be evicted because there was too much of it.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.table.evicted + self.unaddressed.evicted() + self.connecting.evicted()
    }

    /// Makes sure that one more socket can be remembered. Timewait sockets go first: of most of
    /// them all is reported but their end.
    pub(super) fn make_room(&mut self, now: Time) {
        while self.sockets() >= self.max_connections {
            self.table.evicted += 1;
            if let Some(at) = self.time_waits.lowest() {
                self.drop_time_wait(at, now);
                self.discard_without_socket(at.place, now);
            } else if let Some(at) =
                self.table.sockets.lowest().and_then(|place| self.table.sockets.get(place))
            {
                let at = *at;
                self.stop_connecting(at);
                self.end_socket(at, SocketEnd::Evicted, now);
                self.discard_without_socket(at.place, now);
            } else {
                return;
            }
        }
    }

    /// Makes sure that something can be inferred of one more connection.
    pub(super) fn make_room_for_inference(&mut self) {
        while self.table.inferred() >= self.max_connections
            && let Some((_, place)) =
                Class::ALL.into_iter().find_map(|class| self.table.first_inferred(class))
        {
            self.table.evict_inferred(place, self.now);
        }
    }

    /// Evicts what a flood of SYNs adds to a class beyond its limit.
    pub(super) fn limit_unproven(&mut self) {
        while self.table.inferred_in(Class::HalfOpen) > self.max_unproven
            && let Some((_, place)) = self.table.first_inferred(Class::HalfOpen)
        {
            self.table.evict_inferred(place, self.now);
        }
        // Nothing is left to report of those: it is no loss.
        while self.table.inferred_in(Class::Closed) > self.max_unproven
            && let Some((_, place)) = self.table.first_inferred(Class::Closed)
        {
            self.table.drop_inference(place, self.now);
        }
    }

    /// Without another socket, what the segments of a connection showed goes with the socket that
    /// was evicted.
    fn discard_without_socket(&mut self, place: Place, now: Time) {
        if self.table.get(place).is_some_and(|connection| !connection.has_socket()) {
            self.table.discard_segments(place, now);
        }
    }

    /// A socket whose port is not known is not waited for any more.
    pub(super) fn stop_connecting(&mut self, at: EndRef) {
        if let Some((route, deferred)) = self.route_of(at) {
            self.connecting.remove(route, at.place, deferred);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::Table;
    use super::super::{InferFrom, MAX_PACKETS, Options};
    use crate::lifecycle::dedup::Dedup;

    #[test]
    fn connections_take_no_more_memory_than_documented() {
        let bytes = Table::ENTRY;
        assert!(bytes[0] < 600 && bytes[1] < 700, "{bytes:?}");
    }

    #[test]
    fn a_flood_of_syns_takes_no_more_memory_than_documented() {
        let options = Options { infer_from: InferFrom::ControlSegments, ..Options::default() };
        // Half-open and closed connections, and the segments seen lately.
        let unproven = options.max_unproven() * (2 * Table::ENTRY[1]);
        let megabytes = (unproven + MAX_PACKETS * Dedup::ENTRY) >> 20;
        assert!(megabytes < 20, "{megabytes} MB");
    }
}
