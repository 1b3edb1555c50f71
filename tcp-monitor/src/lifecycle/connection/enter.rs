//! What is reported when an inferred end changes its state: the transition, the end of its
//! handshake, the end of its connection.

use std::mem;
use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::Role;

use super::Identity;
use super::effect::{Effect, Way};
use super::endpoint::Endpoint;
use super::flow::Flow;
use super::inference::{Ends, Inference, Passage};
use super::life::{Reported, report};
use crate::lifecycle::event::{Closed, ClosedBy, Event, EventKind, Evidence, Handshake, StateChange};
use crate::lifecycle::time::Time;
use crate::lifecycle::tuple::Tuple;
use tcp_monitor_common::transition::{Outcome, is_synchronized};

/// Why an end changes its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A segment that it sent or received says this.
    Segment(Way, Effect),
    /// A segment begins a new connection from its address.
    Replaced,
    /// No segment was seen for long.
    Timer,
}

impl Inference {
    /// The one place where the state of an end changes because of a segment.
    pub(super) fn enter(&mut self, end: usize, to: TcpState, cause: Cause, passage: &mut Passage<'_>) {
        self.change(end, to, cause, passage.segment.time, &mut passage.ends);
    }

    /// Changes the state of an end, unless the kernel reports its states, and reports what that
    /// means.
    pub(super) fn change(&mut self, end: usize, to: TcpState, cause: Cause, time: Time, ends: &mut Ends<'_>) {
        let life = &ends.of[end].life;
        let from = life.state();
        if from == to || life.is_reported_by_kernel() {
            return;
        }
        self.emit_deferred(end, time, ends);
        let life = &mut ends.of[end].life;
        let state_duration = life.enter(from, to, time);
        if to == TcpState::Established {
            // The answer may have been processed before that showed.
            life.established = self.flows[end].answered.or(Some(time));
        }
        let reported = life.reported;
        if !self.is_reported_here(end, ends.of) || reported == to {
            return;
        }
        let evidence = match cause {
            Cause::Segment(..) | Cause::Replaced => Evidence::Segment,
            Cause::Timer => Evidence::Timer,
        };
        let state_duration = state_duration.filter(|_| reported == from);
        let outcome = self.outcome(end, from, to, cause, ends);
        self.emit(end, evidence, state_duration, outcome, time, ends);
    }

    /// What the transition of an end means.
    fn outcome(&self, end: usize, from: TcpState, to: TcpState, cause: Cause, ends: &Ends<'_>) -> Outcome {
        let (mine, peer) = (&self.flows[end], &self.flows[ends.tuple.peer_of(end)]);
        let closes = matches!(to, TcpState::Close | TcpState::TimeWait);
        if is_handshake(from) && to == TcpState::Close {
            Outcome::HandshakeFailed(failure(ends.of[end].life.role, mine, cause))
        } else if is_handshake(from) && is_synchronized(to) {
            Outcome::Established
        } else if is_synchronized(from) && from != TcpState::TimeWait && closes {
            Outcome::Closed(closed_by(mine, peer, cause))
        } else {
            Outcome::Continues
        }
    }

    /// Reports the state of an end of which it was not known until now whether it is to be
    /// reported.
    pub(in crate::lifecycle) fn emit_deferred(&self, end: usize, time: Time, ends: &mut Ends<'_>) {
        let is_reported_here = self.is_reported_here(end, ends.of);
        let life = &mut ends.of[end].life;
        let state = life.state();
        if !is_reported_here || life.reported == state {
            return;
        }
        if life.has_reports {
            self.emit(end, Evidence::Segment, None, Outcome::Continues, time, ends);
        } else if matches!(state, TcpState::TimeWait | TcpState::Close) {
            // It is too late to report how this life ended.
            life.reported = TcpState::Close;
        } else if is_synchronized(state) && !is_one_step(life.reported, state) {
            // And here, how it began: it is met in its course.
            (life.reported, life.partial, life.established) = (state, true, None);
        } else {
            if life.reported == TcpState::Close && state == TcpState::SynRecv {
                // Both ends opened at once.
                life.reported = TcpState::SynSent;
            }
            self.emit(end, Evidence::Segment, None, Outcome::Continues, time, ends);
        }
    }

    /// Reports that an end is in its state, and what that means.
    fn emit(
        &self,
        end: usize,
        evidence: Evidence,
        state_duration: Option<Duration>,
        outcome: Outcome,
        time: Time,
        ends: &mut Ends<'_>,
    ) {
        let (local, remote) = ends.tuple.addresses(end);
        let (life, flow) = (&mut ends.of[end].life, &self.flows[end]);
        let sees_all_segments = self.visibility.sees_all_segments;
        let to = life.state();
        let from = mem::replace(&mut life.reported, to);
        life.has_reports = true;
        let change = StateChange {
            local,
            remote: Some(remote),
            role: life.role,
            from,
            to,
            seq: flow.stream.next_seq().filter(|_| sees_all_segments),
            ack: flow.expects.filter(|_| sees_all_segments),
            evidence,
            process: None,
            state_duration,
        };
        let end = EndOf { inference: self, end, ends: ends.of, tuple: &ends.tuple };
        report(&end, change, outcome, time, ends.out);
    }

