//! One life of an end: the states that it enters, from whatever source they are known, and what is
//! reported of them.

use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::rules::role::{Role, role_in_state, role_in_transition};
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
    /// Where its states are known from.
    pub(in crate::lifecycle) source: Source,
    state: TcpState,
    /// The state that was reported last or, if none was, in which it was met.
    pub(super) reported: TcpState,
    /// Something was reported of it.
    pub(in crate::lifecycle) has_reports: bool,
    /// When it entered `state`, if that was seen.
    since: Option<Time>,
    /// When its handshake was completed.
    pub(super) established: Option<Time>,
    /// It was established before it was first met.
    pub(super) partial: bool,
    pub(super) time_in_states: TimeInStates,
}

/// Where the states of a life are known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lifecycle) enum Source {
    /// They are inferred from segments.
    Segments,
    /// The kernel reports them.
    Kernel,
    /// The kernel reports them of a socket with other addresses, which are translated to these.
    Translated,
}

impl Life {
    /// An end that is met in `state`.
    pub(super) fn met(of: Identity, role: Role, state: TcpState, source: Source) -> Self {
        Self {
            connection: of.connection,
            end: of.end,
            role,
            source,
            state,
            reported: state,
            has_reports: false,
            since: None,
            established: None,
            partial: is_synchronized(state),
            time_in_states: TimeInStates::default(),
        }
    }

    /// An end that a segment goes to and that has sent none: if it is there at all, it listens.
    pub(super) fn listening(of: Identity) -> Self {
        Self::met(of, Role::Server, TcpState::Listen, Source::Segments)
    }

    /// An end that sends a SYN, which was seen or is known from its answer.
    pub(super) fn opening(of: Identity, is_seen: bool) -> Self {
        let state = if is_seen { TcpState::Close } else { TcpState::SynSent };
        Self::met(of, Role::Client, state, Source::Segments)
    }

    /// An end whose socket is met at its transition from `from` to `to`, in `from` still.
    pub(in crate::lifecycle) fn of_socket(of: Identity, from: TcpState, to: TcpState, role: Role) -> Self {
        Self::met(of, role_in_transition(from, to).unwrap_or(role), from, Source::Kernel)
    }

    /// An end whose socket was found in `state`: nothing is known of how it got there.
    pub(in crate::lifecycle) fn from_dump(of: Identity, state: TcpState, role: Role) -> Self {
        Self::met(of, role_in_state(state).unwrap_or(role), state, Source::Kernel)
    }

    /// An end whose socket is closed.
    pub(in crate::lifecycle) fn closed(of: Identity, role: Role) -> Self {
        Self::met(of, role, TcpState::Close, Source::Kernel)
    }

    /// An end that has not begun is of this connection.
    pub(in crate::lifecycle) fn identify_listening(&mut self, of: Identity) {
        if self.state == TcpState::Listen {
            self.set_identity(of);
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

    /// From now on the kernel reports its states, of a listener's child.
    pub(in crate::lifecycle) fn continue_as_child(&mut self) {
        (self.source, self.role) = (Source::Kernel, Role::Server);
    }

    /// Its states are inferred, and the last one that was reported is this one.
    pub(in crate::lifecycle) fn is_inferred_in(&self, state: TcpState) -> bool {
        self.source == Source::Segments && self.has_reports && self.reported == state
    }

    /// The kernel reports its states.
    pub(in crate::lifecycle) fn is_reported_by_kernel(&self) -> bool {
        match self.source {
            Source::Segments => false,
            Source::Kernel | Source::Translated => true,
        }
    }
}

impl Default for Life {
    fn default() -> Self {
        Self::listening(Identity::NONE)
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
