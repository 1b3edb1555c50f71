//! What segments tell of a connection: where its sequence numbers begin, and which SYN, FIN and RST were seen.

use std::net::SocketAddr;
use std::time::Duration;

use tcp_monitor_common::TcpState;

use super::check::{Sent, check};
use super::event::{Check, Step};
use super::input::SegmentInput;
use super::segment::Flags;
use super::table::Table;
use super::time::Time;
use tcp_monitor_common::transition::is_synchronized;

/// The flows of every network namespace.
#[derive(Debug)]
pub(super) struct Flows {
    table: Table<FlowKey, Flow>,
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
    pub(super) fn new(limit: usize) -> Self {
        Self { table: Table::new(limit) }
    }

    /// Takes a segment in.
    pub(super) fn observe(&mut self, segment: &SegmentInput, step: Step) -> Numbers {
        let (key, sender) = FlowKey::of(segment.netns, segment.src, segment.dst);
        if self.table.get(&key).is_none() {
            self.table.insert(key, Flow::default(), segment.time);
        }
        match self.table.touch(&key, segment.time) {
            Some(flow) => flow.observe(segment, step, sender),
            None => Numbers::default(),
        }
    }

    /// What was seen of the end at `this`, of its flow with `other`.
    pub(super) fn end(&self, netns: u32, this: SocketAddr, other: SocketAddr) -> End {
        let (key, this) = FlowKey::of(netns, this, other);
        self.table.get(&key).map_or_else(End::default, |flow| flow.ends[this])
    }

    /// A socket was found in `state`, the beginning of whose flow was not seen.
    pub(super) fn find(
        &mut self,
        netns: u32,
        local: SocketAddr,
        remote: SocketAddr,
        state: TcpState,
        now: Time,
    ) {
        let (key, _) = FlowKey::of(netns, local, remote);
        if self.table.get(&key).is_none() {
            self.table.insert(key, Flow::default(), now);
        }
        self.set_state(netns, local, remote, state, now);
    }

    /// The socket of the end at `local` is in `state` now.
    pub(super) fn set_state(
        &mut self,
        netns: u32,
        local: SocketAddr,
        remote: SocketAddr,
        state: TcpState,
        now: Time,
    ) {
        let (key, local) = FlowKey::of(netns, local, remote);
        // A flow is made by its segments, or by the SYN_SENT before the first of them.
        if state == TcpState::SynSent && self.table.get(&key).is_none() {
            self.table.insert(key, Flow::default(), now);
        }
        if let Some(flow) = self.table.touch(&key, now) {
            let begins = !is_synchronized(state) && state != TcpState::Close;
            if begins && flow.ends[local].is_living() {
                // The end of the last connection was lost, and what was seen since was taken to be of that one.
                *flow = Flow::default();
            }
            flow.ends[local].state = Some(state).filter(|state| *state != TcpState::Close);
            if flow.ends.iter().all(|end| end.state.is_none()) {
                // Only stragglers are to come.
                self.table.touch(&key, now - IDLE + CLOSED);
            }
        }
    }

    /// When [`Self::expire`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.table.oldest().map(|(used, _)| used + IDLE)
    }

    /// Forgets flows that nothing was heard of for long and that have no socket here.
    pub(super) fn expire(&mut self, now: Time) {
        while let Some((used, key)) = self.table.oldest()
            && used + IDLE <= now
        {
            if self.table.get(&key).is_some_and(|flow| flow.ends.iter().any(|end| end.state.is_some())) {
                self.table.touch(&key, now);
            } else {
                self.table.remove(&key);
            }
        }
    }

    pub(super) fn evicted(&self) -> u64 {
        self.table.evicted()
    }
}

/// One connection as seen in one network namespace: the unordered pair of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlowKey {
    netns: u32,
    low: SocketAddr,
    high: SocketAddr,
}

impl FlowKey {
    /// The flow between two addresses, and the index of `this` in [`Flow::ends`].
    pub(super) fn of(netns: u32, this: SocketAddr, other: SocketAddr) -> (Self, usize) {
        let key = Self { netns, low: this.min(other), high: this.max(other) };
        (key, usize::from(this > other))
    }

    /// Local and remote address of an end, by its index.
    pub(super) fn addresses(&self, end: usize) -> (SocketAddr, SocketAddr) {
        if end == 0 { (self.low, self.high) } else { (self.high, self.low) }
    }

    pub(super) fn netns(&self) -> u32 {
        self.netns
    }

    /// The flow with the same addresses in another network namespace.
    pub(super) fn in_netns(&self, netns: u32) -> Self {
        Self { netns, ..*self }
    }
}

#[derive(Debug, Default)]
struct Flow {
    ends: [End; 2],
}

impl Flow {
    fn observe(&mut self, segment: &SegmentInput, step: Step, sender: usize) -> Numbers {
        let header = &segment.header;
        // A connection that connects to itself has one end.
        let receiver = if segment.src == segment.dst { sender } else { 1 - sender };
        let check = check(segment, step, &self.ends[sender].sent, &self.ends[receiver].sent);
        match step {
            Step::Syn | Step::SynAck => self.begin(segment, step, sender, receiver),
            Step::Fin | Step::HandshakeAck | Step::FinAck => {
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
