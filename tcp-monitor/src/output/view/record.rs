//! The record of one connection until it is shown: its steps, the states of its ends, how it ended.

use std::net::SocketAddr;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Role;

use crate::clock::WallTime;
use crate::lifecycle::event::{
    Check, Closed, EventKind, Evidence, Handshake, Segment, StateChange, Step, Unexpected,
};
use crate::lifecycle::input::Process;
use crate::lifecycle::segment::Flags;
use crate::lifecycle::{End, Event, Time};
use crate::output::Context;

/// One connection, from its first event to the last.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// When its first event was.
    pub(super) began: Time,
    /// The same by the wall clock.
    pub(super) began_at: Option<WallTime>,
    /// By [`End`].
    pub(super) ends: [EndRecord; 2],
    /// In order of time, the first [`MAX_ENTRIES`] of them.
    pub(super) entries: Vec<ViewEntry>,
    /// How many more there were.
    pub(super) omitted: u32,
    /// The kernel's reason for a RST, if there is one.
    pub(super) reset_reason: Option<&'static str>,
    /// The end that sent the first SYN, or else has the role of the client.
    opener: Option<End>,
    /// A SYN or SYN-ACK proves it.
    opening_seen: bool,
}

/// One end of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct EndRecord {
    pub(super) address: Option<SocketAddr>,
    /// Initial sequence number.
    pub(super) isn: Option<u32>,
    pub(super) role: Option<Role>,
    /// The name of its network namespace, if more than one is watched.
    pub(super) netns: Option<String>,
    /// The state it is in, if that is reported or inferred.
    pub(super) state: Option<TcpState>,
    /// The state before the first transition.
    pub(super) began_in: Option<TcpState>,
    /// Since when it is in CLOSE or TIME_WAIT.
    pub(super) over: Option<Time>,
    pub(super) handshake: Option<Handshake>,
    pub(super) closed: Option<Box<Closed>>,
    /// The process that acted last.
    pub(super) process: Option<Process>,
    /// Data segments it retransmitted.
    pub(super) data_retransmits: u32,
    sent_fin: bool,
    sent_rst: bool,
}

/// An event of a view.
#[derive(Clone, Copy, Debug)]
pub(super) enum ViewEntry {
    Segment(SegmentEntry),
    State { time: Time, end: End, to: TcpState, evidence: Evidence },
}

/// A segment of a view.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentEntry {
    pub(super) time: Time,
    /// The end that sent it.
    pub(super) from: End,
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

impl Record {
    pub(super) fn new(began: Time, context: &Context<'_>) -> Self {
        Self {
            began,
            began_at: context.wall_time(began),
            ends: Default::default(),
            entries: Vec::new(),
            omitted: 0,
            reset_reason: None,
            opener: None,
            opening_seen: false,
        }
    }

    /// Notes the addresses of both ends, and the namespace and role of the one that an event is of.
    pub(super) fn note_ends(&mut self, event: &Event, end: End, context: &Context<'_>) {
        let (addresses, role) = match &event.kind {
            EventKind::Segment(segment) => ([Some(segment.src), Some(segment.dst)], None),
            EventKind::State(change) => ([Some(change.local), change.remote], Some(change.role)),
            EventKind::Handshake(handshake) => {
                ([Some(handshake.local), Some(handshake.remote)], Some(handshake.role))
            }
            EventKind::Closed(closed) => ([Some(closed.local), Some(closed.remote)], Some(closed.role)),
            EventKind::Reset(_) | EventKind::Retransmit(_) | EventKind::Stuck(_) | EventKind::Lost(_) => {
                return;
            }
        };
        for (end, address) in [end, end.other()].into_iter().zip(addresses) {
            let known = &mut self.ends[end as usize].address;
            // A client may have no port yet when it enters SYN_SENT.
            if known.is_none_or(|known| known.port() == 0) {
                *known = address.or(*known);
            }
        }
        let Some(role) = role else { return };
        let mine = &mut self.ends[end as usize];
        if mine.role.is_none() {
            mine.role = Some(role);
            mine.netns = context.netns(event.netns).as_deref().map(str::to_owned);
        }
        let client = match role {
            Role::Client => end,
            Role::Server => end.other(),
        };
        self.opener.get_or_insert(client);
    }