    /// What happened at an end.
    pub(super) fn event(&self, end: usize, time: Time, kind: EventKind, ends: &Ends<'_>) -> Event {
        EndOf { inference: self, end, ends: ends.of, tuple: &ends.tuple }.event(time, kind)
    }

    /// The end of a handshake, of which there is no transition.
    pub(super) fn handshake_event(
        &self,
        end: usize,
        failure: HandshakeFailure,
        time: Time,
        ends: &Ends<'_>,
    ) -> Event {
        let end = EndOf { inference: self, end, ends: ends.of, tuple: &ends.tuple };
        end.event(time, EventKind::Handshake(end.handshake(time, Err(failure))))
    }
}

/// An end with its connection.
struct EndOf<'a> {
    inference: &'a Inference,
    end: usize,
    ends: &'a [Endpoint; 2],
    tuple: &'a Tuple,
}

impl Reported for EndOf<'_> {
    fn event(&self, time: Time, kind: EventKind) -> Event {
        let Self { inference, end, ends, tuple } = *self;
        let Identity { connection, end: of } = ends[end].life.of();
        let netns = inference.visibility.netns(end).unwrap_or(tuple.netns);
        Event { time, connection, end: connection.map(|_| of), netns, cookie: 0, frame: None, kind }
    }

    fn handshake(&self, time: Time, result: Result<(), HandshakeFailure>) -> Handshake {
        let Self { inference, end, ends, tuple } = *self;
        let (mine, peer) = (&inference.flows[end], &inference.flows[1 - end]);
        let role = ends[end].life.role;
        let opened = match role {
            Role::Client => mine.opened,
            Role::Server => peer.opened,
        };
        let (local, remote) = tuple.addresses(end);
        // The answer may have been processed before that showed.
        let ended = mine.answered.filter(|_| result.is_ok()).unwrap_or(time);
        Handshake {
            local,
            remote,
            role,
            result,
            duration: opened.map(|opened| ended.since(opened)),
            // It has sent nothing else yet.
            syn_retransmits: Some(mine.retransmits),
        }
    }

    fn closed(&self, time: Time, closed_by: ClosedBy) -> Closed {
        let Self { inference, end, ends, tuple } = *self;
        let (local, remote) = tuple.addresses(end);
        let (mine, peer) = (&inference.flows[end], &inference.flows[tuple.peer_of(end)]);
        let life = &ends[end].life;
        let sees_all_segments = inference.visibility.sees_all_segments;
        Closed {
            local,
            remote,
            role: life.role,
            closed_by,
            duration: life.established.map(|established| time.since(established)),
            bytes_sent: mine.stream.payload_acked().filter(|_| sees_all_segments),
            bytes_received: peer.stream.payload_acked().filter(|_| sees_all_segments),
            retransmits: Some(mine.retransmits).filter(|_| sees_all_segments),
            rtt_us: None,
            process: None,
            partial: life.partial,
            states: life.time_in_states.states(),
        }
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
const fn failure(role: Role, mine: &Flow, cause: Cause) -> HandshakeFailure {
    match cause {
        Cause::Segment(Way::Received, _) => match role {
            Role::Client => HandshakeFailure::Refused,
            Role::Server => HandshakeFailure::Reset,
        },
        Cause::Segment(Way::Sent, _) | Cause::Replaced => HandshakeFailure::Aborted,
        Cause::Timer if mine.ignored_answer => HandshakeFailure::AcceptQueueFull,
        Cause::Timer => HandshakeFailure::TimedOut,
    }
}

/// Who ended a connection. Of two FINs the second is the one that acknowledges the other; if none
/// does, they crossed.
fn closed_by(mine: &Flow, peer: &Flow, cause: Cause) -> ClosedBy {
    match cause {
        Cause::Segment(Way::Sent, Effect::Rst) => ClosedBy::LocalReset,
        Cause::Segment(Way::Received, Effect::Rst) => ClosedBy::RemoteReset,
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

    use super::{Cause, Effect, Flow, Way, failure};

    #[test]
    fn a_handshake_fails_for_each_role_in_its_own_words() {
        let received = Cause::Segment(Way::Received, Effect::Rst);
        let sent = Cause::Segment(Way::Sent, Effect::Rst);
        for (cause, client, server) in [
            (received, HandshakeFailure::Refused, HandshakeFailure::Reset),
            (sent, HandshakeFailure::Aborted, HandshakeFailure::Aborted),
            (Cause::Timer, HandshakeFailure::TimedOut, HandshakeFailure::TimedOut),
            (Cause::Replaced, HandshakeFailure::Aborted, HandshakeFailure::Aborted),
        ] {
            for (role, expected) in [(Role::Client, client), (Role::Server, server)] {
                assert_eq!(failure(role, &Flow::default(), cause), expected);
            }
        }
    }
}
