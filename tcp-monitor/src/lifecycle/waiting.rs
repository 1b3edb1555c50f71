//! TIME_WAIT minisockets, which the kernel reports nothing of: each stands in for a connection that is closed here.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use super::socket::Socket;
use super::time::Time;

/// The minisockets of every network namespace. No two have the same addresses, as in the kernel.
#[derive(Debug)]
pub(super) struct Waiting {
    limit: usize,
    minisockets: HashMap<Addresses, Minisocket>,
    evicted: u64,
    deadlines: BTreeSet<(Time, Addresses)>,
}

/// A connection as one of its ends has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Addresses {
    pub(super) netns: u32,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// What the kernel keeps of a closed connection.
#[derive(Debug)]
pub(super) struct Minisocket {
    pub(super) socket: Socket,
    pub(super) substate: Substate,
    /// Next sequence number expected: the only one with which the peer's FIN or RST counts.
    pub(super) rcv_nxt: Option<u32>,
    /// When the kernel drops it.
    pub(super) deadline: Time,
}

/// The state of a minisocket (kernel: `tw_substate`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Substate {
    /// The peer's FIN has not come; no application waits for it. Not told as closed yet.
    FinWait2,
    /// Both FINs were exchanged.
    TimeWait,
}

impl Minisocket {
    /// A minisocket that takes over for `socket` at `now`, for as long as a kernel keeps it by default.
    pub(super) fn new(socket: Socket, substate: Substate, now: Time) -> Self {
        let lasts = match substate {
            Substate::FinWait2 => FIN_TIMEOUT,
            Substate::TimeWait => TIME_WAIT,
        };
        Self { rcv_nxt: socket.rcv_nxt(), socket, substate, deadline: now + lasts }
    }

    /// Whether the peer's FIN at `seq` is the one awaited.
    pub(super) fn awaits_fin(&self, seq: u32) -> bool {
        match self.substate {
            Substate::FinWait2 => self.accepts(seq),
            Substate::TimeWait => false,
        }
    }

    /// Whether a segment of the peer that begins at `seq` continues what was received.
    pub(super) fn accepts(&self, seq: u32) -> bool {
        self.rcv_nxt.is_none_or(|next| next == seq)
    }
}

impl Waiting {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, minisockets: HashMap::new(), evicted: 0, deadlines: BTreeSet::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.minisockets.len()
    }

    /// How many had to go because there were too many.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    pub(super) fn get(&self, key: &Addresses) -> Option<&Minisocket> {
        self.minisockets.get(key)
    }

    /// Adds a minisocket. Returns the one that had to go for it, if there were too many: the next to end.
    pub(super) fn insert(&mut self, minisocket: Minisocket) -> Option<Minisocket> {
        let key = minisocket.socket.addresses();
        self.remove(&key);
        let evicted = if self.minisockets.len() >= self.limit { self.pop_first() } else { None };
        self.evicted += u64::from(evicted.is_some());
        self.deadlines.insert((minisocket.deadline, key));
        self.minisockets.insert(key, minisocket);
        evicted
    }

    pub(super) fn remove(&mut self, key: &Addresses) -> Option<Minisocket> {
        let minisocket = self.minisockets.remove(key)?;
        self.deadlines.remove(&(minisocket.deadline, *key));
        Some(minisocket)
    }

    /// TIME_WAIT begins anew (RFC 9293, section 3.10.7.4, eighth).
    pub(super) fn restart(&mut self, key: &Addresses, now: Time) {
        let in_time_wait =
            self.minisockets.get_mut(key).filter(|waiting| waiting.substate == Substate::TimeWait);
        if let Some(minisocket) = in_time_wait {
            self.deadlines.remove(&(minisocket.deadline, *key));
            minisocket.deadline = now + TIME_WAIT;
            self.deadlines.insert((minisocket.deadline, *key));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes the minisocket that the kernel dropped first, of those it dropped until `now`.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<Minisocket> {
        if self.next_deadline()? <= now { self.pop_first() } else { None }
    }

    fn pop_first(&mut self) -> Option<Minisocket> {
        let (_, key) = self.deadlines.pop_first()?;
        self.minisockets.remove(&key)
    }
}

/// Kernel: `TCP_TIMEWAIT_LEN`.
const TIME_WAIT: Duration = Duration::from_secs(60);
/// Kernel: the default of `net.ipv4.tcp_fin_timeout`.
const FIN_TIMEOUT: Duration = Duration::from_secs(60);
