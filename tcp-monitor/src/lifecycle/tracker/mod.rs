//! The tracker: processes inputs, one at a time, and yields events. It does no I/O and has no
//! clock.
//!
//! - [`Table`]: all connections, found by their addresses or by a socket;
//! - `sockets`: what the kernel reports of sockets; `time_wait`: what follows of timewait sockets;
//! - `segments`: what segments show; `inferences`: the states that are inferred from them;
//! - `dump`: sockets that existed before; `eviction`: the limits.

use tcp_monitor_common::record::Role;

use super::connection::Identity;
use super::connection::class::{Class, Unfinished};
use super::connection::socket::SocketKey;
use super::dedup::Dedup;
use super::event::{Event, EventKind, Lost};
use super::input::{Input, StuckSocket};
use super::time::Time;
use super::tuple::Tuple;
use connecting::Connecting;
use nat::Nat;
use sockets::SocketEnd;
use table::Table;
use time_wait::TimeWaits;
use unaddressed::Unaddressed;

mod connecting;
mod dump;
mod eviction;
mod inferences;
mod nat;
mod options;
mod segments;
mod sockets;
mod table;
mod time_wait;
mod unaddressed;

pub use options::{InferFrom, Options};

/// Follows every connection from its first state to its last.
///
/// Feed it with [`handle`](Self::handle) in order of time, and call [`expire`](Self::expire) at
/// [`next_deadline`](Self::next_deadline) if nothing is handled before. Events come out in order of
/// time, but for a deferred one: the SYN_SENT or SYN_RECV of a socket whose addresses were not
/// known then. To put those in their place, hold back what is later than
/// [`earliest_deferred`](Self::earliest_deferred).
#[derive(Debug)]
pub struct Tracker {
    /// As many as this are remembered of sockets, of connections by their segments and of
    /// connections that are inferred.
    max_connections: usize,
    /// So many of the connections that are inferred may be half-open, and as many closed.
    max_unproven: usize,
    infer_from: InferFrom,
    table: Table,
    time_waits: TimeWaits,
    unaddressed: Unaddressed,
    connecting: Connecting,
    nat: Nat,
    dedup: Dedup,
    /// The latest time that something was inferred at; inputs may go back a little.
    now: Time,
}

impl Default for Tracker {
    fn default() -> Self {
        Self::new()
    }
}

impl Tracker {
    /// A tracker that knows of no socket, with the default options.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    /// A tracker that knows of no socket.
    #[must_use]
    pub fn with(options: Options) -> Self {
        let (max_connections, max_unproven) = (options.max_connections.max(1), options.max_unproven());
        Self {
            max_connections,
            max_unproven,
            infer_from: options.infer_from,
            table: Table::new(max_connections, max_unproven),
            time_waits: TimeWaits::new(max_connections),
            unaddressed: Unaddressed::new(MAX_UNADDRESSED),
            connecting: Connecting::new(MAX_CONNECTING),
            nat: Nat::new(),
            dedup: Dedup::new(MAX_PACKETS),
            now: Time::default(),
        }
    }

    /// Processes one input and appends to `out` the events that follow from it, after what was due
    /// before it.
    pub fn handle(&mut self, input: Input, out: &mut Vec<Event>) {
        self.expire(input.time(), out);
        match input {
            Input::Socket(input) => self.process_socket(&input, out),
            Input::Segment(segment) => {
                let first = out.len();
                self.process_segment(&segment, out);
                if segment.frame.is_some() {
                    out.iter_mut().skip(first).for_each(|event| event.frame = segment.frame);
                }
            }
            Input::Present(present) => self.merge_dump(&present),
            Input::Stuck(StuckSocket { time, netns, cookie, stuck }) => {
                let (tuple, end) = Tuple::of(netns, stuck.local, stuck.remote);
                let socket = self.table.find_socket(&SocketKey::with_cookie(netns, cookie));
                let identity = match socket.and_then(|at| self.table.end(at)) {
                    Some(end) => Some(end.life.of()),
                    None => self.identity_of(&tuple, end),
                };
                let event = Event { netns, cookie, ..Event::new(time, EventKind::Stuck(stuck)) };
                out.push(event.of(identity));
            }
            Input::Lost { time, kind, count } => {
                out.push(Event::new(time, EventKind::Lost(Lost { kind, count })));
            }
        }
    }

