//! Connections explained from their segments alone: those of capture files and, on a running agent, those that pass through this
//! host and requests that are half open.

use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::{Direction, Role};

use super::event::{Event, Step, Unexpected};
use super::flow::{FlowKey, Numbers};
use super::input::SegmentInput;
use super::queues::{Place, Queues};
use super::segment::Flags;
use super::sighting::{Seen, Verdict};
use super::time::Time;
use super::waiting::Addresses;
use connection::{Acks, Connection, Passage};
use elsewhere::{Elsewhere, Opener};
use endpoint::Endpoint;
use telling::{Cause, is_handshake};

mod connection;
mod elsewhere;
mod endpoint;
mod opening;
mod reset;
mod sight;
mod sign;
mod stream;
mod telling;

/// The connections whose segments are seen.
#[derive(Debug)]
pub(super) struct Inference {
    connections: Connections,
    /// All their segments are seen, each once; not only those of handshakes and teardowns, each wherever it passes.
    is_whole: bool,
    /// So many of the connections may be half-open, and as many closed.
    max_unproven: usize,
    elsewhere: Elsewhere,
    /// The latest time that was told; inputs may go back a little.
    now: Time,
}

type Connections = Queues<FlowKey, Connection, { Class::ALL.len() }>;

/// What was read from a segment with what is known of its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) numbers: Numbers,
    pub(super) unexpected: Option<Unexpected>,
}

/// Connections whose end was not seen. Of each there is one client, but where both ends open at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// A SYN or SYN-ACK awaits its answer.
    pub half_open: u64,
    /// Established, and not closed yet in both directions.
    pub open: u64,
}

impl Inference {
    /// Bytes that a connection takes.
    #[cfg(test)]
    pub(super) const ENTRY: usize = Connections::ENTRY;

    /// Knows at most `limit` connections, and of those that are half-open or closed at most `max_unproven` each.
    pub(super) fn new(is_whole: bool, limit: usize, max_unproven: usize) -> Self {
        let (connections, elsewhere) = (Queues::new(limit), Elsewhere::new(limit, max_unproven));
        Self { connections, is_whole, max_unproven, elsewhere, now: Time::default() }
    }

