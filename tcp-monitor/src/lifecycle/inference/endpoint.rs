//! One end of a connection as its segments show it: one life, from its first segment to CLOSE.

use std::time::Duration;

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
    /// The state that was told last or, if none was, in which it was met.
    pub(super) told: TcpState,
    pub(super) was_told: bool,
    /// When the answer to its SYN-ACK came in, if that does not show whether it was taken.
    pub(super) answered: Option<Time>,
    /// It sent its SYN-ACK again after that.
    pub(super) ignored_answer: bool,
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
            told: TcpState::Listen,
            was_told: false,
            answered: None,
            ignored_answer: false,
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
        Self { state, told: state, role: Role::Client, stream, opened: seen, ..Self::listening() }
    }

    /// An end that was established before it was met.
    pub(super) fn met_midway(role: Role) -> Self {
        let state = TcpState::Established;
        Self { state, told: state, role, partial: true, ..Self::listening() }
    }

    /// The answer to its SYN-ACK came in, and was not asked for again.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.is_some() && !self.ignored_answer
    }

    /// How long after the last segment, at `heard`, it gives up, if its SYN-ACKs show that. Linux sends a SYN-ACK again after 1, 2,
    /// 4 … s: each pause is as long as all before it together, and a second longer. Without another at the end of the
    /// pause it has given up.
    pub(super) fn gives_up_after(&self, heard: Time) -> Option<Duration> {
        let sends_again = self.retransmits > 0 && self.role == Role::Server;
        let pause = heard.since(self.since.filter(|_| sends_again)?) + FIRST_PAUSE;
        match self.state {
            TcpState::SynRecv | TcpState::NewSynRecv => {
                let doubling = (1..).map(|times| FIRST_PAUSE * (1 << times));
                // Kernel timers may be late by an eighth.
                let due = doubling.take(7).find(|due| *due + *due / 8 >= pause)?;
                Some(due + due / 4)
            }
            TcpState::Established
            | TcpState::SynSent
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::TimeWait
            | TcpState::Close
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Listen
            | TcpState::Closing => None,
        }
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

/// Kernel: `TCP_TIMEOUT_INIT`.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// What a server may send before its handshake is complete.
const UNSCALED_WINDOW: i64 = 1 << 16;
/// RFC 7323, section 2.2: a window of 16 bits, scaled by 14.
const LARGEST_WINDOW: i64 = 1 << 30;