    /// When [`expire`](Self::expire) has something to do, at the earliest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let deadlines = [
            self.connecting.next_deadline(),
            self.time_waits.next_deadline(),
            self.table.next_deadline(),
            self.next_inference_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// The time of the first event that is known but not reported yet. `now` is the time of the
    /// latest input: what is unusually late is not waited for.
    #[must_use]
    pub fn earliest_deferred(&self, now: Time) -> Option<Time> {
        let unaddressed = self.unaddressed.first_expected(now);
        [self.connecting.first_deferred(), unaddressed].into_iter().flatten().min()
    }

    /// Appends to `out` what time alone brought about until `now`: TIME_WAIT and FIN_WAIT2 that
    /// ended, SYN_SENT of sockets whose local port did not become known, and where states are
    /// inferred, whatever was not answered.
    pub fn expire(&mut self, now: Time, out: &mut Vec<Event>) {
        while let Some(place) = self.connecting.pop_due(now) {
            self.report_without_port(place, now, out);
        }
        loop {
            let inferred = self.next_inference_deadline();
            let time_wait = self.time_waits.next_deadline();
            let Some(deadline) = [time_wait, inferred].into_iter().flatten().min().filter(|due| *due <= now)
            else {
                break;
            };
            if time_wait == Some(deadline) {
                self.expire_time_wait(deadline, out);
            } else {
                self.expire_inference(now, out);
            }
        }
        self.unaddressed.expire(now);
        self.table.expire(now);
    }

    /// How many sockets are known, those in TIME_WAIT included.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.table.sockets.len() + self.time_waits.len()
    }

    /// How many connections are known from their segments, those closed a moment ago included.
    #[must_use]
    pub fn inferred(&self) -> usize {
        self.table.inferred()
    }

    /// Which of them have not ended yet.
    #[must_use]
    pub fn unfinished(&self) -> Unfinished {
        let mut unfinished = Unfinished::default();
        let inferred = self.table.values().filter(|connection| connection.inference.is_some());
        let lives = inferred.flat_map(|connection| &connection.ends).map(|end| &end.life);
        for life in lives.filter(|life| life.role == Role::Client) {
            match Class::of_end(life.state()) {
                Class::HalfOpen => unfinished.half_open += 1,
                Class::Closing | Class::Open => unfinished.open += 1,
                Class::TimeWait | Class::Closed => {}
            }
        }
        unfinished
    }

    /// The connection with these addresses, and which of its ends this one is.
    fn identity_of(&self, tuple: &Tuple, end: usize) -> Option<Identity> {
        let connection = self.table.get(self.table.find(tuple)?)?;
        let mine = &connection.ends[end];
        Some(if mine.socket.is_some() { mine.life.of() } else { connection.identity(end) })
    }

    /// The kernel reported nothing else: all segments are seen, each once.
    fn sees_all_segments(&self) -> bool {
        self.infer_from == InferFrom::AllSegments
    }
}

impl Event {
    /// The event, of a connection.
    pub(super) fn of(self, identity: Option<Identity>) -> Self {
        let connection = identity.and_then(|identity| identity.connection);
        let end = identity.filter(|_| connection.is_some()).map(|identity| identity.end);
        Self { connection, end, ..self }
    }
}

/// Children between SYN_RECV and the end of their handshake: moments.
const MAX_UNADDRESSED: usize = 1 << 12;
/// Destinations to which sockets connect whose port is not known: moments.
const MAX_CONNECTING: usize = 1 << 12;
/// Segments that a duplicate or a retransmission may follow.
const MAX_PACKETS: usize = 1 << 15;