    pub(super) fn add_segment(&mut self, time: Time, segment: &Segment, from: End) {
        let header = &segment.header;
        let isns = [
            (from, segment.seq_rel.map(|relative| header.seq.wrapping_sub(relative))),
            (from.other(), segment.ack_rel.map(|relative| header.ack.wrapping_sub(relative))),
        ];
        for (end, isn) in isns {
            let known = &mut self.ends[end as usize].isn;
            *known = known.or(isn);
        }
        let opener = match segment.step {
            Step::Syn => Some(from),
            Step::SynAck => Some(from.other()),
            Step::HandshakeAck | Step::Fin | Step::FinAck | Step::Rst => None,
        };
        if opener.is_some() && !self.opening_seen {
            self.opener = opener;
            self.opening_seen = true;
        }
        let sender = &mut self.ends[from as usize];
        sender.sent_fin |= segment.step == Step::Fin;
        sender.sent_rst |= segment.step == Step::Rst;
        self.add(ViewEntry::Segment(SegmentEntry {
            time,
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

    pub(super) fn add_state(&mut self, time: Time, change: &StateChange, end: End) {
        let mine = &mut self.ends[end as usize];
        mine.began_in.get_or_insert(change.from);
        mine.state = Some(change.to);
        mine.process = change.process.or(mine.process);
        if matches!(change.to, TcpState::Close | TcpState::TimeWait) {
            mine.over.get_or_insert(time);
        }
        self.add(ViewEntry::State { time, end, to: change.to, evidence: change.evidence });
    }

    pub(super) fn add_handshake(&mut self, time: Time, handshake: &Handshake, end: End) {
        let mine = &mut self.ends[end as usize];
        mine.handshake = Some(*handshake);
        if handshake.result.is_err() {
            mine.over.get_or_insert(time);
        }
    }

    pub(super) fn add_closed(&mut self, time: Time, closed: &Closed, end: End) {
        let mine = &mut self.ends[end as usize];
        mine.process = closed.process.or(mine.process);
        mine.over.get_or_insert(time);
        mine.closed = Some(Box::new(Closed { states: Vec::new(), ..closed.clone() }));
    }

    /// The end that opened the connection, or else is taken for the client: the one with the higher
    /// port.
    pub(super) fn client(&self) -> End {
        let [first, second] = self.ends.each_ref().map(|end| end.address.map(|address| address.port()));
        self.opener.unwrap_or(if first < second { End::Second } else { End::First })
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = &SegmentEntry> {
        self.entries.iter().filter_map(|entry| match entry {
            ViewEntry::Segment(segment) => Some(segment),
            ViewEntry::State { .. } => None,
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

    /// It is over as far as segments show.
    pub(super) fn has_ended(&self) -> bool {
        self.ends.iter().any(|end| end.sent_rst) || self.ends.iter().all(|end| end.sent_fin)
    }

    fn add(&mut self, entry: ViewEntry) {
        if self.entries.len() < MAX_ENTRIES {
            self.entries.push(entry);
        } else {
            self.omitted = self.omitted.saturating_add(1);
        }
    }
}

impl EndRecord {
    /// There are events of it, and not only segments.
    pub(super) const fn is_reported(&self) -> bool {
        self.role.is_some()
    }
}

/// A connection without trouble has about 15.
const MAX_ENTRIES: usize = 64;

#[cfg(test)]
mod tests {
    use super::{Closed, MAX_ENTRIES, Record, ViewEntry};

    #[test]
    fn a_connection_takes_no_more_memory_than_documented() {
        let fixed = size_of::<Record>() + 2 * size_of::<Closed>();
        let usual = fixed + 16 * size_of::<ViewEntry>();
        let most = fixed + MAX_ENTRIES * size_of::<ViewEntry>();
        assert!(usual <= 3_000 && most <= 9_000, "{usual} bytes, at most {most}");
    }
}
