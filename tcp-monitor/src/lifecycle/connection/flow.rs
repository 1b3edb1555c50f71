//! What the segments of one end show besides its states: the stream that it sends, and what of its
//! handshake and teardown awaits an answer.

use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Role;

use super::life::Life;
use super::stream::Stream;
use crate::lifecycle::time::Time;

/// The flow of segments from one end, since its life began.
#[derive(Clone, Debug, Default)]
pub(in crate::lifecycle) struct Flow {
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

impl Flow {
    /// The flow of an end that opens with this initial sequence number. `seen` is when its SYN was
    /// seen, if it was.
    pub(super) fn opening(isn: u32, seen: Option<Time>) -> Self {
        let mut stream = Stream::begin(isn);
        if seen.is_none() {
            stream.acknowledge(1);
        }
        Self { stream, opened: seen, ..Self::default() }
    }

    /// The answer to its SYN-ACK came in, and was not asked for again.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.is_some() && !self.ignored_answer
    }

    /// How long after the last segment, at `last_seen`, it gives up, if its SYN-ACKs show that.
    /// Linux retransmits a SYN-ACK after 1, 2, 4 … s: each pause is as long as all before it
    /// together, and a second longer. Without another at the end of the pause it has given up.
    pub(super) fn gives_up_after(&self, life: &Life, last_seen: Time) -> Option<Duration> {
        let retransmits = self.retransmits > 0 && life.role == Role::Server;
        let pause = last_seen.since(life.since().filter(|_| retransmits)?) + FIRST_PAUSE;
        match life.state() {
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

    /// Whether an acknowledgment up to `acked`, a position in its stream, can be of what it sent in
    /// `state`. After the handshake some of that may have been missed.
    pub(super) fn accepts_ack(&self, state: TcpState, acked: i64) -> bool {
        match state {
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
