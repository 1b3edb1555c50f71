//! Timewait sockets, of which the kernel reports nothing: when they begin, and what ends them
//! (kernel: `tcp_timewait_state_process`).

use std::collections::BTreeSet;
use std::mem;
use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::transition::Outcome;

use super::Tracker;
use crate::lifecycle::connection::EndRef;
use crate::lifecycle::connection::life::Life;
use crate::lifecycle::connection::socket::Transition;
use crate::lifecycle::connection::time_wait::TimeWait;
use crate::lifecycle::event::{ClosedBy, Event, Evidence, Step};
use crate::lifecycle::input::SegmentInput;
use crate::lifecycle::queues::{Place, Queues};
use crate::lifecycle::segment::Flags;
use crate::lifecycle::time::Time;

/// When timewait sockets end.
#[derive(Debug)]
pub(super) struct TimeWaits {
    ends: Queues<EndRef, { Class::ALL.len() }>,
    /// When those end that are from a dump, each at its own time; some of them may be gone.
    from_dump: BTreeSet<(Time, EndRef)>,
}

/// The lower, the less is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Both FINs were exchanged.
    TimeWait,
    /// The peer's FIN has not come; no application waits for it. Not reported as closed yet.
    FinWait2,
    /// From a dump. They are few after a minute, and so the last to be evicted.
    FromDump,
}

impl Class {
    const ALL: [Self; 3] = [Self::TimeWait, Self::FinWait2, Self::FromDump];

    fn of(time_wait: &TimeWait) -> Self {
        if time_wait.life.state() == TcpState::FinWait2 { Self::FinWait2 } else { Self::TimeWait }
    }

    /// How long a kernel keeps such a socket by default.
    const fn timeout(self) -> Duration {
        match self {
            Self::TimeWait | Self::FromDump => TIME_WAIT,
            Self::FinWait2 => FIN_TIMEOUT,
        }
    }
}

impl TimeWaits {
    pub(super) fn new(limit: usize) -> Self {
        Self { ends: Queues::new(limit), from_dump: BTreeSet::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The one that is the first to be evicted.
    pub(super) fn lowest(&self) -> Option<EndRef> {
        self.ends.get(self.ends.lowest()?).copied()
    }

    /// When the next one ends, at the earliest.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let from_dump = self.from_dump.first().map(|(deadline, _)| *deadline);
        [self.first().map(|(deadline, _)| deadline), from_dump].into_iter().flatten().min()
    }

    fn first(&self) -> Option<(Time, Place)> {
        let fronts = [Class::TimeWait, Class::FinWait2].into_iter().filter_map(|class| {
            let (queued, place) = self.ends.front(class as usize)?;
            Some((queued + class.timeout(), place))
        });
        fronts.min_by_key(|(deadline, _)| *deadline)
    }
}

impl Tracker {
    /// The application is gone and our FIN acknowledged; a timewait socket awaits the peer's FIN.
    pub(super) fn await_fin(&mut self, at: EndRef, now: Time, out: &mut Vec<Event>) {
        let fin = self
            .table
            .get(at.place)
            .and_then(|connection| connection.ends[connection.tuple.peer_of(at.end())].sent.fin_seq());
        if let Some(end) = self.table.end_mut(at) {
            end.life.correct(TcpState::FinWait2);
        }
        self.start_time_wait(at, now);
        // It may have passed the interface already, and be processed right after this.
        if fin.is_some_and(|fin| self.time_wait(at).is_some_and(|socket| socket.awaits_fin(fin))) {
            self.receive_fin(at, now, out);
        }
    }

    /// A timewait socket takes over from the socket of an end.
    pub(super) fn start_time_wait(&mut self, at: EndRef, now: Time) {
        let Some(socket) = self.table.take_socket(at) else { return };
        let Some(end) = self.table.end_mut(at) else { return };
        let closed = Life::closed(end.life.of(), end.life.role);
        let time_wait = TimeWait::of(mem::replace(&mut end.life, closed), socket);
        let class = Class::of(&time_wait);
        self.put_time_wait(at, time_wait, class, now);
    }