    /// Whether plain data and all acknowledgments are seen.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// How many connections are known, those closed a moment ago included.
    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// How many clients' ends are not closed.
    pub(super) fn unfinished(&self) -> Unfinished {
        let mut unfinished = Unfinished::default();
        let ends = self.connections.values().flat_map(|connection| &connection.ends);
        for end in ends.filter(|end| end.role == Role::Client) {
            match Class::of_end(end.state) {
                Class::HalfOpen => unfinished.half_open += 1,
                Class::Closing | Class::Open => unfinished.open += 1,
                Class::TimeWait | Class::Closed => {}
            }
        }
        unfinished
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

    /// Takes a segment in, which is that `step` if it is one, and tells what follows from it of each end whose socket the kernel
    /// does not tell of: the sender's and the receiver's, in this order.
    pub(super) fn take(
        &mut self,
        segment: &SegmentInput,
        step: Option<Step>,
        told_by_kernel: [bool; 2],
        out: &mut Vec<Event>,
    ) -> Reading {
        let (key, from) = FlowKey::of(segment.netns, segment.src, segment.dst);
        let to = receiver(segment, from);
        self.now = self.now.max(segment.time);
        let place = match self.connections.find(&key) {
            Some(place) => place,
            None if is_of_connection(segment) => {
                self.connections.insert(key, Connection::new(true), Class::Closed as usize, self.now).0
            }
            None => return Reading::default(),
        };
        let Some(connection) = self.connections.get_mut(place) else { return Reading::default() };
        let before = step.map(|step| connection.check(from, to, segment, step)).unwrap_or_default();
        let unexpected = connection.take(&mut Passage { key, from, to, segment, told_by_kernel, out });
        let check = match unexpected {
            Some(Unexpected::Ack) => before.of_nothing_sent(&connection.ends[to].sent),
            Some(Unexpected::OutOfWindow | Unexpected::State) | None => before,
        };
        let numbers = Numbers { relative: connection.relative(from, to, segment), check };
        let class = Class::of(connection);
        self.queue(place, class, class.stays(segment, unexpected));
        Reading { numbers, unexpected }
    }

    /// Takes in that a segment of a handshake or a teardown was seen at one of the vantage points that it passes.
    pub(super) fn sight(
        &mut self,
        segment: &SegmentInput,
        seen: &Seen,
        told_by_kernel: [bool; 2],
        out: &mut Vec<Event>,
    ) {
        let (flow, from) = FlowKey::of(segment.netns, segment.src, segment.dst);
        let to = receiver(segment, from);
        self.now = self.now.max(segment.time);
        let is_copy = seen.verdict == Verdict::Copy;
        let (connections, elsewhere) = (&mut self.connections, &mut self.elsewhere);
        let known = elsewhere.resolve(&flow, connections);
        if segment.syn_cookie {
            // There is no request, and nothing to time out. If the cookie comes back, the kernel tells of a socket.
            if let Some((key, place)) = known {
                if let Some(connection) = connections.get_mut(place) {
                    connection.give_way(segment.time, &key, out);
                }
                connections.remove(&key);
            }
            return;
        }
        let (key, place) =
            match known.or_else(|| elsewhere.resolve(&flow.in_netns(seen.first.netns), connections)) {
                Some(known) => known,
                None if is_copy || !is_of_connection(segment) => return,
                None => {
                    let class = Class::Closed as usize;
                    (flow, connections.insert(flow, Connection::new(false), class, self.now).0)
                }
            };
        if key != flow {
            elsewhere.note(flow, key, self.now, connections);
        }
        let Some(connection) = connections.get_mut(place) else { return };
        let passage = &mut Passage { key, from, to, segment, told_by_kernel, out };
        connection.note_kernel(passage);
        connection.sight.note(from, segment, seen);
        for end in 0..connection.ends.len() {
            connection.catch_up(end, segment.time, &key, passage.out);
        }
        if !is_copy {
            connection.take(passage);
        }
        let class = Class::of(connection);
        let is_answered_here = connection.sight.is_here(from);
        let at_least = if is_copy { Duration::MAX } else { class.stays(segment, None) };
        self.queue(place, class, at_least);
        self.follow_translation(
            segment,
            Opener { key, end: from },
            told_by_kernel[0],
            is_copy,
            is_answered_here,
        );
    }

    /// Finds out which connections are one before and behind a translation of addresses: a SYN with the same initial sequence
    /// number came into the namespace right before, with other addresses.
    fn follow_translation(
        &mut self,
        segment: &SegmentInput,
        sender: Opener,
        told_by_kernel: bool,
        is_copy: bool,
        is_here: bool,
    ) {
        let flags = segment.header.flags;
        let (netns, seq) = (segment.netns, segment.header.seq);
        let is_syn = flags.contains(Flags::SYN) && !flags.contains(Flags::ACK) && !flags.contains(Flags::RST);
        match segment.direction {
            Some(Direction::Ingress) if is_syn => self.elsewhere.come_in(netns, seq, sender, self.now),
            Some(Direction::Egress) if is_syn && !is_copy && !told_by_kernel => {
                self.elsewhere.go_out(netns, seq, sender, self.now);
            }
            Some(_) | None if is_syn || is_copy => {}
            Some(_) | None => {
                let Some(opener) = self.elsewhere.answer(&sender.key, sender.end) else { return };
                let Some(place) = self.connections.find(&opener.key) else { return };
                let Some(connection) = self.connections.get_mut(place) else { return };
                if is_here {
                    // Its socket has the other addresses. What was told goes on to its end.
                    let untold = connection.ends.iter_mut().filter(|end| !end.was_told);
                    untold.for_each(|end| end.told_by_kernel = true);
                } else {
                    connection.sight.find_translated(1 - opener.end, netns);
                }
            }
        }
    }

    /// From now on the kernel tells of the socket at the local end. Returns since when it is told to be in SYN_RECV, if it is.
    pub(super) fn hand_over(&mut self, socket: &Addresses, now: Time) -> Option<Time> {
        self.now = self.now.max(now);
        let (flow, end) = FlowKey::of(socket.netns, socket.local, socket.remote);
        let (_, place) = self.elsewhere.resolve(&flow, &self.connections)?;
        let connection = self.connections.get_mut(place)?;
        let is_told = connection.is_told(end);
        let mine = &mut connection.ends[end];
        mine.told_by_kernel = true;
        let class = Class::of(connection);
        let mine = &connection.ends[end];
        let since = mine.since.filter(|_| is_told && mine.was_told && mine.told == TcpState::SynRecv);
        self.queue(place, class, Duration::MAX);
        since
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
        if class == Class::Closed || class == Class::Open && !self.is_whole {
            self.connections.remove_at(place);
            return;
        }
        let Some(key) = self.connections.key(place).copied() else { return };
        let Some(connection) = self.connections.get_mut(place) else { return };
        if class != Class::HalfOpen || connection.is_half_open_until() <= deadline {
            connection.time_out(class, deadline, &key, out);
        }
        let class = Class::of(connection);
        self.queue(place, class, Duration::ZERO);
    }

    /// Moves a connection to the back of its class, and lets go of what a flood of SYNs puts there beyond the limit.
    fn queue(&mut self, place: Place, class: Class, at_least: Duration) {
        self.connections.queue(place, class as usize, self.now, at_least);
        while self.connections.count(Class::HalfOpen as usize) > self.max_unproven {
            self.connections.evict_from(Class::HalfOpen as usize);
        }
        // Nothing is left to tell of those: it is no loss.
        while self.connections.count(Class::Closed as usize) > self.max_unproven
            && let Some((_, place)) = self.connections.front(Class::Closed as usize)
        {
            self.connections.remove_at(place);
        }
    }

    fn deadline(&self, class: Class) -> Option<(Time, Place)> {
        self.connections
            .front(class as usize)
            .map(|(queued, place)| (queued + class.timeout(self.is_whole), place))
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
        if !connection.matters() {
            return Self::Closed;
        }
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

    /// For how long a connection stays where it is in the queue of its class, if this segment is all that comes.
    fn stays(self, segment: &SegmentInput, unexpected: Option<Unexpected>) -> Duration {
        // A FIN sent again begins TIME_WAIT again (RFC 9293, section 3.10.7.4, eighth).
        let restarts = segment.header.flags.contains(Flags::FIN) && unexpected.is_none();
        match self {
            Self::Open => ORDERED_TO,
            Self::HalfOpen | Self::Closing => Duration::ZERO,
            Self::TimeWait if restarts => Duration::ZERO,
            Self::TimeWait | Self::Closed => Duration::MAX,
        }
    }

    /// How long a connection without segments stays in the class; of the half-open, how long until that is looked at.
    const fn timeout(self, is_whole: bool) -> Duration {
        match self {
            Self::Closed => STRAGGLERS,
            Self::TimeWait => TIME_WAIT,
            Self::HalfOpen => HALF_OPEN_CHECKED,
            Self::Closing => UNANSWERED_FIN,
            Self::Open if is_whole => IDLE,
            Self::Open => UNSEEN,
        }
    }
}

impl Connection {
    /// Ends the story of each end of which something was told.
    fn give_way(&mut self, time: Time, key: &FlowKey, out: &mut Vec<Event>) {
        for end in 0..self.ends.len() {
            if self.ends[end].was_told {
                self.change(end, TcpState::Close, Cause::Replaced, time, key, out);
            }
        }
    }

    /// When an end that awaits the answer to its SYN or SYN-ACK has given up.
    fn is_half_open_until(&self) -> Time {
        let is_answered = self.ends.iter().any(Endpoint::is_answered);
        let gives_up = self.ends.iter().filter_map(|end| end.gives_up_after(self.heard)).min();
        self.heard + gives_up.filter(|_| !is_answered).unwrap_or(UNANSWERED_SYN)
    }

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
                // What is not asked for again was taken.
                let is_answered = is_handshake(self.ends[end].state) && self.ends[end].is_answered();
                let state = if is_answered { TcpState::Established } else { TcpState::Close };
                self.sight.is_given_up = true;
                self.change(end, state, Cause::Timer, deadline, key, out);
            }
        }
        self.sight.is_given_up = false;
    }
}

