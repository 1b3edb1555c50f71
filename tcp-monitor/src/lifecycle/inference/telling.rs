//! What is told when an end changes its state: the transition, the end of its handshake, the end of its connection.

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::Role;

use super::connection::{Connection, Passage};
use super::endpoint::Endpoint;
use super::sign::{Sign, Way};
use crate::lifecycle::event::{Closed, ClosedBy, Event, Evidence, Handshake, StateChange};
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
        let change = self.ends[end].enter(to, cause, time, key, end);
        if self.ends[end].told_by_kernel {
            return;
        }
        out.push(Event::State(change));
        let mine = &self.ends[end];
        if is_handshake(from) && (to == TcpState::Close || is_synchronized(to)) {
            let result = if to == TcpState::Close { Err(failure(mine.role, cause)) } else { Ok(()) };
            out.push(Event::Handshake(self.handshake(end, result, time, key)));
        }
        let ends = matches!(to, TcpState::Close | TcpState::TimeWait);
        if is_synchronized(from) && from != TcpState::TimeWait && ends {
            out.push(Event::Closed(self.closed(end, cause, time, key)));
        }
    }

    fn handshake(
        &self,
        end: usize,
        result: Result<(), HandshakeFailure>,
        time: Time,
        key: &FlowKey,
    ) -> Handshake {
        let (mine, peer) = (&self.ends[end], &self.ends[1 - end]);
        let opened = match mine.role {
            Role::Client => mine.opened,
            Role::Server => peer.opened,
        };
        let (local, remote) = key.addresses(end);
        Handshake {
            time,
            local,
            remote,
            role: mine.role,
            result,
            duration: opened.map(|opened| time.since(opened)),
            // It has sent nothing else yet.
            syn_retransmits: Some(mine.retransmits),
        }
    }

    fn closed(&self, end: usize, cause: Cause, time: Time, key: &FlowKey) -> Closed {
        let (local, remote) = key.addresses(end);
        let mine = &self.ends[end];
        let peer = if local == remote { mine } else { &self.ends[1 - end] };
        Closed {
            time,
            local,
            remote,
            role: mine.role,
            closed_by: closed_by(mine, peer, cause),
            duration: mine.established.map(|established| time.since(established)),
            bytes_sent: mine.stream.payload_acked(),
            bytes_received: peer.stream.payload_acked(),
            retransmits: Some(mine.retransmits),
            rtt_us: None,
            process: None,
            partial: mine.partial,
            states: mine.spent.states(),
        }
    }
}

impl Endpoint {
    fn enter(&mut self, to: TcpState, cause: Cause, time: Time, key: &FlowKey, end: usize) -> StateChange {
        let from = self.state;
        let spent = self.since.map(|since| time.since(since));
        if let Some(spent) = spent {
            self.spent.add(from, spent);
        }
        self.state = to;
        self.since = Some(time);
        if to == TcpState::Established {
            self.established = Some(time);
        }
        let (local, remote) = key.addresses(end);
        StateChange {
            time,
            local,
            remote: Some(remote),
            role: self.role,
            from,
            to,
            seq: self.stream.next_seq(),
            ack: self.expects,
            evidence: match cause {
                Cause::Segment(..) | Cause::Replaced => Evidence::Segment,
                Cause::Timer => Evidence::Timer,
            },
            cookie: 0,
            netns: key.netns(),
            process: None,
            spent,
        }
    }
}

const fn is_handshake(state: TcpState) -> bool {
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

/// Why a handshake failed, as the end with this role has it.
const fn failure(role: Role, cause: Cause) -> HandshakeFailure {
    match cause {
        Cause::Segment(Way::Received, _) => match role {
            Role::Client => HandshakeFailure::Refused,
            Role::Server => HandshakeFailure::Reset,
        },
        Cause::Segment(Way::Sent, _) | Cause::Replaced => HandshakeFailure::Aborted,
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

#[cfg(test)]
mod tests {
    use tcp_monitor_common::counters::HandshakeFailure;
    use tcp_monitor_common::record::Role;

    use super::{Cause, Sign, Way, failure};

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
            assert_eq!((failure(Role::Client, cause), failure(Role::Server, cause)), (client, server));
        }
    }
}
