//! What segments tell of a connection: where its sequence numbers begin, and which SYN, FIN and RST were seen.

use std::net::SocketAddr;
use std::time::Duration;

use tcp_monitor_common::TcpState;

use super::address::Address;
use super::check::{Sent, check};
use super::event::{Check, Step};
use super::input::SegmentInput;
use super::queues::{Place, Queues};
use super::segment::Flags;
use super::time::Time;
use super::waiting::Addresses;
use tcp_monitor_common::transition::is_synchronized;

/// The flows of every network namespace.
#[derive(Debug)]
pub(super) struct Flows {
    flows: Queues<FlowKey, Flow, { Class::ALL.len() }>,
    /// How many of them may be opening.
    max_opening: usize,
}

/// Relative sequence and acknowledgment number of a segment, where the start was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Relative {
    pub(super) seq: Option<u32>,
    pub(super) ack: Option<u32>,
}

/// What the numbers of a segment are, with what is known of its flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) relative: Relative,
    pub(super) check: Check,
}

/// What was seen of one end of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct End {
    /// Initial sequence number.
    pub(super) isn: Option<u32>,
    /// When its first SYN without ACK was seen.
    pub(super) syn_seen: Option<Time>,
    /// What it sent that can be acknowledged.
    pub(super) sent: Sent,
    /// It sent a RST.
    pub(super) reset: bool,
    /// State of its socket, if that is on this host and not closed.
    pub(super) state: Option<TcpState>,
}

impl Flows {
    /// Bytes that a flow takes.
    #[cfg(test)]
    pub(super) const ENTRY: usize = Queues::<FlowKey, Flow, { Class::ALL.len() }>::ENTRY;

    /// Knows at most `limit` flows, and of those that are opening at most `max_opening`.
    pub(super) fn new(limit: usize, max_opening: usize) -> Self {
        Self { flows: Queues::new(limit), max_opening }
    }

    /// Takes a segment in.
    pub(super) fn observe(&mut self, segment: &SegmentInput, step: Step) -> Numbers {
        let (key, sender) = FlowKey::of(segment.netns, segment.src, segment.dst);
        let place = match self.flows.find(&key) {
            Some(place) => place,
            None => self.flows.insert(key, Flow::default(), Class::Opening as usize, segment.time).0,
        };
        let Some(flow) = self.flows.get_mut(place) else { return Numbers::default() };
        let numbers = flow.observe(segment, step, sender);
        let class = flow.class();
        self.flows.queue(place, class as usize, segment.time, ORDERED_TO);
        while self.flows.count(Class::Opening as usize) > self.max_opening {
            self.flows.evict_from(Class::Opening as usize);
        }
        numbers
    }

    /// What was seen of the local end of a flow.
    pub(super) fn end(&self, addresses: &Addresses) -> End {
        let (key, local) = FlowKey::of(addresses.netns, addresses.local, addresses.remote);
        let flow = self.flows.find(&key).and_then(|place| self.flows.get(place));
        flow.map_or_else(End::default, |flow| flow.ends[local])
    }

    /// A socket was found in `state`, the beginning of whose flow was not seen.
    pub(super) fn find_socket(&mut self, addresses: &Addresses, state: TcpState, now: Time) {
        let (key, _) = FlowKey::of(addresses.netns, addresses.local, addresses.remote);
        if self.flows.find(&key).is_none() {
            self.flows.insert(key, Flow::default(), Class::Opening as usize, now);
        }
        self.set_state(addresses, state, now);
    }

    /// The socket of the local end is in `state` now.
    pub(super) fn set_state(&mut self, addresses: &Addresses, state: TcpState, now: Time) {
        let (key, local) = FlowKey::of(addresses.netns, addresses.local, addresses.remote);
        let place = match self.flows.find(&key) {
            Some(place) => place,
            // A flow is made by its segments, or by the SYN_SENT before the first of them.
            None if state == TcpState::SynSent => {
                self.flows.insert(key, Flow::default(), Class::Opening as usize, now).0
            }
            None => return,
        };
        let Some(flow) = self.flows.get_mut(place) else { return };
        flow.set_state(local, state);
        // Without a socket only stragglers are to come.
        let class = if flow.has_socket() { Class::WithSocket } else { Class::Closed };
        self.flows.queue(place, class as usize, now, ORDERED_TO);
    }

    /// The socket of the local end is known no more. Without another the flow is not either.
    pub(super) fn forget(&mut self, addresses: &Addresses) {
        let (key, local) = FlowKey::of(addresses.netns, addresses.local, addresses.remote);
        let Some(place) = self.flows.find(&key) else { return };
        let Some(flow) = self.flows.get_mut(place) else { return };
        flow.set_state(local, TcpState::Close);
        if !flow.has_socket() {
            self.flows.remove_at(place);
        }
    }

    /// When [`Self::expire`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        Class::ALL.into_iter().filter_map(|class| self.first_of(class)).map(|(deadline, _)| deadline).min()
    }

    /// Forgets flows that nothing was heard of for long and that have no socket here.
    pub(super) fn expire(&mut self, now: Time) {
        for class in Class::ALL {
            while let Some((deadline, place)) = self.first_of(class)
                && deadline <= now
            {
                self.flows.remove_at(place);
            }
        }
    }

    pub(super) fn evicted(&self) -> u64 {
        self.flows.evicted()
    }

    fn first_of(&self, class: Class) -> Option<(Time, Place)> {
        let timeout = class.timeout()?;
        self.flows.front(class as usize).map(|(queued, place)| (queued + timeout, place))
    }
}

