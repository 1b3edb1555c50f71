//! The sockets there are now, by service port: what the gauges show.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use prometheus::proto::MetricFamily;
use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::STATES;

use super::families;
use super::snapshot::PortLabel;

/// The sockets of one service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSockets {
    /// How many are in each state, by its number. Half-open requests are in SYN_RECV.
    pub states: [u64; STATES],
    /// Requests that wait for the last ACK of the handshake.
    pub half_open: u64,
    /// The accept queues of all listeners together; `None` if none listens.
    pub accept_queue: Option<AcceptQueue>,
    /// How long the first of those in CLOSE_WAIT has been in it; 0 if none is.
    pub close_wait_oldest: Duration,
    /// How many are stuck in CLOSE_WAIT, by the command name of the process that holds them.
    pub close_wait_stuck: BTreeMap<String, u64>,
}

/// Connections that wait to be accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AcceptQueue {
    /// How many there are.
    pub length: u64,
    /// The backlog of `listen`: the queue is full when it is longer.
    pub limit: u64,
}

impl PortSockets {
    /// Takes in a socket in `state`.
    pub fn count(&mut self, state: TcpState) {
        self.states[state as usize] += 1;
    }

    /// Takes in the accept queue of a listener.
    pub fn add_listener(&mut self, queue: AcceptQueue) {
        let total = self.accept_queue.get_or_insert_default();
        total.length += queue.length;
        total.limit += queue.limit;
    }

    /// Takes in the sockets of another port, or of another namespace.
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

/// The sockets by the labels of the counters: those of a port that has no label of its own are `other`.
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

/// The sockets of a port, after the value of its label.
type Port = (PortLabel, PortSockets);

/// The families of all gauges of sockets.
pub(super) fn gauges(ports: &[Port]) -> impl Iterator<Item = MetricFamily> {
    let ports: Vec<_> = ports.iter().map(|(label, sockets)| (label.to_string(), sockets)).collect();
    let mut connections = families::CONNECTIONS.samples();
    let mut half_open = families::HALF_OPEN.samples();
    let mut queue_length = families::ACCEPT_QUEUE_LENGTH.samples();
    let mut queue_limit = families::ACCEPT_QUEUE_LIMIT.samples();
    let mut oldest = families::CLOSE_WAIT_OLDEST.samples();
    let mut stuck = families::CLOSE_WAIT_STUCK.samples();
    for (port, sockets) in &ports {
        for state in RFC_STATES {
            connections.push_count([port, state.label()], sockets.states[state as usize]);
        }
        half_open.push_count([port], sockets.half_open);
        if let Some(queue) = sockets.accept_queue {
            queue_length.push_count([port], queue.length);
            queue_limit.push_count([port], queue.limit);
        }
        oldest.push([port], sockets.close_wait_oldest.as_secs_f64());
        for (process, &count) in &sockets.close_wait_stuck {
            stuck.push_count([port, process], count);
        }
    }
    [
        connections.finish(),
        half_open.finish(),
        queue_length.finish(),
        queue_limit.finish(),
        oldest.finish(),
        stuck.finish(),
    ]
    .into_iter()
    .flatten()
}

/// The states of RFC 9293. Linux has one more for half-open requests, which are in SYN_RECV to everyone else.
const RFC_STATES: [TcpState; 11] = [
    TcpState::Established,
    TcpState::SynSent,
    TcpState::SynRecv,
    TcpState::FinWait1,
    TcpState::FinWait2,
    TcpState::TimeWait,
    TcpState::Close,
    TcpState::CloseWait,
    TcpState::LastAck,
    TcpState::Listen,
    TcpState::Closing,
];

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
