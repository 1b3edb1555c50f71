//! The connections of a view: a record of each by its number, and when it is shown.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::time::Duration;

use tcp_monitor_common::TcpState;

use super::record::Record;
use crate::lifecycle::event::{EventKind, Reset, Retransmit};
use crate::lifecycle::input::RetransmitKind;
use crate::lifecycle::{ConnectionId, End, Event, Time};
use crate::output::Context;

/// The connections that are not shown yet, and which ones were shown a moment ago.
#[derive(Debug)]
pub(super) struct Connections {
    limit: usize,
    open: BTreeMap<ConnectionId, Record>,
    /// When to show connections of which no more events are expected.
    due: BTreeMap<ConnectionId, Time>,
    by_due: BTreeSet<(Time, ConnectionId)>,
    /// Late events of connections that were shown are ignored.
    shown: HashSet<ConnectionId>,
    shown_at: VecDeque<(Time, ConnectionId)>,
    now: Time,
}

/// Why a connection is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// It is over.
    Over,
    /// One end is over, and the other had no event for long.
    Waited,
    /// There were too many connections.
    CutShort,
    /// No more events come.
    EndOfEvents,
}

impl Connections {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            open: BTreeMap::new(),
            due: BTreeMap::new(),
            by_due: BTreeSet::new(),
            shown: HashSet::new(),
            shown_at: VecDeque::new(),
            now: Time::default(),
        }
    }

    /// Adds an event to the record of its connection.
    pub(super) fn add(&mut self, event: &Event, context: &Context<'_>) {
        self.now = self.now.max(event.time);
        let (Some(id), Some(end)) = (event.connection, event.end) else { return };
        if self.shown.contains(&id) {
            return;
        }
        match &event.kind {
            EventKind::Segment(segment) => {
                let record = self.record(id, end, event, context);
                record.add_segment(event.time, segment, end);
                self.update_due(id);
            }
            // Its end was shown when it entered TIME_WAIT.
            EventKind::State(change) if change.from == TcpState::TimeWait && !self.open.contains_key(&id) => {
            }
            EventKind::State(change) => {
                let record = self.record(id, end, event, context);
                record.add_state(event.time, change, end);
                self.update_due(id);
            }
            EventKind::Handshake(handshake) => {
                let record = self.record(id, end, event, context);
                record.add_handshake(event.time, handshake, end);
                self.update_due(id);
            }
            EventKind::Closed(closed) => {
                let record = self.record(id, end, event, context);
                record.add_closed(event.time, closed, end);
                self.update_due(id);
            }
            EventKind::Reset(Reset { reason, .. }) if *reason != "unknown" => {
                if let Some(record) = self.open.get_mut(&id) {
                    record.reset_reason.get_or_insert(reason);
                }
            }
            EventKind::Retransmit(Retransmit { kind: RetransmitKind::Data, .. }) => {
                if let Some(record) = self.open.get_mut(&id) {
                    let times = &mut record.ends[end as usize].data_retransmits;
                    *times = times.saturating_add(1);
                }
            }
            EventKind::Reset(_) | EventKind::Retransmit(_) | EventKind::Stuck(_) | EventKind::Lost(_) => {}
        }
    }

    /// The next connection to be shown by `now`.
    pub(super) fn pop(&mut self, now: Time) -> Option<(Record, Occasion)> {
        self.now = self.now.max(now);
        while let Some((at, id)) = self.shown_at.front().copied()
            && (at + LATE <= self.now || self.shown_at.len() > MAX_SHOWN)
        {
            self.shown_at.pop_front();
            self.shown.remove(&id);
        }
        if let Some((_, id)) = self.by_due.first().copied().filter(|(due, _)| *due <= self.now) {
            self.set_due(id, None);
            self.shown.insert(id);
            self.shown_at.push_back((self.now, id));
            let record = self.open.remove(&id)?;
            let occasion = if is_over(&record) { Occasion::Over } else { Occasion::Waited };
            return Some((record, occasion));
        }
        if self.open.len() > self.limit {
            let (id, record) = self.open.pop_first()?;
            self.set_due(id, None);
            return Some((record, Occasion::CutShort));
        }
        None
    }

    /// The next connection that is left when no events follow.
    pub(super) fn pop_last(&mut self) -> Option<(Record, Occasion)> {
        let (id, record) = self.open.pop_first()?;
        self.set_due(id, None);
        let occasion = if is_over(&record) { Occasion::Over } else { Occasion::EndOfEvents };
        Some((record, occasion))
    }

    fn record(&mut self, id: ConnectionId, end: End, event: &Event, context: &Context<'_>) -> &mut Record {
        let record = self.open.entry(id).or_insert_with(|| Record::new(event.time, context));
        record.note_ends(event, end, context);
        record
    }

    fn update_due(&mut self, id: ConnectionId) {
        let due = self.open.get(&id).and_then(patience).map(|patience| self.now + patience);
        // Late events do not extend the wait.
        let due = match (self.due.get(&id).copied(), due) {
            (Some(before), Some(due)) => Some(before.min(due)),
            (None, due) => due,
            (Some(_), None) => None,
        };
        self.set_due(id, due);
    }

    fn set_due(&mut self, id: ConnectionId, due: Option<Time>) {
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
}

fn is_over(record: &Record) -> bool {
    let mut reported = record.ends.iter().filter(|end| end.is_reported()).peekable();
    if reported.peek().is_none() { record.has_ended() } else { reported.all(|end| end.over.is_some()) }
}

/// How long events may follow, if the connection is over as far as is known.
fn patience(record: &Record) -> Option<Duration> {
    if record.ends.iter().all(|end| end.over.is_some()) {
        Some(BOTH_OVER)
    } else if is_over(record) {
        Some(LAST_SEGMENTS)
    } else if record.ends.iter().any(|end| end.over.is_some()) {
        Some(OTHER_END)
    } else {
        None
    }
}

/// Of one moment, an event of one end may come before the segment of the other.
const BOTH_OVER: Duration = Duration::from_millis(20);
/// The last acknowledgment follows the end of a socket here.
const LAST_SEGMENTS: Duration = Duration::from_secs(1);
/// Longer than an end whose application has closed waits for the peer's FIN (Linux:
/// `tcp_fin_timeout`, 60 s).
const OTHER_END: Duration = Duration::from_secs(65);
/// How long late events are ignored: a retransmitted FIN, the end of TIME_WAIT after 60 s.
const LATE: Duration = Duration::from_secs(65);
const MAX_SHOWN: usize = 1 << 12;
