//! One life of an end: the states that it enters, from whatever source they are known, and what is
//! reported of them.

use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::Role;
use tcp_monitor_common::transition::{Outcome, is_synchronized};

use super::Identity;
use super::time_in_states::TimeInStates;
use crate::lifecycle::event::{
    Closed, ClosedBy, ConnectionId, End, Event, EventKind, Handshake, StateChange,
};
use crate::lifecycle::time::Time;

/// An end of one connection, from its first state to CLOSE.
#[derive(Clone, Debug)]
pub(in crate::lifecycle) struct Life {
    /// The connection, and which of its ends this is: an [`Identity`] in less memory.
    connection: Option<ConnectionId>,
    end: End,
    pub(in crate::lifecycle) role: Role,
    state: TcpState,
    /// When it entered `state`, if that was seen.
    since: Option<Time>,
    /// When its handshake was completed.
    pub(super) established: Option<Time>,
    /// It was established before it was first met.
    pub(super) partial: bool,
    pub(super) time_in_states: TimeInStates,
}

impl Life {
    /// An end that is met in `state`.
    pub(super) fn met(of: Identity, role: Role, state: TcpState) -> Self {
        Self {
            connection: of.connection,
            end: of.end,
            role,
            state,
            since: None,
            established: None,
            partial: is_synchronized(state),
            time_in_states: TimeInStates::default(),
        }
    }

    /// The connection, and which of its ends this is.
    pub(in crate::lifecycle) fn of(&self) -> Identity {
        Identity { connection: self.connection, end: self.end }
    }

    pub(in crate::lifecycle) fn set_identity(&mut self, of: Identity) {
        (self.connection, self.end) = (of.connection, of.end);
    }

    pub(in crate::lifecycle) fn state(&self) -> TcpState {
        self.state
    }

    /// When it entered its state, if that was seen.
    pub(super) fn since(&self) -> Option<Time> {
        self.since
    }

    /// Enters a state: the one place where that happens. Returns how long it was in the one that it
    /// leaves, if that is known.
    pub(super) fn enter(&mut self, from: TcpState, to: TcpState, time: Time) -> Option<Duration> {
        // Where a record was lost, `from` is not the state known here, and how long that lasted
        // neither.
        let state_duration = self.since.filter(|_| self.state == from).map(|since| time.since(since));
        if let Some(state_duration) = state_duration {
            self.time_in_states.add(from, state_duration);
        }
        self.state = to;
        self.since = Some(time);
        if to == TcpState::Established {
            self.established = Some(time);
        }
        state_duration
    }

    /// It turns out to be in a state: how it got there was lost.
    pub(in crate::lifecycle) fn correct(&mut self, state: TcpState) {
        if self.state != state {
            (self.state, self.since) = (state, None);
        }
    }

    /// Takes over a state that is reported already, since then.
    pub(in crate::lifecycle) fn resume(&mut self, state: TcpState, since: Time) {
        (self.state, self.since) = (state, Some(since));
    }
}

/// An end of which something is reported.
pub(super) trait Reported {
    fn event(&self, time: Time, kind: EventKind) -> Event;

    fn handshake(&self, time: Time, result: Result<(), HandshakeFailure>) -> Handshake;

    fn closed(&self, time: Time, closed_by: ClosedBy) -> Closed;
}

/// Reports a transition and what it means for the connection: the one place where that happens.
pub(super) fn report(
    end: &impl Reported,
    change: StateChange,
    outcome: Outcome,
    time: Time,
    out: &mut Vec<Event>,
) {
    out.push(end.event(time, EventKind::State(change)));
    let consequence = match outcome {
        Outcome::Continues | Outcome::EntersFinWait2Timewait | Outcome::ListenerClosed => return,
        Outcome::Established => EventKind::Handshake(end.handshake(time, Ok(()))),
        Outcome::HandshakeFailed(failure) => EventKind::Handshake(end.handshake(time, Err(failure))),
        Outcome::EntersTimeWait(closed_by) | Outcome::Closed(closed_by) => {
            EventKind::Closed(end.closed(time, closed_by))
        }
    };
    out.push(end.event(time, consequence));
}
