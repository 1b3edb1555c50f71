//! Which connection an event is of, and when all of a connection is told.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use tcp_monitor_common::TcpState;

use super::account::{Account, Starts};
use crate::lifecycle::Time;
use crate::lifecycle::event::{Event, EventKind, Reset, Retransmit, Segment, StateChange, Step};
use crate::lifecycle::input::RetransmitKind;

/// The connections that are not shown yet, and those that were shown a moment ago.
#[derive(Debug)]
pub(super) struct Connections {
    limit: usize,
    /// By the order in which they were met.
    open: BTreeMap<u64, Account>,
    /// Shown: what comes late is of these, and not told.
    shown: BTreeMap<u64, Account>,
    shown_at: VecDeque<(Time, u64)>,
    by_pair: HashMap<Pair, Vec<u64>>,
    /// When to show what is not expected to be told more of.
    due: BTreeMap<u64, Time>,
    by_due: BTreeSet<(Time, u64)>,
    met: u64,
    now: Time,
    /// The connection whose end changed its state last: the end of a handshake or a connection follows on its transition.
    changed: Option<u64>,
}

/// Why a connection is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// It is over.
    Over,
    /// One end is over, and nothing was heard of the other for long.
    Waited,
    /// There were too many connections.
    CutShort,
    /// No more events come.
    EndOfInput,
}

/// The addresses of a connection, the lower first.
type Pair = [SocketAddr; 2];

