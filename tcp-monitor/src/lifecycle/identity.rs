//! Which connection an event is of, and at which of its ends it happened.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Role;
use tcp_monitor_common::transition::is_synchronized;

use super::event::{ConnectionId, End, Event, EventKind, Evidence, Segment, StateChange, Step};
use super::flow::FlowKey;
use super::input::PresentSocket;
use super::queues::Queues;
use super::time::Time;
use super::waiting::Addresses;

/// The numbers of the connections of every network namespace.
#[derive(Debug)]
pub(super) struct Identities {
    known: Queues<FlowKey, Known, 1>,
    last: u64,
}

/// What is known of the connections between two addresses.
#[derive(Clone, Copy, Debug)]
struct Known {
    life: Life,
    /// The connection before, as long as one of its ends is not closed.
    before: Option<Life>,
}

/// One connection.
#[derive(Clone, Copy, Debug)]
struct Life {
    id: ConnectionId,
    /// The index of the end that opened it.
    first: usize,
    ends: [Seen; 2],
    /// A SYN of another initial sequence number while it was open.
    stray: Option<(usize, u32)>,
}

/// What was seen of one end.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    isn: Option<u32>,
    state: Option<TcpState>,
    cookie: u64,
}

impl Identities {
    /// Numbers of at most `limit` pairs of addresses are remembered.
    pub(super) fn new(limit: usize) -> Self {
        Self { known: Queues::new(limit), last: 0 }
    }

    /// Says of each event which connection it is of.
    pub(super) fn identify(&mut self, events: &mut [Event]) {
        for event in events {
            if let Some((id, end)) = self.identity(event) {
                (event.connection, event.end) = (Some(id), Some(end));
            }
        }
    }

    /// A segment that was first seen in one network namespace was seen in another one, too.
    pub(super) fn join(&mut self, netns: u32, first: u32, src: SocketAddr, dst: SocketAddr, now: Time) {
        let (key, _) = FlowKey::of(netns, src, dst);
        let home = key.in_netns(first);
        if netns != first
            && let Some(home) = self.get(&home).copied()
        {
            let is_same = self.get(&key).is_some_and(|known| known.life.id == home.life.id);
            if !is_same {
                self.known.insert(key, home, 0, now);
            }
        }
    }

    /// A connection is known under other addresses from now on: the local port was not known.
    pub(super) fn rename(&mut self, before: &Addresses, now_known_as: &Addresses, now: Time) {
        let [(before, was), (key, is)] =
            [before, now_known_as].map(|of| FlowKey::of(of.netns, of.local, of.remote));
        let Some(mut known) = self.known.remove(&before) else { return };
        if was != is {
            known.life.ends.swap(0, 1);
            known.life.first = 1 - known.life.first;
        }
        self.known.insert(key, Known { before: self.get(&key).map(|known| known.life), ..known }, 0, now);
    }

    /// A socket was found.
    pub(super) fn find(&mut self, present: &PresentSocket) {
        let (key, end) = FlowKey::of(present.netns, present.local, present.remote);
        if self.get(&key).is_none() {
            let first = match present.role {
                Role::Client => end,
                Role::Server => 1 - end,
            };
            self.begin(key, first, present.time);
        }
        if let Some(life) = self.get_mut(&key).map(|known| &mut known.life) {
            life.ends[end].cookie = present.cookie;
        }
    }

    fn identity(&mut self, event: &Event) -> Option<(ConnectionId, End)> {
        let (local, remote) = match &event.kind {
            EventKind::Segment(segment) => (segment.src, segment.dst),
            EventKind::State(change) => (change.local, change.remote?),
            EventKind::Handshake(handshake) => (handshake.local, handshake.remote),
            EventKind::Reset(reset) => (reset.local, reset.remote?),
            EventKind::Retransmit(retransmit) => (retransmit.local, retransmit.remote),
            EventKind::Closed(closed) => (closed.local, closed.remote),
            EventKind::Stuck(stuck) => (stuck.local, stuck.remote),
            EventKind::Lost(_) => return None,
        };
        let (key, end) = FlowKey::of(event.netns, local, remote);
        let life = match &event.kind {
            EventKind::Segment(segment) => self.see(key, end, segment, event.time)?,
            EventKind::State(change) => self.change(key, end, change, event)?,
            EventKind::Retransmit(_) => match self.get(&key) {
                Some(known) => known.life,
                None => self.begin(key, end, event.time),
            },
            EventKind::Handshake(_) | EventKind::Closed(_) => {
                let known = self.get(&key)?;
                let is_of_before = |before: &Life| {
                    let closed = before.ends[end].state.is_some_and(|state| !is_open(state));
                    closed && known.life.ends[end].state.is_none()
                };
                known.before.filter(is_of_before).unwrap_or(known.life)
            }
            EventKind::Reset(_) | EventKind::Stuck(_) | EventKind::Lost(_) => self.get(&key)?.life,
        };
        Some((life.id, life.end(end)))
    }

