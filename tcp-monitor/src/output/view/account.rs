//! What is kept of one connection until it is shown: its steps, the states of its ends, how it ended.

use std::net::SocketAddr;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Role;

use crate::lifecycle::event::{Check, Closed, Evidence, Handshake, Segment, StateChange, Step, Unexpected};
use crate::lifecycle::input::Process;
use crate::lifecycle::segment::Flags;
use crate::lifecycle::{Event, Time};

/// One connection, from its first event to the last.
#[derive(Clone, Debug)]
pub(super) struct Account {
    /// When it was first heard of.
    pub(super) began: Time,
    /// In the order of their addresses.
    pub(super) ends: [End; 2],
    /// In order of time, the first [`MAX_ENTRIES`] of them.
    pub(super) entries: Vec<Entry>,
    /// How many more there were.
    pub(super) omitted: u32,
    /// The kernel's reason for a RST, where there is one.
    pub(super) reset_reason: Option<&'static str>,
    /// The end that sent the first SYN, or is said to be the client.
    opener: Option<usize>,
    /// A SYN or SYN-ACK proves it.
    opening_seen: bool,
    /// Network namespaces it was seen in.
    netns: Vec<u32>,
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) address: SocketAddr,
    /// Initial sequence number.
    pub(super) isn: Option<u32>,
    pub(super) role: Option<Role>,
    /// The state it is in, if its socket or what stands in for it told one.
    pub(super) state: Option<TcpState>,
    /// The state it was in before the first change that was told.
    pub(super) began_in: Option<TcpState>,
    /// It is in CLOSE or TIME_WAIT, since then.
    pub(super) over: Option<Time>,
    pub(super) handshake: Option<Handshake>,
    pub(super) closed: Option<Box<Closed>>,
    /// The process that acted last.
    pub(super) process: Option<Process>,
    /// Data segments it sent again.
    pub(super) data_retransmits: u32,
    /// It sent a FIN, or a RST.
    has_ended: [bool; 2],
}

/// What is shown of an event.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    Segment(Passed),
    State { time: Time, end: usize, to: TcpState, evidence: Evidence },
}

/// What is shown of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed {
    pub(super) time: Time,
    /// The end that sent it.
    pub(super) from: usize,
    pub(super) step: Step,
    pub(super) flags: Flags,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) seq_rel: Option<u32>,
    pub(super) ack_rel: Option<u32>,
    pub(super) len: u32,
    pub(super) retransmission: bool,
    pub(super) unexpected: Option<Unexpected>,
    pub(super) check: Check,
}

/// The initial sequence numbers that a segment tells of, in the order of the ends.
pub(super) type Starts = [Option<u32>; 2];

impl Account {
    pub(super) fn new(began: Time, addresses: [SocketAddr; 2]) -> Self {
        Self {
            began,
            ends: addresses.map(End::new),
            entries: Vec::new(),
            omitted: 0,
            reset_reason: None,
            opener: None,
            opening_seen: false,
            netns: Vec::new(),
        }
    }

    pub(super) fn take_segment(&mut self, event: &Event, segment: &Segment, from: usize, starts: Starts) {
        self.note_netns(event.netns);
        for (end, start) in self.ends.iter_mut().zip(starts) {
            end.isn = end.isn.or(start);
        }
        let opener = match segment.step {
            Step::Syn => Some(from),
            Step::SynAck => Some(1 - from),
            Step::HandshakeAck | Step::Fin | Step::FinAck | Step::Rst => None,
        };
        if opener.is_some() && !self.opening_seen {
            self.opener = opener;
            self.opening_seen = true;
        }
        let [fin, rst] = &mut self.ends[from].has_ended;
        *fin |= segment.step == Step::Fin;
        *rst |= segment.step == Step::Rst;
        let header = &segment.header;
        self.add(Entry::Segment(Passed {
            time: event.time,
            from,
            step: segment.step,
            flags: header.flags,
            seq: header.seq,
            ack: header.ack,
            seq_rel: segment.seq_rel,
            ack_rel: segment.ack_rel,
            len: segment.payload_len,
            retransmission: segment.retransmission,
            unexpected: segment.unexpected,
            check: segment.check,
        }));
    }

