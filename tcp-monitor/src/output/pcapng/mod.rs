//! The recorded segments as packets of a pcapng file, which Wireshark opens, with what the log says of them as comments.
//!
//! A comment belongs to the packet that it follows from, which is known for certain only of what happens at the same moment.
//! So each packet is held back for a tenth of a second. What is told then of its connection is noted on
//!
//! - the last packet that the socket received, where a segment brought it about: OPEN, CLOSED, most of STATE;
//! - the packet that the socket sends next, where it comes of a call: the SYN of CLOSE → SYN_SENT, a FIN, a RST;
//! - the retransmitted packet itself: AGAIN.
//!
//! What has no packet in hand is left out: a timeout, the end of TIME_WAIT, retransmitted data. Lost records are noted on the last packet
//! of all.

use std::collections::HashMap;
use std::net::SocketAddr;

use rustix::system::uname;
use tcp_monitor_common::TcpState;

use super::{Sink, Text};
use crate::lifecycle::event::{ClosedBy, Evidence, Handshake, Segment, StateChange, Step};
use crate::lifecycle::input::{ResetDirection, RetransmitKind};
use crate::lifecycle::{Event, EventKind, Time};

mod block;
mod held;
mod packet;

use block::{EnhancedPacket, Interface, Section};
pub use held::Annotated;
use held::{Cause, Held};
use packet::{Packet, SNAP_LEN};

/// Turns events into packets with comments, and those into bytes.
pub struct Pcapng {
    interface_name: Box<dyn Fn(u32, u32) -> Option<String> + Send>,
    /// The interfaces of this section, by network namespace and index.
    interfaces: HashMap<(u32, u32), u32>,
    text: Text,
    held: Held,
    /// The transition before, which may be part of what comes next.
    transition: Option<Transition>,
}

struct Transition {
    time: Time,
    change: StateChange,
    comments: Vec<String>,
}

impl Pcapng {
    /// `interface_name` finds the name of an interface by its network namespace and index.
    pub fn new(interface_name: impl Fn(u32, u32) -> Option<String> + Send + 'static) -> Self {
        Self {
            interface_name: Box::new(interface_name),
            interfaces: HashMap::new(),
            text: Text::without_columns(),
            held: Held::default(),
            transition: None,
        }
    }

    /// Takes in an event. They have to come in order of time.
    pub fn take(&mut self, event: &Event) {
        let comments = self.comments(event);
        match &event.kind {
            EventKind::State(change) => {
                self.settle();
                self.transition = Some(Transition { time: event.time, change: *change, comments });
            }
            EventKind::Handshake(handshake) => {
                let ends = (handshake.local, handshake.remote);
                self.conclude(cause_of_handshake(handshake), ends, event.time, comments);
            }
            EventKind::Closed(closed) => {
                self.conclude(
                    cause_of_end(closed.closed_by),
                    (closed.local, closed.remote),
                    event.time,
                    comments,
                );
            }
            EventKind::Segment(segment) => {
                self.settle();
                self.held.push(event, *segment, if is_remarkable(segment) { comments } else { Vec::new() });
            }
            EventKind::Reset(reset) => {
                self.settle();
                let cause = match reset.direction {
                    ResetDirection::Sent => Cause::Reset,
                    ResetDirection::Received => Cause::Received,
                };
                if let Some(remote) = reset.remote {
                    self.held.note(cause, (reset.local, remote), event.time, comments);
                }
            }
            EventKind::Retransmit(again) => {
                self.settle();
                if let Some(step) = step_of(again.kind) {
                    self.held.note(Cause::Sent(step), (again.local, again.remote), event.time, comments);
                }
            }
            // No packet has to do with it.
            EventKind::Stuck(_) => self.settle(),
            EventKind::Lost(_) => {
                self.settle();
                self.held.note_on_last(comments);
            }
        }
    }

    /// The next packet of which all has been said, if all events before `now` have come.
    pub fn pop(&mut self, now: Time) -> Option<Annotated> {
        if self.transition.as_ref().is_some_and(|transition| transition.time < now) {
            self.settle();
        }
        self.held.pop(now)
    }

    /// Appends to `out` what a file begins with.
    pub fn begin(out: &mut Vec<u8>) {
        let system = uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        Section {
            hardware: &text(system.machine()),
            os: &format!("{} {}", text(system.sysname()), text(system.release())),
            application: concat!("tcp-monitor ", env!("CARGO_PKG_VERSION")),
        }
        .write(out);
    }

