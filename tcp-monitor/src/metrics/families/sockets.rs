//! Families of the existing sockets, by service port.

use prometheus::proto::MetricType;
use tcp_monitor_common::TcpState;

use super::super::family::Family;
use super::super::port_samples::{PORT, PortSamples};
use crate::counts::{PortSockets, Snapshot, UNKNOWN_PROCESS};

/// Appends the families, in this order; none if the kernel does not list sockets.
pub(in super::super) fn write(snapshot: &Snapshot, text: &mut String) {
    let ports = snapshot.sockets.as_deref().unwrap_or_default();
    for family in &FAMILIES {
        PortSamples::write(family, ports, text, |read, sockets, samples| read(sockets, samples));
    }
}

/// Adds the samples of a port.
type Read = fn(&PortSockets, &mut PortSamples<'_>);

pub(super) static FAMILIES: [Family<Read>; 6] = [
    Family {
        name: "tcp_monitor_connections",
        kind: MetricType::GAUGE,
        labels: &[PORT, "state"],
        help: "Existing sockets by state, as the kernel lists them (sock_diag, as `ss -tan`): \
               listeners, half-open connections (syn_recv) and TIME_WAIT included.",
        read: |sockets, samples| {
            for state in RFC_STATES {
                samples.count(&[state.label()], sockets.states[state as usize]);
            }
        },
    },
    Family {
        name: "tcp_monitor_half_open",
        kind: MetricType::GAUGE,
        labels: &[PORT],
        help: "Half-open connections (SYN_RECV request sockets), which wait for the handshake \
               ACK. Listed by the kernel (sock_diag).",
        read: |sockets, samples| samples.count(&[], sockets.half_open),
    },
    Family {
        name: "tcp_monitor_accept_queue_length",
        kind: MetricType::GAUGE,
        labels: &[PORT],
        help: "Connections that wait to be accepted, of all listeners on the port: Recv-Q of `ss \
               -ltn`. Listed by the kernel (sock_diag).",
        read: |sockets, samples| {
            if let Some(queue) = sockets.accept_queue {
                samples.count(&[], queue.length);
            }
        },
    },
    Family {
        name: "tcp_monitor_accept_queue_limit",
        kind: MetricType::GAUGE,
        labels: &[PORT],
        help: "The backlog of all listeners on the port: Send-Q of `ss -ltn`. A queue longer than \
               its limit drops handshakes. Listed by the kernel (sock_diag).",
        read: |sockets, samples| {
            if let Some(queue) = sockets.accept_queue {
                samples.count(&[], queue.limit);
            }
        },
    },
    Family {
        name: "tcp_monitor_close_wait_oldest_seconds",
        kind: MetricType::GAUGE,
        labels: &[PORT],
        help: "Age of the oldest socket in CLOSE_WAIT, 0 if there is none: the peer has closed, \
               the process here has not. Known from when the agent first saw it there, or from \
               the peer's last acknowledgment, if that is earlier.",
        read: |sockets, samples| {
            samples.value(&[], sockets.close_wait_oldest.as_secs_f64());
        },
    },
    Family {
        name: "tcp_monitor_close_wait_stuck",
        kind: MetricType::GAUGE,
        labels: &[PORT, "process"],
        help: "Sockets in CLOSE_WAIT for longer than --stuck-after, by the command name of a \
               process that holds them: the listener's, if they are not accepted; unknown, if \
               none is found (0 where nothing is stuck). After 64 names, others are `other`.",
        read: |sockets, samples| {
            if !sockets.close_wait_stuck.contains_key(UNKNOWN_PROCESS) {
                samples.count(&[UNKNOWN_PROCESS], 0);
            }
            for (process, &count) in &sockets.close_wait_stuck {
                samples.count(&[process], count);
            }
        },
    },
];

/// The states of RFC 9293. Linux has one more for half-open requests, which are in SYN_RECV to
/// everyone else.
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