impl Connections {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            open: BTreeMap::new(),
            shown: BTreeMap::new(),
            shown_at: VecDeque::new(),
            by_pair: HashMap::new(),
            due: BTreeMap::new(),
            by_due: BTreeSet::new(),
            met: 0,
            now: Time::default(),
            changed: None,
        }
    }

    /// Takes in an event of a connection.
    pub(super) fn take(&mut self, event: &Event) {
        self.now = self.now.max(event.time);
        match &event.kind {
            EventKind::Segment(segment) => self.take_segment(event, segment),
            EventKind::State(change) => self.take_state(event, change),
            EventKind::Handshake(handshake) => {
                let (pair, end) = pair_of(handshake.local, handshake.remote);
                self.tell(pair, event.time, |account| account.take_handshake(event.time, handshake, end));
            }
            EventKind::Closed(closed) => {
                let (pair, end) = pair_of(closed.local, closed.remote);
                self.tell(pair, event.time, |account| account.take_closed(event.time, closed, end));
            }
            EventKind::Reset(Reset { local, remote: Some(remote), reason, .. }) if *reason != "unknown" => {
                let (pair, _) = pair_of(*local, *remote);
                if let Some(account) = self.latest(pair) {
                    account.reset_reason.get_or_insert(reason);
                }
            }
            EventKind::Retransmit(Retransmit { local, remote, kind: RetransmitKind::Data, .. }) => {
                let (pair, end) = pair_of(*local, *remote);
                if let Some(account) = self.latest(pair) {
                    let times = &mut account.ends[end].data_retransmits;
                    *times = times.saturating_add(1);
                }
            }
            EventKind::Reset(_) | EventKind::Retransmit(_) | EventKind::Stuck(_) | EventKind::Lost(_) => {}
        }
    }

    /// What is to be shown by `now`, one at a time.
    pub(super) fn pop(&mut self, now: Time) -> Option<(Account, Occasion)> {
        self.now = self.now.max(now);
        while let Some((at, id)) = self.shown_at.front().copied()
            && (at + LATE <= self.now || self.shown_at.len() > MAX_SHOWN)
        {
            self.shown_at.pop_front();
            if let Some(account) = self.shown.remove(&id) {
                self.forget(id, &account);
            }
        }
        if let Some((_, id)) = self.by_due.first().copied().filter(|(due, _)| *due <= self.now) {
            return self.show(id);
        }
        if self.open.len() > self.limit {
            let (id, account) = self.open.pop_first()?;
            self.set_due(id, None);
            self.forget(id, &account);
            return Some((account, Occasion::CutShort));
        }
        None
    }

    /// What is left, one at a time.
    pub(super) fn pop_last(&mut self) -> Option<(Account, Occasion)> {
        let (id, account) = self.open.pop_first()?;
        self.set_due(id, None);
        let occasion = if is_over(&account) { Occasion::Over } else { Occasion::EndOfInput };
        Some((account, occasion))
    }

    fn show(&mut self, id: u64) -> Option<(Account, Occasion)> {
        self.set_due(id, None);
        let mut account = self.open.remove(&id)?;
        let entries = std::mem::take(&mut account.entries);
        self.shown.insert(id, account.clone());
        account.entries = entries;
        self.shown_at.push_back((self.now, id));
        let occasion = if is_over(&account) { Occasion::Over } else { Occasion::Waited };
        Some((account, occasion))
    }

    fn take_segment(&mut self, event: &Event, segment: &Segment) {
        let (pair, from) = pair_of(segment.src, segment.dst);
        let starts = starts(segment, from);
        let id = match self.connection_of(pair, event.netns, segment, from, starts) {
            Some(id) => id,
            None => self.meet(pair, event.time),
        };
        self.update(id, |account| account.take_segment(event, segment, from, starts));
    }

    /// The latest connection between these addresses whose starts are not others; best of all, the same.
    fn connection_of(
        &self,
        pair: Pair,
        netns: u32,
        segment: &Segment,
        from: usize,
        starts: Starts,
    ) -> Option<u64> {
        let rank = |id: u64| {
            let account = self.account(id)?;
            let known = account.ends.each_ref().map(|end| end.isn);
            let both = || known.into_iter().zip(starts).filter_map(|(known, start)| known.zip(start));
            // What fits in with nothing is of the connection that is there.
            let differs = both().any(|(known, start)| known != start) && segment.unexpected.is_none();
            // A SYN is of a connection whose SYN it is, or that awaits one.
            let awaited = known[from].is_none() && self.open.contains_key(&id) && account.is_opening();
            let begins = segment.step == Step::Syn && !awaited && known[from] != starts[from];
            if differs || begins && segment.unexpected.is_none() {
                return None;
            }
            let agree = both().filter(|(known, start)| known == start).count();
            Some((agree, account.is_in(netns), id))
        };
        self.best(pair, rank)
    }

    fn take_state(&mut self, event: &Event, change: &StateChange) {
        let Some(remote) = change.remote else { return };
        let (pair, end) = pair_of(change.local, remote);
        let begins = matches!(change.from, TcpState::Close | TcpState::Listen);
        if begins && change.local.port() == 0 {
            // Its segments will have another address. If it fails before that, its end is told too.
            return;
        }
        let rank = |id: u64| {
            let account = self.account(id)?;
            let mine = &account.ends[end];
            let is_open = self.open.contains_key(&id);
            let fits = if begins {
                // Before the transition of a server is told, its peer may have gone on.
                let is_opening =
                    if change.to == TcpState::SynSent { account.is_opening() } else { mine.is_opening() };
                is_open && !mine.is_told() && is_opening
            } else {
                is_open || mine.state == Some(change.from)
            };
            fits.then(|| (mine.state == Some(change.from), account.is_in(event.netns), id))
        };
        let ends_late = change.from == TcpState::TimeWait;
        let id = match self.best(pair, rank) {
            Some(id) => id,
            None if ends_late => return,
            None => self.meet(pair, event.time),
        };
        self.changed = Some(id);
        self.update(id, |account| account.take_state(event, change, end));
    }

    /// What is told right after a transition.
    fn tell(&mut self, pair: Pair, time: Time, take: impl FnOnce(&mut Account)) {
        let ids = self.by_pair.get(&pair).map_or(&[][..], Vec::as_slice);
        let id = self.changed.filter(|id| ids.contains(id)).or(ids.last().copied());
        let id = id.unwrap_or_else(|| self.meet(pair, time));
        self.update(id, take);
    }

    fn meet(&mut self, pair: Pair, time: Time) -> u64 {
        self.met += 1;
        self.open.insert(self.met, Account::new(time, pair));
        self.by_pair.entry(pair).or_default().push(self.met);
        self.met
    }

    fn update(&mut self, id: u64, take: impl FnOnce(&mut Account)) {
        let Some(account) = self.open.get_mut(&id) else {
            if let Some(account) = self.shown.get_mut(&id) {
                take(account);
                account.entries.clear();
            }
            return;
        };
        take(account);
        let due = patience(account).map(|patience| self.now + patience);
        // What comes late makes nobody wait longer.
        let due = match (self.due.get(&id).copied(), due) {
            (Some(before), Some(due)) => Some(before.min(due)),
            (None, due) => due,
            (Some(_), None) => None,
        };
        self.set_due(id, due);
    }

    fn set_due(&mut self, id: u64, due: Option<Time>) {
        let before = match due {
            Some(due) => self.due.insert(id, due),
            None => self.due.remove(&id),
        };
        if let Some(before) = before {
            self.by_due.remove(&(before, id));
        }
        if let Some(due) = due {
            self.by_due.insert((due, id));
        }
    }

    fn forget(&mut self, id: u64, account: &Account) {
        let pair = account.ends.each_ref().map(|end| end.address);
        if let Some(ids) = self.by_pair.get_mut(&pair) {
            ids.retain(|known| *known != id);
            if ids.is_empty() {
                self.by_pair.remove(&pair);
            }
        }
    }

    fn account(&self, id: u64) -> Option<&Account> {
        self.open.get(&id).or_else(|| self.shown.get(&id))
    }

    /// The latest connection between these addresses that is not shown yet.
    fn latest(&mut self, pair: Pair) -> Option<&mut Account> {
        let id = *self.by_pair.get(&pair)?.last()?;
        self.open.get_mut(&id)
    }

    fn best<R: Ord>(&self, pair: Pair, rank: impl Fn(u64) -> Option<R>) -> Option<u64> {
        let ids = self.by_pair.get(&pair)?;
        let ranked = ids.iter().filter_map(|id| Some((rank(*id)?, *id)));
        ranked.max_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, id)| id)
    }
}