    /// Appends a packet to `out`: whole blocks.
    pub fn write(&mut self, packet: &Annotated, out: &mut Vec<u8>) {
        let &Annotated { time, netns, ref segment, ref comments } = packet;
        let interface = self.interface(netns, segment.ifindex, out);
        let Packet { bytes, original_len } = Packet::of(segment);
        let direction = segment.direction;
        EnhancedPacket { interface, time, bytes: &bytes, original_len, direction, comments }.write(out);
    }

    /// The number of an interface in this section, after it was described to `out`.
    fn interface(&mut self, netns: u32, ifindex: u32, out: &mut Vec<u8>) -> u32 {
        if let Some(number) = self.interfaces.get(&(netns, ifindex)) {
            return *number;
        }
        if self.interfaces.len() >= MAX_INTERFACES {
            Self::begin(out);
            self.interfaces.clear();
        }
        let name = (self.interface_name)(netns, ifindex);
        Interface {
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

    /// What the log says of an event, without the time.
    fn comments(&mut self, event: &Event) -> Vec<String> {
        let mut line = Vec::new();
        // A vector takes any bytes.
        let _ = self.text.write(event, &mut line);
        let line = String::from_utf8_lossy(line.trim_ascii_end());
        if line.is_empty() { Vec::new() } else { vec![line.into_owned()] }
    }

    /// Notes an outcome, after the transition that it means.
    fn conclude(
        &mut self,
        cause: Cause,
        ends: (SocketAddr, SocketAddr),
        time: Time,
        mut comments: Vec<String>,
    ) {
        let is_part = |transition: &mut Transition| {
            let change = &transition.change;
            transition.time == time && (change.local, change.remote) == (ends.0, Some(ends.1))
        };
        let mut evidence = Evidence::Kernel;
        if let Some(transition) = self.transition.take_if(is_part) {
            evidence = transition.change.evidence;
            comments.splice(0..0, transition.comments);
        }
        self.settle();
        self.note(evidence, cause, ends, time, comments);
    }

    /// Notes the transition before, which was nothing more than that.
    fn settle(&mut self) {
        if let Some(Transition { time, change, comments }) = self.transition.take()
            && let Some(remote) = change.remote
        {
            let cause = cause_of_transition(change.to);
            self.note(change.evidence, cause, (change.local, remote), time, comments);
        }
    }

    fn note(
        &mut self,
        evidence: Evidence,
        cause: Cause,
        ends: (SocketAddr, SocketAddr),
        time: Time,
        comments: Vec<String>,
    ) {
        match evidence {
            Evidence::Kernel => self.held.note(cause, ends, time, comments),
            // It was told right after the segment.
            Evidence::Segment => self.held.note(Cause::Last, ends, time, comments),
            Evidence::Timer => {}
        }
    }
}

/// Whether something is to be said of the segment itself that its header does not show.
const fn is_remarkable(segment: &Segment) -> bool {
    segment.retransmission || segment.unexpected.is_some()
}

const fn cause_of_transition(to: TcpState) -> Cause {
    match to {
        TcpState::SynSent => Cause::Next(Step::Syn),
        TcpState::FinWait1 | TcpState::LastAck => Cause::Next(Step::Fin),
        TcpState::SynRecv
        | TcpState::NewSynRecv
        | TcpState::Established
        | TcpState::FinWait2
        | TcpState::Closing
        | TcpState::TimeWait
        | TcpState::CloseWait => Cause::Received,
        TcpState::Close | TcpState::Listen => Cause::Last,
    }
}

const fn cause_of_handshake(handshake: &Handshake) -> Cause {
    match handshake.result {
        Ok(()) => Cause::Received,
        // A RST, an ICMP error or a call.
        Err(_) => Cause::Last,
    }
}

const fn cause_of_end(closed_by: ClosedBy) -> Cause {
    match closed_by {
        ClosedBy::Local | ClosedBy::Remote | ClosedBy::Both | ClosedBy::RemoteReset => Cause::Received,
        ClosedBy::LocalReset | ClosedBy::Killed => Cause::Reset,
        ClosedBy::TimedOut => Cause::Last,
    }
}

/// Data that is sent again is not recorded.
const fn step_of(kind: RetransmitKind) -> Option<Step> {
    match kind {
        RetransmitKind::Syn => Some(Step::Syn),
        RetransmitKind::SynAck => Some(Step::SynAck),
        RetransmitKind::Fin => Some(Step::Fin),
        RetransmitKind::Data => None,
    }
}

/// IPv4 or IPv6, nothing before it.
const LINKTYPE_RAW: u16 = 101;
/// As many as readers allow in a section; then the next one begins. Containers come and go.
const MAX_INTERFACES: usize = 1 << 16;

#[cfg(test)]
mod tests;
