//! Families of the existing sockets, by service port.

use prometheus::proto::MetricType;
use tcp_monitor_common::TcpState;

use super::super::family::{Family, PORT, Read};

/// In the order of the exposition.
pub(super) static FAMILIES: [Family; 6] = [
    Family {
        name: "tcp_monitor_connections",
        kind: MetricType::GAUGE,
        labels: &[PORT, "state"],
        help: "Existing sockets by state, as the kernel lists them (sock_diag, as `ss -tan`): \
               listeners, half-open connections (syn_recv) and TIME_WAIT included.",
        read: Read::Sockets(|sockets, samples| {
            for state in RFC_STATES {
                samples.gauge(&[state.label()], sockets.states[state as usize] as f64);
            }
        }),
    },
    Family {
        name: "tcp_monitor_half_open",
        kind: MetricType::GAUGE,
        labels: &[PORT],
        help: "Half-open connections (SYN_RECV request sockets), which wait for the handshake \
               ACK. Listed by the kernel (sock_diag).",
        read: Read::Sockets(|sockets, samples| samples.gauge(&[], sockets.half_open as f64)),
    },
    Family {
        name: "tcp_monitor_accept_queue_length",
        kind: MetricType::GAUGE,
        labels: &[PORT],
        help: "Connections that wait to be accepted, of all listeners on the port: Recv-Q of `ss \
               -ltn`. Listed by the kernel (sock_diag).",
        read: Read::Sockets(|sockets, samples| {
            if let Some(queue) = sockets.accept_queue {
                samples.gauge(&[], queue.length as f64);
            }
        }),
    },
    Family {
        name: "tcp_monitor_accept_queue_limit",
        kind: MetricType::GAUGE,
        labels: &[PORT],
        help: "The backlog of all listeners on the port: Send-Q of `ss -ltn`. A queue longer than \
               its limit drops handshakes. Listed by the kernel (sock_diag).",
        read: Read::Sockets(|sockets, samples| {
            if let Some(queue) = sockets.accept_queue {
                samples.gauge(&[], queue.limit as f64);
            }
        }),
    },
    Family {
        name: "tcp_monitor_close_wait_oldest_seconds",
        kind: MetricType::GAUGE,
        labels: &[PORT],
        help: "Age of the oldest socket in CLOSE_WAIT, 0 if there is none: the peer has closed, \
               the process here has not. Known from when the agent first saw it there, or from \
               the peer's last acknowledgment, if that is earlier.",
        read: Read::Sockets(|sockets, samples| {
            samples.gauge(&[], sockets.close_wait_oldest.as_secs_f64());
        }),
    },
    Family {
        name: "tcp_monitor_close_wait_stuck",
        kind: MetricType::GAUGE,
        labels: &[PORT, "process"],
        help: "Sockets in CLOSE_WAIT for longer than --stuck-after, by the command name of a \
               process that holds them: the listener's, if they are not accepted; unknown, if \
               none is found. After 64 names, others are `other`.",
        read: Read::Sockets(|sockets, samples| {
            for (process, &count) in &sockets.close_wait_stuck {
                samples.gauge(&[process], count as f64);
            }
        }),
    },
];

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