/// What a flow is worth remembering. The lower, the less is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Its sockets here are closed.
    Closed,
    /// No socket of it is known here, and its handshake is not complete.
    Opening,
    /// No socket of it is known here.
    Sockless,
    WithSocket,
}

impl Class {
    const ALL: [Self; 4] = [Self::Closed, Self::Opening, Self::Sockless, Self::WithSocket];

    /// How long a flow of which nothing is heard is kept; `None` for as long as its sockets.
    const fn timeout(self) -> Option<Duration> {
        match self {
            Self::Closed => Some(CLOSED),
            Self::Opening | Self::Sockless => Some(IDLE),
            Self::WithSocket => None,
        }
    }
}

/// One connection as seen in one network namespace: the unordered pair of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlowKey {
    netns: u32,
    low: Address,
    high: Address,
}

impl FlowKey {
    /// The flow between two addresses, and the index of `this` in [`Flow::ends`].
    pub(super) fn of(netns: u32, this: impl Into<Address>, other: impl Into<Address>) -> (Self, usize) {
        let (this, other) = (this.into(), other.into());
        let key = Self { netns, low: this.min(other), high: this.max(other) };
        (key, usize::from(this > other))
    }

    /// Local and remote address of an end, by its index.
    pub(super) fn addresses(&self, end: usize) -> (SocketAddr, SocketAddr) {
        let (low, high) = (self.low.into(), self.high.into());
        if end == 0 { (low, high) } else { (high, low) }
    }

    pub(super) fn netns(&self) -> u32 {
        self.netns
    }

    /// A socket that connects to itself is both ends.
    pub(super) fn is_one_end(&self) -> bool {
        self.low == self.high
    }

    /// The flow with the same addresses in another network namespace.
    pub(super) fn in_netns(&self, netns: u32) -> Self {
        Self { netns, ..*self }
    }
}

#[derive(Debug, Default)]
struct Flow {
    ends: [End; 2],
    /// What one end sent was acknowledged by the other, who so is where it says it is.
    acknowledged: bool,
}

impl Flow {
    fn has_socket(&self) -> bool {
        self.ends.iter().any(|end| end.state.is_some())
    }

    fn class(&self) -> Class {
        if self.has_socket() {
            Class::WithSocket
        } else if self.acknowledged {
            Class::Sockless
        } else {
            Class::Opening
        }
    }

    fn set_state(&mut self, local: usize, state: TcpState) {
        let begins = !is_synchronized(state) && state != TcpState::Close;
        if begins && self.ends[local].is_living() {
            // The end of the last connection was lost, and what was seen since was taken to be of that one.
            *self = Self::default();
        }
        self.ends[local].state = Some(state).filter(|state| *state != TcpState::Close);
    }

    fn observe(&mut self, segment: &SegmentInput, step: Step, sender: usize) -> Numbers {
        let header = &segment.header;
        // A connection that connects to itself has one end.
        let receiver = if segment.src == segment.dst { sender } else { 1 - sender };
        let check = check(segment, step, &self.ends[sender].sent, &self.ends[receiver].sent);
        match step {
            Step::Syn | Step::SynAck => self.begin(segment, step, sender, receiver),
            Step::Fin | Step::HandshakeAck | Step::FinAck => {
                self.acknowledged |= matches!(step, Step::HandshakeAck | Step::FinAck);
                self.ends[sender].sent.send(segment);
                self.ends[receiver].sent.acknowledge(segment);
            }
            Step::Rst => self.ends[sender].reset = true,
        }
        let is_start = matches!(step, Step::Syn | Step::SynAck);
        let seq = self.ends[sender].isn.map(|isn| header.seq.wrapping_sub(isn));
        let ack = self.ends[receiver].isn.map(|isn| header.ack.wrapping_sub(isn));
        let relative = Relative {
            seq: if is_start { Some(0) } else { seq },
            ack: ack.filter(|_| header.flags.contains(Flags::ACK)),
        };
        Numbers { relative, check }
    }

    /// A SYN or SYN-ACK sets where the sender's sequence numbers begin, unless it intrudes on a living connection
    /// (RFC 5961, section 4).
    fn begin(&mut self, segment: &SegmentInput, step: Step, sender: usize, receiver: usize) {
        let isn = segment.header.seq;
        let known = self.ends[sender].isn;
        if known != Some(isn) && self.ends.iter().any(End::is_living) {
            return;
        }
        if step == Step::Syn {
            if known.is_some_and(|known| known != isn) {
                // The addresses are used again: a new connection.
                for end in &mut self.ends {
                    *end = End { state: end.state, ..End::default() };
                }
            }
            self.ends[sender].syn_seen.get_or_insert(segment.time);
        } else {
            // It acknowledges the peer's SYN, whether that was seen or not.
            self.ends[receiver].isn.get_or_insert(segment.header.ack.wrapping_sub(1));
        }
        self.ends[sender].isn = Some(isn);
        self.ends[sender].sent.send(segment);
        self.ends[receiver].sent.acknowledge(segment);
    }
}

impl End {
    /// It has a socket here whose connection is established and not in TIME_WAIT.
    fn is_living(&self) -> bool {
        self.state.is_some_and(|state| is_synchronized(state) && state != TcpState::TimeWait)
    }
}

/// How long a flow without a socket here is kept: longer than the longest pause between two SYNs that a kernel sends again
/// by default (64 s).
const IDLE: Duration = Duration::from_secs(70);
/// How long it is kept after its sockets here are closed.
const CLOSED: Duration = Duration::from_secs(5);
/// Within this time it does not matter which of two flows was idle for longer.
const ORDERED_TO: Duration = Duration::from_secs(1);
