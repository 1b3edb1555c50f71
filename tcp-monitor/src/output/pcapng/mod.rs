//! The recorded segments as packets of a pcapng file, for Wireshark, with other lines of the log as
//! comments.
//!
//! A comment belongs to the packet that caused it. This is certain only of what happens at the same
//! moment, so each packet is held back for a tenth of a second. An event of its connection in this
//! time becomes a comment on
//!
//! - the last packet that the socket received, if a segment caused it: OPEN, CLOSED, most of STATE;
//! - the packet that the socket sends next, if a system call caused it: the SYN of CLOSE →
//!   SYN_SENT, a FIN, a RST;
//! - the retransmitted packet itself: RETRANS.
//!
//! Events without a pending packet are left out: a timeout, the end of TIME_WAIT, retransmitted
//! data. Lost records become a comment on the last packet of all.

use std::collections::HashMap;

use rustix::system::uname;
use tcp_monitor_common::TcpState;

use super::{Context, Destination, EventSink, Text};
use crate::lifecycle::event::{ClosedBy, EventKind, Evidence, Handshake, Segment, StateChange, Step};
use crate::lifecycle::input::{ResetDirection, RetransmitKind};
use crate::lifecycle::{Event, Time};

mod block;
mod headers;
mod pending;

use block::{InterfaceBlock, PacketBlock, SectionBlock};
use headers::{Headers, SNAP_LEN};
use pending::{CommentTarget, ConnectionEnd, Packet, PendingPackets};

/// Emits packets with comments, as blocks of a section that [`begin`](Self::begin) begins.
#[derive(Debug)]
pub struct Pcapng {
    /// The interfaces of this section, by network namespace and index.
    interfaces: HashMap<(u32, u32), u32>,
    text: Text,
    pending: PendingPackets,
    /// The transition before, which the next event may belong to.
    transition: Option<Transition>,
}

#[derive(Debug)]
struct Transition {
    time: Time,
    socket: Option<ConnectionEnd>,
    change: StateChange,
    comments: Vec<String>,
}

impl Default for Pcapng {
    fn default() -> Self {
        Self {
            interfaces: HashMap::new(),
            text: Text::of_single_lines(),
            pending: PendingPackets::default(),
            transition: None,
        }
    }
}

impl EventSink for Pcapng {
    fn event(&mut self, event: &Event, context: &Context<'_>, _: &mut dyn Destination) {
        let comments = self.comments(event, context);
        let time = event.time;
        let socket =
            event.connection.zip(event.end).map(|(connection, end)| ConnectionEnd { connection, end });
        let followed = self.transition.take();
        match &event.kind {
            EventKind::State(change) => {
                self.comment_transition(followed);
                self.transition = Some(Transition { time, socket, change: *change, comments });
            }
            EventKind::Handshake(handshake) => {
                self.comment_outcome(cause_of_handshake(handshake), socket, time, comments, followed);
            }
            EventKind::Closed(closed) => {
                self.comment_outcome(cause_of_end(closed.closed_by), socket, time, comments, followed);
            }
            EventKind::Segment(segment) => {
                self.comment_transition(followed);
                let packet = Packet {
                    time: context.wall_time(time).unwrap_or_default(),
                    netns: event.netns,
                    segment: *segment,
                    comments: if is_remarkable(segment) { comments } else { Vec::new() },
                };
                self.pending.push(time, packet, socket);
            }
            EventKind::Reset(reset) => {
                self.comment_transition(followed);
                let cause = match reset.direction {
                    ResetDirection::Sent => CommentTarget::Reset,
                    ResetDirection::Received => CommentTarget::Received,
                };
                self.comment(Evidence::Kernel, cause, socket, time, comments);
            }
            EventKind::Retransmit(retransmit) => {
                self.comment_transition(followed);
                if let Some(step) = step_of(retransmit.kind) {
                    self.comment(Evidence::Kernel, CommentTarget::Sent(step), socket, time, comments);
                }
            }
            // No packet caused it.
            EventKind::Stuck(_) => self.comment_transition(followed),
            EventKind::Lost(_) => {
                self.comment_transition(followed);
                self.pending.comment_on_last(comments);
            }
        }
    }

    fn advance(&mut self, now: Time, context: &Context<'_>, to: &mut dyn Destination) {
        while let Some(packet) = self.pop(now) {
            to.take(&mut |out| self.write(&packet, context, out));
        }
    }

    fn finish(&mut self, context: &Context<'_>, to: &mut dyn Destination) {
        self.advance(Time::from_nanos(u64::MAX), context, to);
    }
}

impl Pcapng {
    /// Appends to `out` the beginning of a file.
    pub fn begin(out: &mut Vec<u8>) {
        let system = uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        SectionBlock {
            hardware: &text(system.machine()),
            os: &format!("{} {}", text(system.sysname()), text(system.release())),
            application: concat!("tcp-monitor ", env!("CARGO_PKG_VERSION")),
        }
        .write(out);
    }

    /// The next packet that is complete, if all events before `now` have come.
    fn pop(&mut self, now: Time) -> Option<Packet> {
        let followed = self.transition.take_if(|transition| transition.time < now);
        self.comment_transition(followed);
        self.pending.pop(now)
    }

