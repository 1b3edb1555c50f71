//! One end of a connection as its segments show it: one life, from its first segment to CLOSE.

use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Role;

use super::Identity;
use super::life::Life;
use super::stream::Stream;
use crate::lifecycle::time::Time;

#[derive(Clone, Debug)]
pub(in crate::lifecycle) struct InferredEnd {
    pub(in crate::lifecycle) life: Life,
    /// What it sends.
    pub(super) stream: Stream,
    /// The last acknowledgment number it sent: what it expects next (RCV.NXT).
    pub(super) expects: Option<u32>,
    /// The window scale it announced.
    pub(super) window_scale: Option<u8>,
    /// Its SYN was seen, and with it whether it scales windows.
    pub(super) syn_seen: bool,
    /// When its first SYN without ACK was seen.
    pub(super) opened: Option<Time>,
    /// The kernel reports its socket: nothing is reported from segments, in all of this life.
    pub(in crate::lifecycle) reported_by_kernel: bool,
    /// The state that was reported last or, if none was, in which it was met.
    pub(super) reported: TcpState,
    pub(in crate::lifecycle) has_reports: bool,
    /// When the answer to its SYN-ACK came in, if that does not show whether it was taken.
    pub(super) answered: Option<Time>,
    /// It retransmitted its SYN-ACK after that.
    pub(super) ignored_answer: bool,
    /// Segments it retransmitted.
    pub(super) retransmits: u32,
    /// Its SYN-ACK, or its FIN, awaits the acknowledgment that is reported.
    pub(super) awaits_ack_of_syn_ack: bool,
    pub(super) awaits_ack_of_fin: bool,
    /// Its FIN acknowledges the peer's.
    pub(super) fin_answers: bool,
    /// A SYN it sent in the middle of a connection, with its initial sequence number: a stray, or a
    /// new beginning after an end that was not seen.
    pub(super) stray_syn: Option<Box<(u32, Time)>>,
}

impl InferredEnd {
    /// An end that a segment goes to and that has sent none: if it is there at all, it listens.
    pub(super) fn listening(of: Identity) -> Self {
        Self {
            life: Life::met(of, Role::Server, TcpState::Listen),
            stream: Stream::default(),
            expects: None,
            window_scale: None,
            syn_seen: false,
            opened: None,
            reported_by_kernel: false,
            reported: TcpState::Listen,
            has_reports: false,
            answered: None,
            ignored_answer: false,
            retransmits: 0,
            awaits_ack_of_syn_ack: false,
            awaits_ack_of_fin: false,
            fin_answers: false,
            stray_syn: None,
        }
    }

    /// An end that opens with this initial sequence number. `seen` is when its SYN was seen, if it
    /// was.
    pub(super) fn opening(of: Identity, isn: u32, seen: Option<Time>) -> Self {
        let state = if seen.is_some() { TcpState::Close } else { TcpState::SynSent };
        let mut stream = Stream::begin(isn);
        if seen.is_none() {
            stream.acknowledge(1);
        }
        let life = Life::met(of, Role::Client, state);
        Self { life, reported: state, stream, opened: seen, ..Self::listening(of) }
    }

    /// An end that was established before it was met.
    pub(super) fn met_midway(of: Identity, role: Role) -> Self {
        let state = TcpState::Established;
        Self { life: Life::met(of, role, state), reported: state, ..Self::listening(of) }
    }

    /// The answer to its SYN-ACK came in, and was not asked for again.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.is_some() && !self.ignored_answer
    }

    /// How long after the last segment, at `last_seen`, it gives up, if its SYN-ACKs show that.
    /// Linux retransmits a SYN-ACK after 1, 2, 4 … s: each pause is as long as all before it
    /// together, and a second longer. Without another at the end of the pause it has given up.
    pub(super) fn gives_up_after(&self, last_seen: Time) -> Option<Duration> {
        let retransmits = self.retransmits > 0 && self.life.role == Role::Server;
        let pause = last_seen.since(self.life.since().filter(|_| retransmits)?) + FIRST_PAUSE;
        match self.life.state() {
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

    /// Whether an acknowledgment up to `acked`, a position in its stream, can be of what it sent.
    /// After the handshake some of that may have been missed.
    pub(super) fn accepts_ack(&self, acked: i64) -> bool {
        match self.life.state() {
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
