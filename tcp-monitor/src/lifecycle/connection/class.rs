//! How far a connection is, and for how long it stays so without segments.

use std::time::Duration;

use tcp_monitor_common::TcpState;

use super::ORDERED_TO;
use super::endpoint::Endpoint;
use super::enter::{Cause, is_handshake};
use super::flow::Flow;
use super::inference::{Ends, Inference};
use crate::lifecycle::event::Unexpected;
use crate::lifecycle::input::SegmentInput;
use crate::lifecycle::segment::Flags;
use crate::lifecycle::time::Time;

/// Connections whose end was not seen. Of each there is one client, but where both ends open at
/// once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// A SYN or SYN-ACK awaits its answer.
    pub half_open: u64,
    /// Established, and not closed yet in both directions.
    pub open: u64,
}

/// How far a connection is. The lower, the less is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lifecycle) enum Class {
    /// Both ends are closed, or were never there.
    Closed,
    /// One end is in TIME_WAIT, which alone keeps it.
    TimeWait,
    /// A SYN or SYN-ACK awaits its answer.
    HalfOpen,
    /// A FIN awaits its acknowledgment.
    Closing,
    /// Each end can be silent as long as it likes.
    Open,
}

impl Class {
    pub(in crate::lifecycle) const ALL: [Self; 5] =
        [Self::Closed, Self::TimeWait, Self::HalfOpen, Self::Closing, Self::Open];

    pub(in crate::lifecycle) fn of(inference: &Inference, ends: &[Endpoint; 2]) -> Self {
        if !inference.matters(ends) {
            return Self::Closed;
        }
        let classes = ends.each_ref().map(|end| {
            let is_inferred = !end.life.is_reported_by_kernel();
            if is_inferred { Self::of_end(end.life.state()) } else { Self::Closed }
        });
        let order = [Self::HalfOpen, Self::Closing, Self::Open, Self::TimeWait];
        order.into_iter().find(|class| classes.contains(class)).unwrap_or(Self::Closed)
    }

    /// The class of one end.
    pub(in crate::lifecycle) const fn of_end(state: TcpState) -> Self {
        use TcpState as S;
        match state {
            S::SynSent | S::SynRecv | S::NewSynRecv => Self::HalfOpen,
            S::FinWait1 | S::Closing | S::LastAck => Self::Closing,
            S::Established | S::FinWait2 | S::CloseWait => Self::Open,
            S::TimeWait => Self::TimeWait,
            S::Close | S::Listen => Self::Closed,
        }
    }

    /// For how long a connection stays where it is in the queue of its class, if this segment is
    /// all that comes.
    pub(in crate::lifecycle) fn stays(
        self,
        segment: &SegmentInput,
        unexpected: Option<Unexpected>,
    ) -> Duration {
        // A retransmitted FIN begins TIME_WAIT again (RFC 9293, section 3.10.7.4, eighth).
        let restarts = segment.header.flags.contains(Flags::FIN) && unexpected.is_none();
        match self {
            Self::Open => ORDERED_TO,
            Self::HalfOpen | Self::Closing => Duration::ZERO,
            Self::TimeWait if restarts => Duration::ZERO,
            Self::TimeWait | Self::Closed => Duration::MAX,
        }
    }

    /// How long a connection without segments stays in the class; of the half-open, how long until
    /// that is checked.
    pub(in crate::lifecycle) const fn timeout(self, sees_all_segments: bool) -> Duration {
        match self {
            Self::Closed => STRAGGLERS,
            Self::TimeWait => TIME_WAIT,
            Self::HalfOpen => HALF_OPEN_CHECKED,
            Self::Closing => UNANSWERED_FIN,
            Self::Open if sees_all_segments => IDLE,
            Self::Open => UNSEEN,
        }
    }
}

impl Inference {
    /// Closes each end of which something was reported: another connection takes its place.
    pub(in crate::lifecycle) fn replace_ends(&mut self, time: Time, ends: &mut Ends<'_>) {
        for end in 0..ends.of.len() {
            if ends.of[end].life.has_reports {
                self.change(end, TcpState::Close, Cause::Replaced, time, ends);
            }
        }
    }

    /// When an end that awaits the answer to its SYN or SYN-ACK has given up.
    pub(in crate::lifecycle) fn is_half_open_until(&self, ends: &[Endpoint; 2]) -> Time {
        let is_answered = self.flows.iter().any(Flow::is_answered);
        let flows = self.flows.iter().zip(ends);
        let gives_up = flows.filter_map(|(flow, end)| flow.gives_up_after(&end.life, self.last_seen)).min();
        self.last_seen + gives_up.filter(|_| !is_answered).unwrap_or(UNANSWERED_SYN)
    }

    /// No segment was seen for as long as the class allows.
    pub(in crate::lifecycle) fn time_out(&mut self, class: Class, deadline: Time, ends: &mut Ends<'_>) {
        for end in 0..ends.of.len() {
            let life = &ends.of[end].life;
            let is_over = match Class::of_end(life.state()) {
                Class::Closed => false,
                Class::TimeWait => life.since().is_none_or(|since| deadline.since(since) >= TIME_WAIT),
                Class::HalfOpen => true,
                Class::Closing | Class::Open => class != Class::HalfOpen,
            };
            if is_over {
                // What is not retransmitted was accepted.
                let is_answered = is_handshake(life.state()) && self.flows[end].is_answered();
                let state = if is_answered { TcpState::Established } else { TcpState::Close };
                self.visibility.is_given_up = true;
                self.change(end, state, Cause::Timer, deadline, ends);
            }
        }
        self.visibility.is_given_up = false;
    }
}

/// RFC 9293 says 2 MSL, four minutes; Linux (`TCP_TIMEWAIT_LEN`) and others keep it for one.
const TIME_WAIT: Duration = Duration::from_secs(60);
/// Longer than the longest pause between two SYNs or SYN-ACKs that Linux sends by default, 64 s.
const UNANSWERED_SYN: Duration = Duration::from_secs(70);
/// Of this, both [`UNANSWERED_SYN`] and whatever [`Flow::gives_up_after`] says are
/// multiples.
const HALF_OPEN_CHECKED: Duration = Duration::from_millis(2500);
/// Longer than the longest pause between two retransmissions (Linux: `TCP_RTO_MAX`, 120 s): the
/// sender has given up.
const UNANSWERED_FIN: Duration = Duration::from_secs(130);
/// With keep-alives a peer that lives answers every two hours, and one that does not is given up 11
/// min 15 s later (Linux: `tcp_keepalive_time`, `_intvl`, `_probes`). RFC 5382 lets a NAT discard a
/// connection after 2 h 4 min.
const IDLE: Duration = Duration::from_secs(2 * 3600 + 15 * 60);
/// Where data is not seen, an open connection may be in use however long no segment of it is seen.
/// It is evicted, without an event, when a firewall discards it too (Linux:
/// `nf_conntrack_tcp_timeout_established`).
const UNSEEN: Duration = Duration::from_secs(5 * 24 * 3600);
/// How long what comes after the end is known to be of the connection that ended.
const STRAGGLERS: Duration = Duration::from_secs(5);