    /// A segment: which connection it is of, if it is of one.
    fn see(&mut self, key: FlowKey, end: usize, segment: &Segment, now: Time) -> Option<Life> {
        let isn = segment.header.seq;
        let opener = match segment.step {
            Step::Syn => end,
            Step::SynAck => 1 - end,
            Step::HandshakeAck | Step::Fin | Step::FinAck | Step::Rst => {
                if segment.src.port() < segment.dst.port() { 1 - end } else { end }
            }
        };
        let known = match self.known.find(&key) {
            Some(place) => {
                self.known.queue(place, 0, now, ORDERED_TO);
                self.known.get(place).map(|known| known.life)
            }
            None => None,
        };
        let begins = match (known, segment.step) {
            (None, Step::Rst) => return None,
            (None, _) => true,
            (Some(life), Step::Syn) => {
                let is_other = life.ends[end].isn.is_some_and(|known| known != isn) || life.is_over();
                if is_other
                    && life.is_living()
                    && let Some(known) = self.get_mut(&key)
                {
                    known.life.stray = Some((end, isn));
                }
                is_other && !life.is_living() && life.ends[end].isn != Some(isn)
            }
            (Some(life), Step::SynAck) => {
                life.stray == Some((1 - end, segment.header.ack.wrapping_sub(1)))
                    && life.ends[end].isn != Some(isn)
            }
            (Some(_), Step::HandshakeAck | Step::Fin | Step::FinAck | Step::Rst) => false,
        };
        if begins {
            self.begin(key, opener, now);
        }
        let life = &mut self.get_mut(&key)?.life;
        match segment.step {
            Step::Syn | Step::SynAck => life.ends[end].isn = Some(isn),
            Step::HandshakeAck | Step::Fin | Step::FinAck | Step::Rst => {}
        }
        Some(*life)
    }

    /// A transition: which connection it is of.
    fn change(&mut self, key: FlowKey, end: usize, change: &StateChange, event: &Event) -> Option<Life> {
        let first = match change.role {
            Role::Client => end,
            Role::Server => 1 - end,
        };
        if self.get(&key).is_none() {
            self.begin(key, first, event.time);
        }
        let known = self.get(&key)?;
        let mine = known.life.ends[end];
        // What follows from segments is of the connection that they are of.
        let is_reported = change.evidence == Evidence::Kernel;
        let opens = is_reported && !is_synchronized(change.to) && change.to != TcpState::Close;
        let begins = match change.from {
            // Its own SYN passes after this.
            TcpState::Close => {
                opens
                    && (mine.state.is_some()
                        || mine.isn.is_some() && change.role == Role::Client && known.life.is_over())
            }
            TcpState::Listen => opens && mine.state.is_some_and(|state| state != TcpState::SynRecv),
            TcpState::Established
            | TcpState::SynSent
            | TcpState::SynRecv
            | TcpState::NewSynRecv
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::TimeWait
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Closing => false,
        };
        if begins {
            self.begin(key, first, event.time);
        }
        let known = self.get_mut(&key)?;
        let is_of_before = |before: &&mut Life| {
            before.ends[end].state == Some(change.from)
                && known.life.ends[end].state.is_none()
                && is_open(change.from)
        };
        let life = match known.before.as_mut().filter(is_of_before) {
            Some(before) => before,
            None => &mut known.life,
        };
        life.ends[end].state = Some(change.to);
        life.ends[end].cookie = event.cookie;
        Some(*life)
    }

    /// Begins a connection.
    fn begin(&mut self, key: FlowKey, first: usize, now: Time) -> Life {
        self.last += 1;
        let first = if key.is_one_end() { 0 } else { first };
        let id = ConnectionId::new(NonZeroU64::MIN.saturating_add(self.last - 1));
        let life = Life { id, first, ends: [Seen::default(); 2], stray: None };
        let before = self.get(&key).map(|known| known.life);
        self.known.insert(key, Known { life, before }, 0, now);
        life
    }

    fn get(&self, key: &FlowKey) -> Option<&Known> {
        self.known.get(self.known.find(key)?)
    }

    fn get_mut(&mut self, key: &FlowKey) -> Option<&mut Known> {
        self.known.get_mut(self.known.find(key)?)
    }
}

impl Life {
    fn end(&self, index: usize) -> End {
        if index == self.first { End::First } else { End::Second }
    }

    fn is_living(&self) -> bool {
        let states = self.ends.iter().filter_map(|end| end.state);
        states.into_iter().any(|state| is_synchronized(state) && state != TcpState::TimeWait)
    }

    /// Its ends, as far as they are known, are closed.
    fn is_over(&self) -> bool {
        let mut states = self.ends.iter().filter_map(|end| end.state).peekable();
        states.peek().is_some() && states.all(|state| matches!(state, TcpState::Close | TcpState::TimeWait))
    }
}

fn is_open(state: TcpState) -> bool {
    state != TcpState::Close && state != TcpState::Listen
}

/// Within this time it does not matter which of two connections was used last.
const ORDERED_TO: Duration = Duration::from_secs(1);
