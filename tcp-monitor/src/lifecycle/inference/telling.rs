//! What is told when an end changes its state: the transition, the end of its handshake, the end of its connection.

use std::mem;
use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::Role;

use super::connection::{Connection, Passage};
use super::endpoint::Endpoint;
use super::sign::{Sign, Way};
use crate::lifecycle::event::{Closed, ClosedBy, Event, EventKind, Evidence, Handshake, StateChange};
use crate::lifecycle::flow::FlowKey;
use crate::lifecycle::time::Time;
use tcp_monitor_common::transition::is_synchronized;

/// Why an end changes its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A segment that it sent or received says this.
    Segment(Way, Sign),
    /// A segment begins a new connection from its address.
    Replaced,
    /// Nothing was heard for long.
    Timer,
}

impl Connection {
    /// The one place where the state of an end changes because of a segment.
    pub(super) fn enter(&mut self, end: usize, to: TcpState, cause: Cause, passage: &mut Passage<'_>) {
        self.change(end, to, cause, passage.segment.time, &passage.key, passage.out);
    }

    /// Changes the state of an end and tells what that means.
    pub(super) fn change(
        &mut self,
        end: usize,
        to: TcpState,
        cause: Cause,
        time: Time,
        key: &FlowKey,
        out: &mut Vec<Event>,
    ) {
        let from = self.ends[end].state;
        if from == to {
            return;
        }
        self.catch_up(end, time, key, out);
        let spent = self.ends[end].enter(to, time);
        if !self.is_told(end) || self.ends[end].told == to {
            return;
        }
        let evidence = match cause {
            Cause::Segment(..) | Cause::Replaced => Evidence::Segment,
            Cause::Timer => Evidence::Timer,
        };
        let spent = spent.filter(|_| self.ends[end].told == from);
        self.tell_state(end, evidence, spent, time, key, out);
        let mine = &self.ends[end];
        if is_handshake(from) && (to == TcpState::Close || is_synchronized(to)) {
            let result = if to == TcpState::Close { Err(failure(mine, cause)) } else { Ok(()) };
            out.push(self.handshake(end, result, time, key));
        }
        let ends = matches!(to, TcpState::Close | TcpState::TimeWait);
        if is_synchronized(from) && from != TcpState::TimeWait && ends {
            out.push(self.closed(end, cause, time, key));
        }
    }

    /// Tells the state of an end of which it was not known until now whether it is to be told.
    pub(super) fn catch_up(&mut self, end: usize, time: Time, key: &FlowKey, out: &mut Vec<Event>) {
        if !self.is_told(end) || self.ends[end].told == self.ends[end].state {
            return;
        }
        let mine = &mut self.ends[end];
        if mine.was_told {
            self.tell_state(end, Evidence::Segment, None, time, key, out);
        } else if matches!(mine.state, TcpState::TimeWait | TcpState::Close) {
            // It is too late to tell how this life ended.
            mine.told = TcpState::Close;
        } else if is_synchronized(mine.state) && !is_one_step(mine.told, mine.state) {
            // And here, how it began: it is met in its course.
            (mine.told, mine.partial, mine.established) = (mine.state, true, None);
        } else {
            if mine.told == TcpState::Close && mine.state == TcpState::SynRecv {
                // Both ends opened at once.
                mine.told = TcpState::SynSent;
            }
            self.tell_state(end, Evidence::Segment, None, time, key, out);
        }
    }

    /// Tells that an end is in its state.
    fn tell_state(
        &mut self,
        end: usize,
        evidence: Evidence,
        spent: Option<Duration>,
        time: Time,
        key: &FlowKey,
        out: &mut Vec<Event>,
    ) {
        let is_whole = self.sight.is_whole;
        let mine = &mut self.ends[end];
        mine.was_told = true;
        let (local, remote) = key.addresses(end);
        let change = StateChange {
            local,
            remote: Some(remote),
            role: mine.role,
            from: mem::replace(&mut mine.told, mine.state),
            to: mine.state,
            seq: mine.stream.next_seq().filter(|_| is_whole),
            ack: mine.expects.filter(|_| is_whole),
            evidence,
            process: None,
            spent,
        };
        out.push(self.event(end, time, EventKind::State(change), key));
    }

    /// What happened at an end.
    pub(super) fn event(&self, end: usize, time: Time, kind: EventKind, key: &FlowKey) -> Event {
        Event { netns: self.sight.netns(end).unwrap_or(key.netns()), ..Event::new(time, kind) }
    }

    pub(super) fn handshake(
        &self,
        end: usize,
        result: Result<(), HandshakeFailure>,
        time: Time,
        key: &FlowKey,
    ) -> Event {
        let (mine, peer) = (&self.ends[end], &self.ends[1 - end]);
        let opened = match mine.role {
            Role::Client => mine.opened,
            Role::Server => peer.opened,
        };
        let (local, remote) = key.addresses(end);
        // The answer may have been taken before that showed.
        let ended = mine.answered.filter(|_| result.is_ok()).unwrap_or(time);
        let handshake = Handshake {
            local,
            remote,
            role: mine.role,
            result,
            duration: opened.map(|opened| ended.since(opened)),
            // It has sent nothing else yet.
            syn_retransmits: Some(mine.retransmits),
        };
        self.event(end, time, EventKind::Handshake(handshake), key)
    }

