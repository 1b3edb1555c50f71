//! Families of the counters that the kernel programs keep for each service port.

use prometheus::proto::MetricType;
use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::{
    ClosedBy, HandshakeFailure, PortCounters, Scale, TIMED_STATES, reset_reason_label,
};
use tcp_monitor_common::record::{ResetPhase, Role, UNKNOWN_REASON};

use super::super::family::Family;
use super::super::port_samples::{PORT, PortSamples};
use super::super::zero_series;
use crate::counts::Snapshot;

/// Appends the families, in this order.
pub(in super::super) fn write(snapshot: &Snapshot, text: &mut String) {
    for family in &FAMILIES {
        PortSamples::write(family, &snapshot.kernel.ports, text, |read, counters, samples| {
            read(counters, snapshot, samples);
        });
    }
}

/// Adds the samples of a port.
type Read = fn(&PortCounters, &Snapshot, &mut PortSamples<'_>);

pub(super) static FAMILIES: [Family<Read>; 13] = [
    Family {
        name: "tcp_monitor_handshakes_total",
        kind: MetricType::COUNTER,
        labels: &["role", PORT],
        help: "Completed handshakes: sockets that became ESTABLISHED. role=server were accepted \
               by a listener (PassiveOpens of /proc/net/snmp less the children that died before \
               ESTABLISHED), role=client connected.",
        read: |counters, _, samples| {
            for (role, &count) in Role::ALL.iter().zip(&counters.handshakes) {
                samples.count(&[role.label()], count);
            }
        },
    },
    Family {
        name: "tcp_monitor_handshake_failures_total",
        kind: MetricType::COUNTER,
        labels: &["role", PORT, "reason"],
        help: "Handshakes that began and were not completed. Client: what connect() reported, or \
               aborted if the application closed the socket first. Server: reset, the peer \
               answered the SYN-ACK with a RST; timed_out, it did not answer (found by the agent, \
               up to 3 s late); accept_queue_full and syn_dropped, a listener dropped the SYN, \
               each SYN counting; no_listener, a RST answered the SYN.",
        read: |counters, _, samples| {
            for (role, counts) in Role::ALL.into_iter().zip(&counters.handshake_failures) {
                for (reason, &count) in HandshakeFailure::ALL.into_iter().zip(counts) {
                    if count > 0 || zero_series::handshake_failure(role, reason) {
                        samples.count(&[role.label(), reason.label()], count);
                    }
                }
            }
        },
    },
    Family {
        name: "tcp_monitor_syn_retransmits_total",
        kind: MetricType::COUNTER,
        labels: &["role", PORT],
        help: "Retransmitted SYNs (role=client) and SYN-ACKs (role=server). The sum equals \
               TCPSynRetrans of /proc/net/netstat, less attempts that failed on this host.",
        read: |counters, _, samples| {
            for (role, &count) in Role::ALL.iter().zip(&counters.syn_retransmits) {
                samples.count(&[role.label()], count);
            }
        },
    },
    Family {
        name: "tcp_monitor_resets_total",
        kind: MetricType::COUNTER,
        labels: &["direction", PORT, "phase", "reason"],
        help: "RSTs, once each, by the phase of the connection they ended. reason is the \
               sk_rst_reason of the kernel for those sent on Linux 6.12 and later, where the sum \
               of direction=sent equals OutRsts of /proc/net/snmp; else unknown, and those sent \
               without a full socket are not seen. Of those received, full sockets and half-open \
               requests ignore the ones that do not have the sequence number they expect: these \
               are not counted. phase=no_socket: a RST of no connection; all but those of full \
               sockets are seen on watched interfaces only.",
        read: resets,
    },
    Family {
        name: "tcp_monitor_state_transitions_total",
        kind: MetricType::COUNTER,
        labels: &[PORT, "from", "to"],
        help: "State transitions of connections: of sockets as the kernel reports them \
               (inet_sock_set_state), of half-open connections (new_syn_recv) and of timewait \
               sockets in FIN_WAIT2 as inferred from segments. Silent exits, when the kernel \
               gives up a timewait socket, are found by the agent at a scrape: a socket that \
               entered TIME_WAIT or FIN_WAIT2, was not seen to leave it and is not listed any \
               more has gone to close.",
        read: |counters, snapshot, samples| {
            let silent_exits_known = snapshot.sockets.is_some();
            for from in TcpState::ALL {
                for to in TcpState::ALL {
                    let count = counters.transitions[from as usize][to as usize];
                    let is_known = from != TcpState::TimeWait || silent_exits_known;
                    if count > 0 || is_known && zero_series::transition(from, to) {
                        samples.count(&[from.label(), to.label()], count);
                    }
                }
            }
        },
    },
    Family {
        name: "tcp_monitor_retransmits_total",
        kind: MetricType::COUNTER,
        labels: &[PORT],
        help: "Retransmitted segments with data or a FIN: RetransSegs of /proc/net/snmp less \
               syn_retransmits_total and attempts that failed on this host.",
        read: |counters, _, samples| samples.count(&[], counters.retransmits),
    },
    Family {
        name: "tcp_monitor_handshake_duration_seconds",
        kind: MetricType::HISTOGRAM,
        labels: &["role", PORT],
        help: "Time from the first SYN to ESTABLISHED, of completed handshakes whose SYN was \
               seen. Handshakes by SYN cookie have none.",
        read: |counters, _, samples| {
            for (role, durations) in Role::ALL.into_iter().zip(&counters.handshake_durations) {
                samples.durations(&[role.label()], Scale::HANDSHAKE, durations);
            }
        },
    },
    Family {
        name: "tcp_monitor_syn_cookies_total",
        kind: MetricType::COUNTER,
        labels: &[PORT, "result"],
        help: "SYNs answered with a SYN cookie (result=sent), and connections that began with one \
               (result=accepted): SyncookiesSent and SyncookiesRecv of /proc/net/netstat.",
        read: |counters, _, samples| {
            for (result, &count) in ["sent", "accepted"].into_iter().zip(&counters.syn_cookies) {
                samples.count(&[result], count);
            }
        },
    },
    Family {
        name: "tcp_monitor_accept_queue_overflows_total",
        kind: MetricType::COUNTER,
        labels: &[PORT],
        help: "SYNs and handshake ACKs that a listener dropped because its accept queue was full: \
               ListenOverflows of /proc/net/netstat.",
        read: |counters, _, samples| samples.count(&[], counters.accept_queue_overflows),
    },
    Family {
        name: "tcp_monitor_connections_closed_total",
        kind: MetricType::COUNTER,
        labels: &[PORT, "role", "closed_by"],
        help: "Connections that ended, on entry to TIME_WAIT or CLOSE. closed_by=local: this end \
               sent the first FIN; remote: the peer did; both: at once; local_reset, \
               remote_reset: by a RST; timed_out; killed: by an administrator (ss -K).",
        read: |counters, _, samples| {
            for (role, counts) in Role::ALL.into_iter().zip(&counters.closed) {
                for (closed_by, &count) in ClosedBy::ALL.into_iter().zip(counts) {
                    samples.count(&[role.label(), closed_by.label()], count);
                }
            }
        },
    },
    Family {
        name: "tcp_monitor_connection_duration_seconds",
        kind: MetricType::HISTOGRAM,
        labels: &[PORT, "role"],
        help: "Time from ESTABLISHED to the end, of connections that ended and whose beginning \
               was seen.",
        read: |counters, _, samples| {
            for (role, durations) in Role::ALL.into_iter().zip(&counters.connection_durations) {
                samples.durations(&[role.label()], Scale::LIFE, durations);
            }
        },
    },
    Family {
        name: "tcp_monitor_state_duration_seconds",
        kind: MetricType::HISTOGRAM,
        labels: &[PORT, "state"],
        help: "Time in a state, counted when it is left. The time in fin_wait2 after close() is \
               counted when the peer's FIN or a RST arrives, and not when the kernel gives up \
               waiting.",
        read: |counters, _, samples| {
            for (state, durations) in TIMED_STATES.into_iter().zip(&counters.state_durations) {
                samples.durations(&[state.label()], Scale::LIFE, durations);
            }
        },
    },
    Family {
        name: "tcp_monitor_bytes_total",
        kind: MetricType::COUNTER,
        labels: &[PORT, "direction"],
        help: "Payload of connections that ended: acknowledged by the peer (direction=sent), and \
               received in order (direction=received).",
        read: |counters, _, samples| {
            for (direction, &count) in ["sent", "received"].into_iter().zip(&counters.bytes) {
                samples.count(&[direction], count);
            }
        },
    },
];

fn resets(counters: &PortCounters, snapshot: &Snapshot, samples: &mut PortSamples<'_>) {
    const UNKNOWN: &str = reset_reason_label(UNKNOWN_REASON);
    let reasons_known = snapshot.kernel.reasons_known;
    for (phase, &count) in ResetPhase::ALL.into_iter().zip(&counters.resets_received) {
        samples.count(&["received", phase.label(), UNKNOWN], count);
    }
    for (phase, counts) in ResetPhase::ALL.into_iter().zip(&counters.resets_sent) {
        let mut unknown = 0;
        for (reason, &count) in (0..=u8::MAX).zip(counts) {
            let label = reset_reason_label(reason);
            if label == UNKNOWN {
                unknown += count;
            } else if count > 0 || reasons_known && zero_series::reset_reason(phase, reason) {
                samples.count(&["sent", phase.label(), label], count);
            }
        }
        if unknown > 0 || !reasons_known && zero_series::reset_without_reason(phase) {
            samples.count(&["sent", phase.label(), UNKNOWN], unknown);
        }
    }
}
