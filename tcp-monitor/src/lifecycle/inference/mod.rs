//! Connections explained from their segments alone: those of capture files, and those that pass through this host.

use std::time::Duration;

use tcp_monitor_common::TcpState;

use super::event::{Event, Unexpected};
use super::flow::{FlowKey, Relative};
use super::input::SegmentInput;
use super::queues::{Place, Queues};
use super::segment::Flags;
use super::time::Time;
use connection::{Acks, Connection, Passage};
use telling::Cause;

mod connection;
mod endpoint;
mod opening;
mod reset;
mod sign;
mod stream;
mod telling;

/// The connections whose segments are seen.
#[derive(Debug)]
pub(super) struct Inference {
    connections: Queues<FlowKey, Connection, { Class::ALL.len() }>,
    /// The latest time that was told; inputs may go back a little.
    now: Time,
}

/// What was read from a segment with what is known of its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) relative: Relative,
    pub(super) unexpected: Option<Unexpected>,
}

impl Inference {
    /// Knows at most `limit` connections.
    pub(super) fn new(limit: usize) -> Self {
        Self { connections: Queues::new(limit), now: Time::default() }
    }

    /// How many connections are known, those closed a moment ago included.
    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// How many had to be forgotten because there were too many.
    pub(super) fn evicted(&self) -> u64 {
        self.connections.evicted()
    }

    /// The segment, with what it is the first to acknowledge.
    pub(super) fn recognize(&self, segment: &SegmentInput) -> SegmentInput {
        let (key, from) = FlowKey::of(segment.netns, segment.src, segment.dst);
        let connection = self.connections.find(&key).and_then(|place| self.connections.get(place));
        let acks = connection
            .map_or(Acks::default(), |connection| connection.acks(from, receiver(segment, from), segment));
        SegmentInput {
            acks_syn_ack: segment.acks_syn_ack || acks.syn_ack,
            acks_fin: segment.acks_fin || acks.fin,
            ..*segment
        }
    }

    /// Takes a segment in, and tells what follows from it of each end whose socket the kernel does not tell of: the sender's
    /// and the receiver's, in this order.
    pub(super) fn take(
        &mut self,
        segment: &SegmentInput,
        told_by_kernel: [bool; 2],
        out: &mut Vec<Event>,
    ) -> Reading {
        let (key, from) = FlowKey::of(segment.netns, segment.src, segment.dst);
        let to = receiver(segment, from);
        self.now = self.now.max(segment.time);
        let place = match self.connections.find(&key) {
            Some(place) => place,
            None if is_of_connection(segment) => {
                self.connections.insert(key, Connection::new(), Class::Closed as usize, self.now).0
            }
            None => return Reading::default(),
        };
        let Some(connection) = self.connections.get_mut(place) else { return Reading::default() };
        let unexpected = connection.take(&mut Passage { key, from, to, segment, told_by_kernel, out });
        let relative = connection.relative(from, to, segment);
        let class = Class::of(connection);
        // A FIN sent again begins TIME_WAIT again (RFC 9293, section 3.10.7.4, eighth).
        let restarts = segment.header.flags.contains(Flags::FIN) && unexpected.is_none();
        let at_least = match class {
            Class::Open => ORDERED_TO,
            Class::HalfOpen | Class::Closing => Duration::ZERO,
            Class::TimeWait if restarts => Duration::ZERO,
            Class::TimeWait | Class::Closed => Duration::MAX,
        };
        self.connections.queue(place, class as usize, self.now, at_least);
        Reading { relative, unexpected }
    }

    /// When [`Self::expire_next`] has something to do, at the earliest.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        Class::ALL.into_iter().filter_map(|class| self.deadline(class)).map(|(deadline, _)| deadline).min()
    }

    /// Tells what the time brought about that passed first, of what passed until `now`.
    pub(super) fn expire_next(&mut self, now: Time, out: &mut Vec<Event>) {
        let deadlines = Class::ALL.into_iter().filter_map(|class| Some((class, self.deadline(class)?)));
        let Some((class, (deadline, place))) = deadlines.min_by_key(|(_, (deadline, _))| *deadline) else {
            return;
        };
        if deadline > now {
            return;
        }
        // After all inputs so far, or it would have been due before them.
        self.now = self.now.max(deadline);
        if class == Class::Closed {
            self.connections.remove_at(place);
            return;
        }
        let Some(key) = self.connections.key(place).copied() else { return };
        let Some(connection) = self.connections.get_mut(place) else { return };
        connection.time_out(class, deadline, &key, out);
        let class = Class::of(connection);
        self.connections.queue(place, class as usize, self.now, Duration::ZERO);
    }

    fn deadline(&self, class: Class) -> Option<(Time, Place)> {
        self.connections.front(class as usize).map(|(queued, place)| (queued + class.timeout(), place))
    }
}