    /// Adds a timewait socket from a dump that lasts for so long, but no longer than if it had
    /// begun then: of one that is late in going, the time left has wrapped around.
    pub(super) fn find_time_wait(&mut self, at: EndRef, time_wait: TimeWait, left: Duration, now: Time) {
        let class = Class::of(&time_wait);
        self.time_waits.from_dump.insert((now + left.min(class.timeout()), at));
        if let Some(end) = self.table.end_mut(at) {
            end.life = Life::closed(time_wait.life.of(), time_wait.life.role);
        }
        self.put_time_wait(at, time_wait, Class::FromDump, now);
    }

    fn put_time_wait(&mut self, at: EndRef, time_wait: TimeWait, class: Class, now: Time) {
        self.drop_time_wait(at, now);
        let Some(end) = self.table.end_mut(at) else { return };
        end.time_wait = Some(Box::new(time_wait));
        self.make_room(now);
        let queued = self.time_waits.ends.insert(at, class as usize, now);
        if let Some(time_wait) = self.table.end_mut(at).and_then(|end| end.time_wait.as_mut()) {
            time_wait.socket.queued = Some(queued);
        }
        self.table.note_use(at.place, now);
    }

    fn receive_fin(&mut self, at: EndRef, time: Time, out: &mut Vec<Event>) {
        let Some(connection) = self.table.get_mut(at.place) else { return };
        let (from, to) = (TcpState::FinWait2, TcpState::TimeWait);
        let transition = Transition { from, to, time, evidence: Evidence::Segment };
        connection.enter_time_wait(at.end(), transition, Outcome::EntersTimeWait(ClosedBy::Local), out);
        let Some(time_wait) = connection.ends[at.end()].time_wait.as_mut() else { return };
        time_wait.pass_fin();
        if let Some(queued) = time_wait.socket.queued {
            self.time_waits.ends.queue(queued, Class::TimeWait as usize, time, Duration::ZERO);
        }
        self.table.note_use(at.place, time);
    }

    /// A new connection takes over the addresses of a timewait socket.
    pub(super) fn reuse_time_wait(
        &mut self,
        at: EndRef,
        time: Time,
        evidence: Evidence,
        out: &mut Vec<Event>,
    ) {
        if self.time_wait(at).is_some() {
            self.end_time_wait(at, time, evidence, ClosedBy::Local, out);
        }
    }

    /// This end sent a RST. Only in FIN_WAIT2 does that drop the timewait socket.
    pub(super) fn abort_time_wait(
        &mut self,
        at: EndRef,
        time: Time,
        evidence: Evidence,
        out: &mut Vec<Event>,
    ) {
        if self.time_wait(at).is_some_and(|socket| socket.life.state() == TcpState::FinWait2) {
            self.end_time_wait(at, time, evidence, ClosedBy::LocalReset, out);
        }
    }

    fn end_time_wait(
        &mut self,
        at: EndRef,
        time: Time,
        evidence: Evidence,
        closed_by: ClosedBy,
        out: &mut Vec<Event>,
    ) {
        let Some(connection) = self.table.get_mut(at.place) else { return };
        let Some(socket) = &connection.ends[at.end()].time_wait else { return };
        let (from, outcome) = match Class::of(socket) {
            Class::FinWait2 => (TcpState::FinWait2, Outcome::Closed(closed_by)),
            // It was reported as closed when TIME_WAIT began.
            Class::TimeWait | Class::FromDump => (TcpState::TimeWait, Outcome::Continues),
        };
        let transition = Transition { from, to: TcpState::Close, time, evidence };
        connection.enter_time_wait(at.end(), transition, outcome, out);
        self.drop_time_wait(at, time);
    }

