//! Gauges of the existing sockets.

use prometheus::proto::MetricFamily;
use tcp_monitor_common::TcpState;

use super::families::{self, Family};
use crate::counts::{AcceptQueue, PortLabel, PortSockets};

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