    fn closed(&self, end: usize, cause: Cause, time: Time, key: &FlowKey) -> Event {
        let (local, remote) = key.addresses(end);
        let (mine, is_whole) = (&self.ends[end], self.sight.is_whole);
        let peer = if local == remote { mine } else { &self.ends[1 - end] };
        let closed = Closed {
            local,
            remote,
            role: mine.role,
            closed_by: closed_by(mine, peer, cause),
            duration: mine.established.map(|established| time.since(established)),
            bytes_sent: mine.stream.payload_acked().filter(|_| is_whole),
            bytes_received: peer.stream.payload_acked().filter(|_| is_whole),
            retransmits: Some(mine.retransmits).filter(|_| is_whole),
            rtt_us: None,
            process: None,
            partial: mine.partial,
            states: mine.spent.states(),
        };
        self.event(end, time, EventKind::Closed(closed), key)
    }
}

impl Endpoint {
    /// Changes its state. Returns how long it was in the one that it leaves, if that is known.
    fn enter(&mut self, to: TcpState, time: Time) -> Option<Duration> {
        let from = self.state;
        let spent = self.since.map(|since| time.since(since));
        if let Some(spent) = spent {
            self.spent.add(from, spent);
        }
        self.state = to;
        self.since = Some(time);
        if to == TcpState::Established {
            self.established = self.answered.or(Some(time));
        }
        spent
    }
}

pub(super) const fn is_handshake(state: TcpState) -> bool {
    use TcpState as S;
    match state {
        S::SynSent | S::SynRecv | S::NewSynRecv => true,
        S::Close
        | S::Listen
        | S::Established
        | S::FinWait1
        | S::FinWait2
        | S::CloseWait
        | S::Closing
        | S::LastAck
        | S::TimeWait => false,
    }
}

/// Why the handshake of an end failed.
const fn failure(mine: &Endpoint, cause: Cause) -> HandshakeFailure {
    match cause {
        Cause::Segment(Way::Received, _) => match mine.role {
            Role::Client => HandshakeFailure::Refused,
            Role::Server => HandshakeFailure::Reset,
        },
        Cause::Segment(Way::Sent, _) | Cause::Replaced => HandshakeFailure::Aborted,
        Cause::Timer if mine.ignored_answer => HandshakeFailure::AcceptQueueFull,
        Cause::Timer => HandshakeFailure::TimedOut,
    }
}

/// Who ended a connection. Of two FINs the second is the one that acknowledges the other; if none does, they crossed.
fn closed_by(mine: &Endpoint, peer: &Endpoint, cause: Cause) -> ClosedBy {
    match cause {
        Cause::Segment(Way::Sent, Sign::Rst) => ClosedBy::LocalReset,
        Cause::Segment(Way::Received, Sign::Rst) => ClosedBy::RemoteReset,
        Cause::Segment(..) | Cause::Replaced | Cause::Timer => {
            if mine.stream.fin().is_none() || peer.stream.fin().is_none() {
                ClosedBy::TimedOut
            } else if peer.fin_answers {
                ClosedBy::Local
            } else if mine.fin_answers {
                ClosedBy::Remote
            } else {
                ClosedBy::Both
            }
        }
    }
}

/// Whether an established connection begins to close with this transition.
const fn is_one_step(from: TcpState, to: TcpState) -> bool {
    matches!((from, to), (TcpState::Established, TcpState::FinWait1 | TcpState::CloseWait))
}

#[cfg(test)]
mod tests {
    use tcp_monitor_common::counters::HandshakeFailure;
    use tcp_monitor_common::record::Role;

    use super::{Cause, Endpoint, Sign, Way, failure};

    #[test]
    fn a_handshake_fails_for_each_role_in_its_own_words() {
        let received = Cause::Segment(Way::Received, Sign::Rst);
        let sent = Cause::Segment(Way::Sent, Sign::Rst);
        for (cause, client, server) in [
            (received, HandshakeFailure::Refused, HandshakeFailure::Reset),
            (sent, HandshakeFailure::Aborted, HandshakeFailure::Aborted),
            (Cause::Timer, HandshakeFailure::TimedOut, HandshakeFailure::TimedOut),
            (Cause::Replaced, HandshakeFailure::Aborted, HandshakeFailure::Aborted),
        ] {
            for (role, expected) in [(Role::Client, client), (Role::Server, server)] {
                let end = Endpoint { role, ..Endpoint::listening() };
                assert_eq!(failure(&end, cause), expected);
            }
        }
    }
}
