//! The names of the shared types: as labels of metrics and in JSON, and of states in text.

use core::fmt;

use crate::abi::counters::Table;
use crate::abi::record::{Direction, Kind};
use crate::rules::cause::{ClosedBy, HandshakeFailure};
use crate::rules::control::SegmentKind;
use crate::rules::reset::ResetPhase;
use crate::rules::role::Role;
use crate::rules::state::TcpState;

impl TcpState {
    /// The name in metrics and JSON: node_exporter's spelling (`established`, `syn_recv`, …).
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::SynSent => "syn_sent",
            Self::SynRecv => "syn_recv",
            Self::FinWait1 => "fin_wait1",
            Self::FinWait2 => "fin_wait2",
            Self::TimeWait => "time_wait",
            Self::Close => "close",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::Listen => "listen",
            Self::Closing => "closing",
            Self::NewSynRecv => "new_syn_recv",
        }
    }

    /// The kernel's spelling, as in the text log: `SYN_RECV`, `FIN_WAIT1`, …
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait1 => "FIN_WAIT1",
            Self::FinWait2 => "FIN_WAIT2",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
            Self::NewSynRecv => "NEW_SYN_RECV",
        }
    }
}

impl fmt::Display for TcpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Role {
    /// The name in metrics and JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

impl HandshakeFailure {
    /// The name in metrics and JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::HostUnreachable => "host_unreachable",
            Self::NetUnreachable => "net_unreachable",
            Self::Aborted => "aborted",
            Self::Other => "other",
            Self::Reset => "reset",
            Self::AcceptQueueFull => "accept_queue_full",
            Self::SynDropped => "syn_dropped",
            Self::NoListener => "no_listener",
        }
    }
}

impl ClosedBy {
    /// The name in metrics and JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
            Self::Both => "both",
            Self::LocalReset => "local_reset",
            Self::RemoteReset => "remote_reset",
            Self::TimedOut => "timed_out",
            Self::Killed => "killed",
        }
    }
}

impl ResetPhase {
    /// The name in metrics and JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::TimeWait => "time_wait",
            Self::NoSocket => "no_socket",
        }
    }
}

impl SegmentKind {
    /// The name in metrics and JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::SynAck => "syn_ack",
            Self::Fin => "fin",
            Self::Rst => "rst",
        }
    }
}

impl Direction {
    /// The name in metrics and JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl Kind {
    /// The name in metrics and JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Segment => "segment",
            Self::Reset => "reset",
            Self::Retransmit => "retransmit",
        }
    }
}

impl Table {
    /// The name in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Acks => "acks",
            Self::SocketTimes => "socket_times",
            Self::Requests => "requests",
            Self::FinWait2Timewait => "fin_wait2_timewait",
        }
    }
}

/// The `reason` label of `resets_total`: the kernel's `sk_rst_reason` (`include/net/rstreason.h`)
/// in snake case, or `unknown`.
#[must_use]
pub const fn reset_reason_label(reason: u8) -> &'static str {
    if (reason as usize) < RESET_REASON_LABELS.len() {
        RESET_REASON_LABELS[reason as usize]
    } else {
        "unknown"
    }
}

const RESET_REASON_LABELS: [&str; 25] = [
    "not_specified",
    "no_socket",
    "tcp_invalid_ack_sequence",
    "tcp_rfc7323_paws",
    "tcp_too_old_ack",
    "tcp_ack_unsent_data",
    "tcp_flags",
    "tcp_old_ack",
    "tcp_abort_on_data",
    "tcp_timewait_socket",
    "invalid_syn",
    "tcp_abort_on_close",
    "tcp_abort_on_linger",
    "tcp_abort_on_memory",
    "tcp_state",
    "tcp_keepalive_timeout",
    "tcp_disconnect_with_data",
    "mptcp_rst_eunspec",
    "mptcp_rst_emptcp",
    "mptcp_rst_eresource",
    "mptcp_rst_eprohibit",
    "mptcp_rst_ewq2big",
    "mptcp_rst_ebadperf",
    "mptcp_rst_emiddlebox",
    "error",
];