/// RFC 9293 says 2 MSL, four minutes; Linux (`TCP_TIMEWAIT_LEN`) and others keep it for one.
const TIME_WAIT: Duration = Duration::from_secs(60);
/// Longer than the longest pause between two SYNs or SYN-ACKs that Linux sends by default, 64 s.
const UNANSWERED_SYN: Duration = Duration::from_secs(70);
/// Of this, both [`UNANSWERED_SYN`] and whatever [`Endpoint::gives_up_after`](endpoint::Endpoint::gives_up_after) says are multiples.
const HALF_OPEN_CHECKED: Duration = Duration::from_millis(2500);
/// Longer than the longest pause between two retransmissions (Linux: `TCP_RTO_MAX`, 120 s): the sender has given up.
const UNANSWERED_FIN: Duration = Duration::from_secs(130);
/// With keep-alives a peer that lives is heard each two hours, and one that does not is given up 11 min 15 s later (Linux:
/// `tcp_keepalive_time`, `_intvl`, `_probes`). RFC 5382 lets a NAT forget a connection after 2 h 4 min.
const IDLE: Duration = Duration::from_secs(2 * 3600 + 15 * 60);
/// Where data is not seen, an open connection may be in use however long nothing is heard of it. It is forgotten, without a
/// word, when a firewall forgets it too (Linux: `nf_conntrack_tcp_timeout_established`).
const UNSEEN: Duration = Duration::from_secs(5 * 24 * 3600);
/// How long what comes after the end is known to be of the connection that ended.
const STRAGGLERS: Duration = Duration::from_secs(5);
/// Within this time it does not matter which of two connections was idle for longer.
const ORDERED_TO: Duration = Duration::from_secs(1);
