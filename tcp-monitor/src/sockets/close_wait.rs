//! How long sockets have been in CLOSE_WAIT.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::service::Service;

/// A socket in CLOSE_WAIT.
#[derive(Clone, Copy, Debug)]
pub(super) struct CloseWait {
    pub(super) id: Id,
    pub(super) service: Service,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// Bytes not read, the peer's FIN counted as one.
    pub(super) receive_queue: u32,
    /// Its inode number, or the listener's if it is not accepted; 0 if unknown.
    pub(super) inode: u32,
    pub(super) accepted: bool,
    /// How long ago the peer last acknowledged anything.
    pub(super) last_ack: Duration,
}

/// Network namespace and cookie.
pub(super) type Id = (u32, u64);

/// The sockets in CLOSE_WAIT, from one dump to the next.
#[derive(Debug, Default)]
pub(super) struct CloseWaits {
    seen: HashMap<Id, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    since: Instant,
    /// The age at which it is to be reported next.
    report_at: Duration,
}

/// A socket and how long it has been in CLOSE_WAIT, at least.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aged {
    pub(super) socket: CloseWait,
    pub(super) age: Duration,
}

impl CloseWaits {
    /// The ages of all the sockets of a dump made at `now`.
    ///
    /// The peer's FIN came with an acknowledgment (RFC 9293, section 3.10.7.4), so it is no younger
    /// than the last one.
    pub(super) fn age(&mut self, sockets: Vec<CloseWait>, now: Instant, stuck_after: Duration) -> Vec<Aged> {
        let mut seen = HashMap::with_capacity(sockets.len());
        let aged = sockets.into_iter().map(|socket| {
            let begun = now.checked_sub(socket.last_ack).unwrap_or(now);
            let new = Seen { since: begun, report_at: stuck_after };
            let known = self.seen.get(&socket.id).copied().unwrap_or(new);
            let known = Seen { since: known.since.min(begun), ..known };
            seen.insert(socket.id, known);
            Aged { socket, age: now.duration_since(known.since) }
        });
        let aged = aged.collect();
        self.seen = seen;
        aged
    }

    /// Whether the socket is to be reported: when it gets stuck, and each time its age has doubled
    /// since.
    pub(super) fn is_due(&self, aged: &Aged) -> bool {
        self.seen.get(&aged.socket.id).is_some_and(|seen| aged.age >= seen.report_at)
    }

    /// It was reported.
    pub(super) fn reported(&mut self, aged: &Aged) {
        if let Some(seen) = self.seen.get_mut(&aged.socket.id) {
            seen.report_at = aged.age.saturating_mul(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tcp_monitor_common::record::Role;

    use super::{Aged, CloseWait, CloseWaits, Service, SocketAddr};

    const AFTER: Duration = Duration::from_secs(60);

    fn socket(cookie: u64, last_ack: u64) -> CloseWait {
        CloseWait {
            id: (1, cookie),
            service: Service { port: 80, role: Role::Server },
            local: SocketAddr::from(([10, 0, 0, 9], 80)),
            remote: SocketAddr::from(([10, 0, 0, 5], 51920)),
            receive_queue: 1,
            inode: 7,
            accepted: true,
            last_ack: Duration::from_secs(last_ack),
        }
    }

    fn ages(aged: &[Aged]) -> Vec<u64> {
        aged.iter().map(|aged| aged.age.as_secs()).collect()
    }

    #[test]
    fn a_socket_is_as_old_as_it_is_known_or_as_its_last_acknowledgment() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut waits = CloseWaits::default();
        assert_eq!(ages(&waits.age(vec![socket(1, 5), socket(2, 300)], at(0), AFTER)), [5, 300]);
        // The answer to a keepalive probe makes it no younger; one that is gone is dropped.
        assert_eq!(ages(&waits.age(vec![socket(1, 1), socket(2, 310)], at(10), AFTER)), [15, 310]);
        assert_eq!(ages(&waits.age(vec![socket(2, 0)], at(20), AFTER)), [320]);
        assert_eq!(ages(&waits.age(vec![socket(1, 0), socket(2, 0)], at(30), AFTER)), [0, 330]);
    }

    #[test]
    fn a_stuck_socket_is_reported_once_and_again_when_its_age_has_doubled() {
        let begin = Instant::now();
        let mut waits = CloseWaits::default();
        let mut reported = Vec::new();
        for second in 0..500 {
            let aged = waits.age(vec![socket(1, 0)], begin + Duration::from_secs(second), AFTER);
            if waits.is_due(&aged[0]) {
                reported.push(second);
                waits.reported(&aged[0]);
            }
        }
        assert_eq!(reported, [60, 120, 240, 480]);
    }
}
