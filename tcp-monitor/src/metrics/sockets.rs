//! The sockets there are now, by service port: what the gauges show.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use prometheus::proto::MetricFamily;
use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::STATES;

use super::families::{self, Family};
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

/// The sockets of a port.
type Port = (PortLabel, PortSockets);

/// Makes a gauge of some ports.
type Gauge = fn(&[Port]) -> Option<MetricFamily>;

/// All gauges of sockets.
pub(super) const GAUGES: [Gauge; 6] =
    [connections, half_open, accept_queue_length, accept_queue_limit, close_wait_oldest, close_wait_stuck];

fn connections(ports: &[Port]) -> Option<MetricFamily> {
    let mut samples = families::CONNECTIONS.samples();
    for (port, sockets) in ports {
        let port = port.to_string();
        for state in RFC_STATES {
            samples.push_count([&port, state.label()], sockets.states[state as usize]);
        }
    }
    samples.finish()
}

fn half_open(ports: &[Port]) -> Option<MetricFamily> {
    let mut samples = families::HALF_OPEN.samples();
    for (port, sockets) in ports {
        samples.push_count([&port.to_string()], sockets.half_open);
    }
    samples.finish()
}

fn accept_queue_length(ports: &[Port]) -> Option<MetricFamily> {
    accept_queues(&families::ACCEPT_QUEUE_LENGTH, ports, |queue| queue.length)
}

fn accept_queue_limit(ports: &[Port]) -> Option<MetricFamily> {
    accept_queues(&families::ACCEPT_QUEUE_LIMIT, ports, |queue| queue.limit)
}

fn accept_queues(
    family: &'static Family<1>,
    ports: &[Port],
    value: fn(AcceptQueue) -> u64,
) -> Option<MetricFamily> {
    let mut samples = family.samples();
    for (port, sockets) in ports {
        if let Some(queue) = sockets.accept_queue {
            samples.push_count([&port.to_string()], value(queue));
        }
    }
    samples.finish()
}

fn close_wait_oldest(ports: &[Port]) -> Option<MetricFamily> {
    let mut samples = families::CLOSE_WAIT_OLDEST.samples();
    for (port, sockets) in ports {
        samples.push([&port.to_string()], sockets.close_wait_oldest.as_secs_f64());
    }
    samples.finish()
}

fn close_wait_stuck(ports: &[Port]) -> Option<MetricFamily> {
    let mut samples = families::CLOSE_WAIT_STUCK.samples();
    for (port, sockets) in ports {
        for (process, &count) in &sockets.close_wait_stuck {
            samples.push_count([&port.to_string(), process], count);
        }
    }
    samples.finish()
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