    pub(super) fn take_state(&mut self, event: &Event, change: &StateChange, end: usize) {
        self.note_netns(event.netns);
        self.note_role(end, change.role);
        let mine = &mut self.ends[end];
        mine.began_in.get_or_insert(change.from);
        mine.state = Some(change.to);
        mine.process = change.process.or(mine.process);
        if matches!(change.to, TcpState::Close | TcpState::TimeWait) {
            mine.over.get_or_insert(event.time);
        }
        self.add(Entry::State { time: event.time, end, to: change.to, evidence: change.evidence });
    }

    pub(super) fn take_handshake(&mut self, time: Time, handshake: &Handshake, end: usize) {
        self.note_role(end, handshake.role);
        self.ends[end].handshake = Some(*handshake);
        if handshake.result.is_err() {
            self.ends[end].over.get_or_insert(time);
        }
    }

    pub(super) fn take_closed(&mut self, time: Time, closed: &Closed, end: usize) {
        self.note_role(end, closed.role);
        let mine = &mut self.ends[end];
        mine.process = closed.process.or(mine.process);
        mine.over.get_or_insert(time);
        mine.closed = Some(Box::new(Closed { states: Vec::new(), ..closed.clone() }));
    }

    /// The end that opened, or else is taken for the client: the one with the higher port.
    pub(super) fn client(&self) -> usize {
        let by_port = usize::from(self.ends[0].address.port() < self.ends[1].address.port());
        self.opener.unwrap_or(by_port)
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = &Passed> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Segment(segment) => Some(segment),
            Entry::State { .. } => None,
        })
    }

    /// Some end was, or is, in a state that only a completed handshake leads to.
    pub(super) fn was_established(&self) -> bool {
        self.ends.iter().any(|end| {
            end.closed.is_some() || matches!(end.handshake, Some(Handshake { result: Ok(()), .. }))
        }) || self
            .segments()
            .any(|segment| matches!(segment.step, Step::HandshakeAck | Step::Fin | Step::FinAck))
    }

    /// No segment says that it is ending.
    pub(super) fn is_opening(&self) -> bool {
        self.ends.iter().all(End::is_opening)
    }

    /// As far as segments show, all is said.
    pub(super) fn has_ended(&self) -> bool {
        self.ends.iter().any(|End { has_ended: [_, rst], .. }| *rst)
            || self.ends.iter().all(|End { has_ended: [fin, _], .. }| *fin)
    }

    pub(super) fn is_in(&self, netns: u32) -> bool {
        self.netns.contains(&netns)
    }

    fn note_netns(&mut self, netns: u32) {
        if self.netns.len() < MAX_NETNS && !self.is_in(netns) {
            self.netns.push(netns);
        }
    }

    fn note_role(&mut self, end: usize, role: Role) {
        self.ends[end].role.get_or_insert(role);
        let client = match role {
            Role::Client => end,
            Role::Server => 1 - end,
        };
        self.opener.get_or_insert(client);
    }

    fn add(&mut self, entry: Entry) {
        if self.entries.len() < MAX_ENTRIES {
            self.entries.push(entry);
        } else {
            self.omitted = self.omitted.saturating_add(1);
        }
    }
}

impl End {
    const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            isn: None,
            role: None,
            state: None,
            began_in: None,
            over: None,
            handshake: None,
            closed: None,
            process: None,
            data_retransmits: 0,
            has_ended: [false, false],
        }
    }

    /// Neither a FIN nor a RST came from it.
    pub(super) fn is_opening(&self) -> bool {
        self.has_ended == [false, false] && self.over.is_none()
    }

    /// Its socket, or the inference of one, told of it.
    pub(super) const fn is_told(&self) -> bool {
        self.role.is_some()
    }
}

/// A connection without trouble has about 15.
const MAX_ENTRIES: usize = 64;
/// A connection passes two namespaces, or some more on its way.
const MAX_NETNS: usize = 8;

#[cfg(test)]
mod tests {
    use super::{Account, Closed, Entry, MAX_ENTRIES};

    #[test]
    fn a_connection_takes_no_more_memory_than_documented() {
        let fixed = size_of::<Account>() + 2 * size_of::<Closed>();
        let usual = fixed + 16 * size_of::<Entry>();
        let most = fixed + MAX_ENTRIES * size_of::<Entry>();
        assert!(usual <= 3_000 && most <= 9_000, "{usual} bytes, at most {most}");
    }
}
