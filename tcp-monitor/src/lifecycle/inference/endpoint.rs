//! One end of a connection as its segments show it: one life, from its first segment to CLOSE.

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Role;

use super::stream::Stream;
use crate::lifecycle::check::Sent;
use crate::lifecycle::spent::Spent;
use crate::lifecycle::time::Time;

#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) state: TcpState,
    pub(super) role: Role,
    /// What it sends.
    pub(super) stream: Stream,
    /// What of it can be acknowledged.
    pub(super) sent: Sent,
    /// The last acknowledgment number it sent: what it expects next (RCV.NXT).
    pub(super) expects: Option<u32>,
    /// The window scale it announced.
    pub(super) window_scale: Option<u8>,
    /// Its SYN was seen, and with it whether it scales windows.
    pub(super) syn_seen: bool,
    /// When its first SYN without ACK was seen.
    pub(super) opened: Option<Time>,
    /// When it entered `state`, if that was seen.
    pub(super) since: Option<Time>,
    pub(super) established: Option<Time>,
    /// It was established before it was met.
    pub(super) partial: bool,
    /// The kernel tells of its socket: nothing is told from here, in all of this life.
    pub(super) told_by_kernel: bool,
    /// Segments it sent again.
    pub(super) retransmits: u32,
    /// Its SYN-ACK, or its FIN, awaits the acknowledgment that is told.
    pub(super) awaits_ack_of_syn_ack: bool,
    pub(super) awaits_ack_of_fin: bool,
    /// Its FIN acknowledges the peer's.
    pub(super) fin_answers: bool,
    /// A SYN it sent in the middle of a connection, with its initial sequence number: a stray, or a new beginning after an
    /// end that was not seen.
    pub(super) stray_syn: Option<(u32, Time)>,
    pub(super) spent: Spent,
}

impl Endpoint {
    /// An end that a segment goes to and that has sent none: if it is there at all, it listens.
    pub(super) fn listening() -> Self {
        Self {
            state: TcpState::Listen,
            role: Role::Server,
            stream: Stream::default(),
            sent: Sent::default(),
            expects: None,
            window_scale: None,
            syn_seen: false,
            opened: None,
            since: None,
            established: None,
            partial: false,
            told_by_kernel: false,
            retransmits: 0,
            awaits_ack_of_syn_ack: false,
            awaits_ack_of_fin: false,
            fin_answers: false,
            stray_syn: None,
            spent: Spent::default(),
        }
    }

    /// An end that opens with this initial sequence number. `seen` is when its SYN was seen, if it was.
    pub(super) fn opening(isn: u32, seen: Option<Time>) -> Self {
        let state = if seen.is_some() { TcpState::Close } else { TcpState::SynSent };
        let mut stream = Stream::begin(isn);
        if seen.is_none() {
            stream.acknowledge(1);
        }
        Self { state, role: Role::Client, stream, opened: seen, ..Self::listening() }
    }

    /// An end that was established before it was met.
    pub(super) fn met_midway(role: Role) -> Self {
        Self { state: TcpState::Established, role, partial: true, ..Self::listening() }
    }

    /// Whether an acknowledgment up to `acked`, a position in its stream, can be of what it sent. After the handshake some of
    /// that may have been missed.
    pub(super) fn accepts_ack(&self, acked: i64) -> bool {
        match self.state {
            TcpState::SynSent => acked >= 1 && self.stream.can_be_acked(acked, 0),
            TcpState::SynRecv | TcpState::NewSynRecv => {
                acked >= 1 && self.stream.can_be_acked(acked, UNSCALED_WINDOW)
            }
            TcpState::Established
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::TimeWait
            | TcpState::Close
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Listen
            | TcpState::Closing => self.stream.can_be_acked(acked, LARGEST_WINDOW),
        }
    }
}

/// What a server may send before its handshake is complete.
const UNSCALED_WINDOW: i64 = 1 << 16;
/// RFC 7323, section 2.2: a window of 16 bits, scaled by 14.
const LARGEST_WINDOW: i64 = 1 << 30;