    /// Appends a packet to `out`: whole blocks.
    fn write(&mut self, packet: &Packet, context: &Context<'_>, out: &mut Vec<u8>) {
        let Packet { time, netns, segment, comments } = packet;
        let interface = self.interface(*netns, segment.ifindex, context, out);
        let Headers { bytes, original_len } = Headers::of(segment);
        let direction = segment.direction;
        PacketBlock { interface, time: *time, bytes: &bytes, original_len, direction, comments }.write(out);
    }

    /// The number of an interface in this section, which is described in `out` if it is new.
    fn interface(&mut self, netns: u32, ifindex: u32, context: &Context<'_>, out: &mut Vec<u8>) -> u32 {
        if let Some(number) = self.interfaces.get(&(netns, ifindex)) {
            return *number;
        }
        if self.interfaces.len() >= MAX_INTERFACES {
            Self::begin(out);
            self.interfaces.clear();
        }
        let name = context.interface(netns, ifindex);
        InterfaceBlock {
            link: LINKTYPE_RAW,
            snap_len: SNAP_LEN,
            name: name.as_deref(),
            description: &format!("interface {ifindex} of network namespace {netns}"),
        }
        .write(out);
        let number = self.interfaces.len() as u32;
        self.interfaces.insert((netns, ifindex), number);
        number
    }

    /// The line of the log for an event, without the time.
    fn comments(&mut self, event: &Event, context: &Context<'_>) -> Vec<String> {
        let line = self.text.line(event, context);
        line.map(|line| line.trim_end().to_owned()).into_iter().collect()
    }

    /// Comments an outcome, after the transition before it if that is a part of it.
    fn comment_outcome(
        &mut self,
        cause: CommentTarget,
        socket: Option<ConnectionEnd>,
        time: Time,
        mut comments: Vec<String>,
        mut followed: Option<Transition>,
    ) {
        let is_part = |transition: &mut Transition| transition.time == time && transition.socket == socket;
        let mut evidence = Evidence::Kernel;
        if let Some(transition) = followed.take_if(is_part) {
            evidence = transition.change.evidence;
            comments.splice(0..0, transition.comments);
        }
        self.comment_transition(followed);
        self.comment(evidence, cause, socket, time, comments);
    }

    /// Comments a transition without an outcome.
    fn comment_transition(&mut self, transition: Option<Transition>) {
        if let Some(Transition { time, socket, change, comments }) = transition {
            self.comment(change.evidence, cause_of_transition(change.to), socket, time, comments);
        }
    }

    fn comment(
        &mut self,
        evidence: Evidence,
        cause: CommentTarget,
        socket: Option<ConnectionEnd>,
        time: Time,
        comments: Vec<String>,
    ) {
        let Some(socket) = socket else { return };
        match evidence {
            Evidence::Kernel => self.pending.comment(cause, socket, time, comments),
            // Its event comes right after that of the segment.
            Evidence::Segment => self.pending.comment(CommentTarget::Last, socket, time, comments),
            Evidence::Timer => {}
        }
    }
}

/// Whether a comment on the segment itself adds to what its header shows.
const fn is_remarkable(segment: &Segment) -> bool {
    segment.retransmission || segment.unexpected.is_some()
}

const fn cause_of_transition(to: TcpState) -> CommentTarget {
    match to {
        TcpState::SynSent => CommentTarget::Next(Step::Syn),
        TcpState::FinWait1 | TcpState::LastAck => CommentTarget::Next(Step::Fin),
        TcpState::SynRecv
        | TcpState::NewSynRecv
        | TcpState::Established
        | TcpState::FinWait2
        | TcpState::Closing
        | TcpState::TimeWait
        | TcpState::CloseWait => CommentTarget::Received,
        TcpState::Close | TcpState::Listen => CommentTarget::Last,
    }
}

const fn cause_of_handshake(handshake: &Handshake) -> CommentTarget {
    match handshake.result {
        Ok(()) => CommentTarget::Received,
        // A RST, an ICMP error or a call.
        Err(_) => CommentTarget::Last,
    }
}

const fn cause_of_end(closed_by: ClosedBy) -> CommentTarget {
    match closed_by {
        ClosedBy::Local | ClosedBy::Remote | ClosedBy::Both | ClosedBy::RemoteReset => {
            CommentTarget::Received
        }
        ClosedBy::LocalReset | ClosedBy::Killed => CommentTarget::Reset,
        ClosedBy::TimedOut => CommentTarget::Last,
    }
}

/// Retransmitted data is not recorded.
const fn step_of(kind: RetransmitKind) -> Option<Step> {
    match kind {
        RetransmitKind::Syn => Some(Step::Syn),
        RetransmitKind::SynAck => Some(Step::SynAck),
        RetransmitKind::Fin => Some(Step::Fin),
        RetransmitKind::Data => None,
    }
}

/// IPv4 or IPv6 without a link-layer header.
const LINKTYPE_RAW: u16 = 101;
/// The most that readers allow in a section. Containers come and go, so more begin a new section.
const MAX_INTERFACES: usize = 1 << 16;

#[cfg(test)]
mod tests;