    /// Discards a timewait socket.
    pub(super) fn drop_time_wait(&mut self, at: EndRef, now: Time) {
        let Some(connection) = self.table.get_mut(at.place) else { return };
        let Some(time_wait) = connection.ends[at.end()].time_wait.take() else { return };
        if let Some(queued) = time_wait.socket.queued {
            self.time_waits.ends.remove(queued);
        }
        self.table.note_use(at.place, now);
    }

    /// A socket is closed whose timewait socket was listed by a dump a moment later.
    pub(super) fn drop_successor(&mut self, at: EndRef, now: Time) {
        if self.time_wait(at).is_some_and(TimeWait::is_from_dump) {
            self.drop_time_wait(at, now);
        }
    }

    /// What a segment does to the timewait sockets of its two ends.
    pub(super) fn affect_time_waits(
        &mut self,
        [sender, receiver]: [EndRef; 2],
        segment: &SegmentInput,
        step: Step,
        out: &mut Vec<Event>,
    ) {
        if self.time_waits.len() == 0 {
            return;
        }
        let time = segment.time;
        match step {
            // Only a new socket answers a SYN, or sends one, from these addresses.
            Step::Syn | Step::SynAck => self.reuse_time_wait(sender, time, Evidence::Segment, out),
            Step::Fin => {
                let fin = segment.header.seq.wrapping_add(segment.payload_len);
                if self.time_wait(receiver).is_some_and(|socket| socket.awaits_fin(fin)) {
                    self.receive_fin(receiver, time, out);
                } else if segment.header.flags.contains(Flags::ACK) {
                    // Retransmitted: the acknowledgment was lost.
                    self.restart_time_wait(receiver, time);
                }
            }
            Step::Rst => {
                self.abort_time_wait(sender, time, Evidence::Segment, out);
                let seq = segment.header.seq;
                if self.time_wait(receiver).is_some_and(|socket| socket.accepts(seq)) {
                    self.end_time_wait(receiver, time, Evidence::Segment, ClosedBy::RemoteReset, out);
                }
            }
            Step::HandshakeAck | Step::FinAck => {}
        }
    }

    /// Ends the timewait socket that the kernel dropped first, of those it dropped until `now`.
    pub(super) fn expire_time_wait(&mut self, now: Time, out: &mut Vec<Event>) {
        let first = self.time_waits.first().filter(|(deadline, _)| *deadline <= now);
        let from_dump = self.time_waits.from_dump.first().copied().filter(|(deadline, _)| *deadline <= now);
        if let Some((deadline, at)) = from_dump
            && first.is_none_or(|(first, _)| deadline <= first)
        {
            self.time_waits.from_dump.pop_first();
            if !self.time_wait(at).is_some_and(TimeWait::is_from_dump) {
                return;
            }
            self.end_time_wait(at, now, Evidence::Timer, ClosedBy::Local, out);
        } else if let Some((_, place)) = first
            && let Some(at) = self.time_waits.ends.get(place).copied()
        {
            self.end_time_wait(at, now, Evidence::Timer, ClosedBy::Local, out);
        }
    }

    /// TIME_WAIT begins anew (RFC 9293, section 3.10.7.4, eighth).
    fn restart_time_wait(&mut self, at: EndRef, now: Time) {
        let Some(connection) = self.table.get_mut(at.place) else { return };
        let Some(time_wait) = connection.ends[at.end()].time_wait.as_mut() else { return };
        if Class::of(time_wait) == Class::TimeWait {
            time_wait.socket.note_reported();
            if let Some(queued) = time_wait.socket.queued {
                self.time_waits.ends.queue(queued, Class::TimeWait as usize, now, Duration::ZERO);
            }
        }
    }

    pub(super) fn time_wait(&self, at: EndRef) -> Option<&TimeWait> {
        self.table.end(at)?.time_wait.as_deref()
    }
}

/// Kernel: `TCP_TIMEWAIT_LEN`.
const TIME_WAIT: Duration = Duration::from_secs(60);
/// Kernel: the default of `net.ipv4.tcp_fin_timeout`.
const FIN_TIMEOUT: Duration = Duration::from_secs(60);