/// A socket that connects to itself is both ends.
fn receiver(segment: &SegmentInput, from: usize) -> usize {
    if segment.src == segment.dst { from } else { 1 - from }
}

/// Whether a segment of no known connection is of one. A bare ACK may be the last of one that is over; a RST is.
fn is_of_connection(segment: &SegmentInput) -> bool {
    let [rst, syn, fin, ack] =
        [Flags::RST, Flags::SYN, Flags::FIN, Flags::ACK].map(|flag| segment.header.flags.contains(flag));
    !rst && (syn || ack && (fin || segment.payload_len > 0))
}

/// How far a connection is. The lower, the less is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
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
    pub(super) const ALL: [Self; 5] =
        [Self::Closed, Self::TimeWait, Self::HalfOpen, Self::Closing, Self::Open];

    fn of(connection: &Connection) -> Self {
        let classes = connection.ends.each_ref().map(|end| Self::of_end(end.state));
        let order = [Self::HalfOpen, Self::Closing, Self::Open, Self::TimeWait];
        order.into_iter().find(|class| classes.contains(class)).unwrap_or(Self::Closed)
    }

    /// The class of one end.
    pub(super) const fn of_end(state: TcpState) -> Self {
        use TcpState as S;
        match state {
            S::SynSent | S::SynRecv | S::NewSynRecv => Self::HalfOpen,
            S::FinWait1 | S::Closing | S::LastAck => Self::Closing,
            S::Established | S::FinWait2 | S::CloseWait => Self::Open,
            S::TimeWait => Self::TimeWait,
            S::Close | S::Listen => Self::Closed,
        }
    }

    /// How long a connection without segments stays in the class.
    const fn timeout(self) -> Duration {
        match self {
            Self::Closed => STRAGGLERS,
            Self::TimeWait => TIME_WAIT,
            Self::HalfOpen => UNANSWERED_SYN,
            Self::Closing => UNANSWERED_FIN,
            Self::Open => IDLE,
        }
    }
}

impl Connection {
    /// Nothing was heard for as long as the class allows.
    fn time_out(&mut self, class: Class, deadline: Time, key: &FlowKey, out: &mut Vec<Event>) {
        for end in 0..self.ends.len() {
            let is_over = match Class::of_end(self.ends[end].state) {
                Class::Closed => false,
                Class::TimeWait => {
                    self.ends[end].since.is_none_or(|since| deadline.since(since) >= TIME_WAIT)
                }
                Class::HalfOpen => true,
                Class::Closing | Class::Open => class != Class::HalfOpen,
            };
            if is_over {
                self.change(end, TcpState::Close, Cause::Timer, deadline, key, out);
            }
        }
    }
}

/// RFC 9293 says 2 MSL, four minutes; Linux (`TCP_TIMEWAIT_LEN`) and others keep it for one.
const TIME_WAIT: Duration = Duration::from_secs(60);
/// Longer than the longest pause between two SYNs or SYN-ACKs that Linux sends by default, 64 s.
const UNANSWERED_SYN: Duration = Duration::from_secs(70);
/// Longer than the longest pause between two retransmissions (Linux: `TCP_RTO_MAX`, 120 s): the sender has given up.
const UNANSWERED_FIN: Duration = Duration::from_secs(130);
/// With keep-alives a peer that lives is heard each two hours, and one that does not is given up 11 min 15 s later (Linux:
/// `tcp_keepalive_time`, `_intvl`, `_probes`). RFC 5382 lets a NAT forget a connection after 2 h 4 min.
const IDLE: Duration = Duration::from_secs(2 * 3600 + 15 * 60);
/// How long what comes after the end is known to be of the connection that ended.
const STRAGGLERS: Duration = Duration::from_secs(5);
/// Within this time it does not matter which of two connections was idle for longer.
const ORDERED_TO: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::{Class, Connection, FlowKey, Queues};

    #[test]
    fn a_connection_takes_no_more_memory_than_documented() {
        let bytes = Queues::<FlowKey, Connection, { Class::ALL.len() }>::ENTRY;
        assert!(bytes < 1000, "{bytes} bytes");
    }
}
