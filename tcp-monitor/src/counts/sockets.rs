//! The existing sockets, by service port.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::STATES;

use super::snapshot::PortLabel;

/// The sockets of one service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSockets {
    /// How many are in each state, by its number. Request sockets are in SYN_RECV.
    pub states: [u64; STATES],
    /// Half-open connections: request sockets (SYN_RECV) that wait for the handshake ACK.
    pub half_open: u64,
    /// The accept queues of all listeners together; `None` if none listens.
    pub accept_queue: Option<AcceptQueue>,
    /// Age of the oldest socket in CLOSE_WAIT; 0 if there is none.
    pub close_wait_oldest: Duration,
    /// Those stuck in CLOSE_WAIT, by the command name of the process that holds them, or
    /// [`UNKNOWN_PROCESS`].
    pub close_wait_stuck: BTreeMap<String, u64>,
}

/// In place of a process that is not known.
pub const UNKNOWN_PROCESS: &str = "unknown";

/// Connections that wait to be accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AcceptQueue {
    /// Their number.
    pub length: u64,
    /// The backlog of `listen`: the queue is full when it is longer.
    pub limit: u64,
}

impl PortSockets {
    /// Counts a socket in `state`.
    pub fn count(&mut self, state: TcpState) {
        self.states[state as usize] += 1;
    }

    /// Adds the accept queue of a listener.
    pub fn add_listener(&mut self, queue: AcceptQueue) {
        let total = self.accept_queue.get_or_insert_default();
        total.length += queue.length;
        total.limit += queue.limit;
    }

    /// Adds the sockets of another port, or of another namespace.
    pub fn add(&mut self, other: &Self) {
        for (total, more) in self.states.iter_mut().zip(other.states) {
            *total += more;
        }
        self.half_open += other.half_open;
        if let Some(queue) = other.accept_queue {
            self.add_listener(queue);
        }
        self.close_wait_oldest = self.close_wait_oldest.max(other.close_wait_oldest);
        for (process, count) in &other.close_wait_stuck {
            *self.close_wait_stuck.entry(process.clone()).or_default() += count;
        }
    }
}

/// The sockets by the labels of the counters: those of a port that has no label of its own are
/// `other`.
#[must_use]
pub fn label_sockets(
    sockets: &HashMap<u16, PortSockets>,
    labels: impl IntoIterator<Item = PortLabel>,
) -> Vec<(PortLabel, PortSockets)> {
    let mut labelled: BTreeMap<_, _> =
        labels.into_iter().map(|label| (label, PortSockets::default())).collect();
    for (&port, sockets) in sockets {
        let own = PortLabel::Port(port);
        let label = if labelled.contains_key(&own) { own } else { PortLabel::Other };
        labelled.entry(label).or_default().add(sockets);
    }
    labelled.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use tcp_monitor_common::TcpState;

    use super::{AcceptQueue, PortLabel, PortSockets, label_sockets};

    #[test]
    fn ports_without_a_label_are_added_up() {
        let mut one =
            PortSockets { half_open: 1, close_wait_oldest: Duration::from_secs(3), ..Default::default() };
        one.count(TcpState::CloseWait);
        one.add_listener(AcceptQueue { length: 2, limit: 128 });
        one.close_wait_stuck.insert("app".to_owned(), 1);
        let mut two = one.clone();
        two.close_wait_oldest = Duration::from_secs(2);
        two.close_wait_stuck.insert("db".to_owned(), 4);
        let sockets = HashMap::from([(80, one.clone()), (8080, one), (9090, two)]);
        let labelled = label_sockets(&sockets, [PortLabel::Port(80), PortLabel::Port(443), PortLabel::Other]);
        let [(_, http), (_, https), (_, other)] = labelled.as_slice() else { panic!("{labelled:?}") };
        assert_eq!((http, https), (&sockets[&80], &PortSockets::default()));
        assert_eq!((other.half_open, other.states[TcpState::CloseWait as usize]), (2, 2));
        assert_eq!(other.accept_queue, Some(AcceptQueue { length: 4, limit: 256 }));
        assert_eq!(other.close_wait_oldest, Duration::from_secs(3));
        let stuck: Vec<_> =
            other.close_wait_stuck.iter().map(|(process, count)| (process.as_str(), *count)).collect();
        assert_eq!(stuck, [("app", 2), ("db", 4)]);
    }
}
