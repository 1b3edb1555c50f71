//! TIME_WAIT minisockets, which the kernel reports nothing of: each stands in for a connection that is closed here.

use std::time::Duration;

use super::address::Address;
use super::queues::{Place, Queues};
use super::socket::Socket;
use super::time::Time;

/// The minisockets of every network namespace. No two have the same addresses, as in the kernel.
#[derive(Debug)]
pub(super) struct Waiting {
    minisockets: Queues<Addresses, Minisocket, { Substate::ALL.len() }>,
}

/// A connection as one of its ends has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Addresses {
    pub(super) netns: u32,
    pub(super) local: Address,
    pub(super) remote: Address,
}

impl Addresses {
    pub(super) fn of(netns: u32, local: impl Into<Address>, remote: impl Into<Address>) -> Self {
        Self { netns, local: local.into(), remote: remote.into() }
    }

    /// The same connection as its other end has it.
    pub(super) const fn of_peer(self) -> Self {
        Self { netns: self.netns, local: self.remote, remote: self.local }
    }
}

/// What the kernel keeps of a closed connection.
#[derive(Debug)]
pub(super) struct Minisocket {
    pub(super) socket: Socket,
    pub(super) substate: Substate,
    /// Next sequence number expected: the only one with which the peer's FIN or RST counts.
    pub(super) rcv_nxt: Option<u32>,
}

/// The state of a minisocket (kernel: `tw_substate`). The lower, the less is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Substate {
    /// Both FINs were exchanged.
    TimeWait,
    /// The peer's FIN has not come; no application waits for it. Not told as closed yet.
    FinWait2,
}

impl Substate {
    const ALL: [Self; 2] = [Self::TimeWait, Self::FinWait2];

    /// How long a kernel keeps such a minisocket by default.
    const fn lasts(self) -> Duration {
        match self {
            Self::TimeWait => TIME_WAIT,
            Self::FinWait2 => FIN_TIMEOUT,
        }
    }
}

impl Minisocket {
    /// A minisocket that takes over for `socket`.
    pub(super) fn new(socket: Socket, substate: Substate) -> Self {
        Self { rcv_nxt: socket.rcv_nxt(), socket, substate }
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
        Self { minisockets: Queues::new(limit) }
    }

    pub(super) fn len(&self) -> usize {
        self.minisockets.len()
    }

    /// How many had to go because there were too many.
    pub(super) fn evicted(&self) -> u64 {
        self.minisockets.evicted()
    }

    pub(super) fn get(&self, key: &Addresses) -> Option<&Minisocket> {
        self.minisockets.get(self.minisockets.find(key)?)
    }

    /// Adds a minisocket that took over at `now`.
    pub(super) fn insert(&mut self, minisocket: Minisocket, now: Time) {
        let (key, class) = (minisocket.socket.addresses(), minisocket.substate as usize);
        self.minisockets.insert(key, minisocket, class, now);
    }

    pub(super) fn remove(&mut self, key: &Addresses) -> Option<Minisocket> {
        self.minisockets.remove(key)
    }

    /// Takes the one that is the next to go if there are too many, and counts it.
    pub(super) fn evict(&mut self) -> Option<Minisocket> {
        self.minisockets.evict().map(|(_, minisocket)| minisocket)
    }

    /// TIME_WAIT begins anew (RFC 9293, section 3.10.7.4, eighth).
    pub(super) fn restart(&mut self, key: &Addresses, now: Time) {
        let Some(place) = self.minisockets.find(key) else { return };
        if self.minisockets.get(place).is_some_and(|waiting| waiting.substate == Substate::TimeWait) {
            self.minisockets.queue(place, Substate::TimeWait as usize, now, Duration::ZERO);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.first().map(|(deadline, _)| deadline)
    }

    /// Takes the minisocket that the kernel dropped first, of those it dropped until `now`.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<Minisocket> {
        let (_, place) = self.first().filter(|(deadline, _)| *deadline <= now)?;
        self.minisockets.remove_at(place).map(|(_, minisocket)| minisocket)
    }

    fn first(&self) -> Option<(Time, Place)> {
        let fronts = Substate::ALL.into_iter().filter_map(|substate| {
            let (queued, place) = self.minisockets.front(substate as usize)?;
            Some((queued + substate.lasts(), place))
        });
        fronts.min_by_key(|(deadline, _)| *deadline)
    }
}

/// Kernel: `TCP_TIMEWAIT_LEN`.
const TIME_WAIT: Duration = Duration::from_secs(60);
/// Kernel: the default of `net.ipv4.tcp_fin_timeout`.
const FIN_TIMEOUT: Duration = Duration::from_secs(60);
