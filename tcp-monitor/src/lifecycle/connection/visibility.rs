//! Where the ends of a connection are, as the observations of their segments show, and which ends
//! are reported from segments where plain data and acknowledgments are not seen: on a running
//! agent.
//!
//! There the kernel reports every socket. What it leaves out is a half-open request, and what has
//! no socket here: a connection that passes through. The peer of a socket here is not reported: its
//! states mirror those of the socket.

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::{Direction, Role};

use super::endpoint::Endpoint;
use super::inference::Inference;
use crate::lifecycle::dedup::{Observation, Transmission};
use crate::lifecycle::input::SegmentInput;

/// What the observations of a connection's segments show.
#[derive(Debug)]
pub(in crate::lifecycle) struct Visibility {
    /// Data and all acknowledgments are seen, wherever the ends are.
    pub(in crate::lifecycle) sees_all_segments: bool,
    /// Where each end is, in the order of the tuple, and the network namespace that sees its
    /// segments first.
    ends: [Option<(Location, u32)>; 2],
    /// Segments come into a network namespace and leave it again.
    is_forwarded: bool,
    /// No end answered; it does not matter any more where the other end is.
    pub(in crate::lifecycle) is_given_up: bool,
}

/// Where an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Location {
    /// In a network namespace of this host: its segments were first seen on their way out.
    Here,
    /// Its segments come in.
    Elsewhere,
}

impl Visibility {
    pub(in crate::lifecycle) const fn new(sees_all_segments: bool) -> Self {
        Self { sees_all_segments, ends: [None; 2], is_forwarded: false, is_given_up: false }
    }

    /// A segment of the end `from` was seen.
    pub(in crate::lifecycle) fn note(&mut self, from: usize, segment: &SegmentInput, seen: &Observation) {
        self.is_forwarded |= seen.is_forwarded;
        let location = match segment.direction {
            Some(Direction::Egress) => Location::Here,
            Some(Direction::Ingress) => Location::Elsewhere,
            None => return,
        };
        if seen.transmission != Transmission::Duplicate {
            self.ends[from].get_or_insert((location, segment.netns));
        }
    }

    /// The end `end` was found elsewhere, though its segments leave this namespace with the
    /// addresses of this connection: they are translated.
    pub(in crate::lifecycle) fn find_translated(&mut self, end: usize, netns: u32) {
        self.ends[end] = Some((Location::Elsewhere, netns));
        self.is_forwarded = true;
    }

    /// An end is known to be on another host.
    fn is_elsewhere(&self, end: usize) -> bool {
        matches!(self.ends[end], Some((Location::Elsewhere, _)))
    }

    pub(in crate::lifecycle) fn is_here(&self, end: usize) -> bool {
        matches!(self.ends[end], Some((Location::Here, _)))
    }

    /// The network namespace that sees the segments of an end first.
    pub(in crate::lifecycle) fn netns(&self, end: usize) -> Option<u32> {
        self.ends[end].map(|(_, netns)| netns)
    }

    /// Neither end is here, and segments that come in go on.
    fn passes_through(&self) -> bool {
        let is_elsewhere = |end: &Option<(Location, u32)>| match end {
            Some((location, _)) => *location == Location::Elsewhere,
            None => self.is_given_up,
        };
        self.is_forwarded && self.ends.iter().all(is_elsewhere)
    }
}

impl Inference {
    /// Whether what happens to an end is reported from segments.
    pub(in crate::lifecycle) fn is_reported_here(&self, end: usize, ends: &[Endpoint; 2]) -> bool {
        let life = &ends[end].life;
        let is_half_open = self.visibility.is_here(end)
            && life.role == Role::Server
            && matches!(life.state(), TcpState::SynRecv | TcpState::NewSynRecv);
        // What was begun is reported to its end.
        !life.is_reported_by_kernel()
            && (life.has_reports || self.is_all_seen_or_passes(ends) || is_half_open)
    }

    /// Whether the kernel reports nothing at all of an end: neither its RSTs nor its
    /// retransmissions.
    pub(in crate::lifecycle) fn is_reported_here_alone(&self, end: usize, ends: &[Endpoint; 2]) -> bool {
        !ends[end].life.is_reported_by_kernel() && self.is_all_seen_or_passes(ends)
    }

    /// Whether an answer to the SYN-ACK of an end proves nothing yet. A server here may drop it,
    /// for want of room in its accept queue; if it does not, the kernel reports the new socket.
    pub(in crate::lifecycle) fn awaits_kernel(&self, end: usize, ends: &[Endpoint; 2]) -> bool {
        let life = &ends[end].life;
        self.visibility.is_here(end)
            && !self.is_all_seen_or_passes(ends)
            && life.role == Role::Server
            && matches!(life.state(), TcpState::SynRecv | TcpState::NewSynRecv)
    }

    /// Whether there is anything to report of the connection, now or later.
    pub(in crate::lifecycle) fn matters(&self, ends: &[Endpoint; 2]) -> bool {
        let is_begun = ends.iter().any(|end| end.life.has_reports && !end.life.is_reported_by_kernel());
        let is_opening = ends.iter().any(|end| {
            matches!(end.life.state(), TcpState::SynSent | TcpState::SynRecv | TcpState::NewSynRecv)
        });
        let may_pass = !ends.iter().any(|end| end.life.is_reported_by_kernel())
            && ![0, 1].into_iter().any(|end| self.visibility.is_here(end))
            && (self.visibility.is_forwarded || is_opening);
        self.visibility.sees_all_segments || is_begun || may_pass
    }

    /// Whether nothing is to report of this connection any more: the kernel reports one end, and
    /// the other is reported too, or on another host.
    pub(in crate::lifecycle) fn is_settled(&self, ends: &[Endpoint; 2]) -> bool {
        let is_reported = |end: usize| ends[end].life.is_reported_by_kernel();
        let is_settled = |end: usize| is_reported(end) || self.visibility.is_elsewhere(end);
        !self.matters(ends) && (is_reported(0) || is_reported(1)) && is_settled(0) && is_settled(1)
    }

    fn is_all_seen_or_passes(&self, ends: &[Endpoint; 2]) -> bool {
        let is_kernels = || ends.iter().any(|end| end.life.is_reported_by_kernel());
        self.visibility.sees_all_segments || self.visibility.passes_through() && !is_kernels()
    }
}