/// The pair of two addresses, and the index of `this` in it.
fn pair_of(this: SocketAddr, other: SocketAddr) -> (Pair, usize) {
    ([this.min(other), this.max(other)], usize::from(this > other))
}

/// Where the numbers of both ends begin, as a segment from `from` tells.
fn starts(segment: &Segment, from: usize) -> Starts {
    let mut starts = [None; 2];
    starts[from] = segment.seq_rel.map(|relative| segment.header.seq.wrapping_sub(relative));
    starts[1 - from] = segment.ack_rel.map(|relative| segment.header.ack.wrapping_sub(relative));
    starts
}

fn is_over(account: &Account) -> bool {
    let mut told = account.ends.iter().filter(|end| end.is_told()).peekable();
    if told.peek().is_none() { account.has_ended() } else { told.all(|end| end.over.is_some()) }
}

/// How long something may be told yet, if the connection is over as far as is known.
fn patience(account: &Account) -> Option<Duration> {
    let all_told = account.ends.iter().all(|end| end.over.is_some());
    if all_told {
        Some(BOTH_OVER)
    } else if is_over(account) {
        Some(LAST_SEGMENTS)
    } else if account.ends.iter().any(|end| end.over.is_some()) {
        Some(OTHER_END)
    } else {
        None
    }
}

/// Of one moment, one end may be told before the other's segment.
const BOTH_OVER: Duration = Duration::from_millis(20);
/// The last acknowledgment follows the end of a socket here.
const LAST_SEGMENTS: Duration = Duration::from_secs(1);
/// Longer than an end whose application is gone awaits the peer's FIN (Linux: `tcp_fin_timeout`, 60 s).
const OTHER_END: Duration = Duration::from_secs(65);
/// What comes so late (a FIN sent again, the end of TIME_WAIT after 60 s) is of a connection that was shown.
const LATE: Duration = Duration::from_secs(65);
const MAX_SHOWN: usize = 1 << 12;
