//! The summary: packets, connections, and what was skipped.

use std::fmt;

use tcp_monitor_common::record::Role;

use crate::capture::{Capture, Statistics};
use crate::clock::WallClock;
use crate::lifecycle::event::{ClosedBy, EventKind};
use crate::lifecycle::{Event, Time, Tracker};
use crate::output::Period;

/// The result of reading.
#[derive(Debug, Default)]
pub(super) struct Summary {
    statistics: Statistics,
    /// The earliest and the latest time of all packets.
    times: Option<(Time, Time)>,
    connections: Results,
    /// Evictions of the tracker.
    evicted: u64,
}

/// The results of connections, as their clients' ends report them.
#[derive(Debug, Default)]
struct Results {
    closed: u64,
    reset: u64,
    timed_out: u64,
    failed: u64,
    half_open: u64,
    open: u64,
}

impl Summary {
    /// Adds the packets of a capture.
    pub(super) fn add_packets(&mut self, capture: &Capture) {
        self.statistics.add(capture.statistics());
        if let Some((earliest, latest)) = capture.times() {
            let (first, last) = self.times.unwrap_or((earliest, latest));
            self.times = Some((first.min(earliest), last.max(latest)));
        }
    }

    /// There was no packet.
    pub(super) fn is_empty(&self) -> bool {
        self.statistics.packets == 0
    }

    /// Adds the result of a connection, if `event` is that.
    pub(super) fn add_event(&mut self, event: &Event) {
        let count = match &event.kind {
            EventKind::Handshake(handshake)
                if handshake.role == Role::Client && handshake.result.is_err() =>
            {
                &mut self.connections.failed
            }
            EventKind::Closed(closed) if closed.role == Role::Client => match closed.closed_by {
                ClosedBy::Local | ClosedBy::Remote | ClosedBy::Both => &mut self.connections.closed,
                ClosedBy::LocalReset | ClosedBy::RemoteReset | ClosedBy::Killed => {
                    &mut self.connections.reset
                }
                ClosedBy::TimedOut => &mut self.connections.timed_out,
            },
            EventKind::Handshake(_)
            | EventKind::Closed(_)
            | EventKind::Segment(_)
            | EventKind::State(_)
            | EventKind::Reset(_)
            | EventKind::Retransmit(_)
            | EventKind::Stuck(_)
            | EventKind::Lost(_) => return,
        };
        *count += 1;
    }

    /// Adds the connections that are left in a tracker at the end.
    pub(super) fn add_rest(&mut self, tracker: &Tracker) {
        let unfinished = tracker.unfinished();
        self.connections.half_open += unfinished.half_open;
        self.connections.open += unfinished.open;
        self.evicted += tracker.evicted();
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Statistics { packets, tcp, .. } = self.statistics;
        write!(f, "read {packets} packets, {tcp} of them TCP segments")?;
        if let Some((first, last)) = self.times {
            let clock = WallClock::of_capture();
            write!(f, " · {}", Period { first: clock.at(first), last: clock.at(last) })?;
        }
        let skipped = self.skipped();
        if !skipped.is_empty() {
            write!(f, "\nskipped: {}", skipped.join(" · "))?;
        }
        write!(f, "\n{}", self.connections)?;
        if self.evicted > 0 {
            write!(
                f,
                "\n{} tracker evictions: there were more connections at once than --max-connections",
                self.evicted
            )?;
        }
        Ok(())
    }
}

impl Summary {
    /// Why packets were skipped, and how many.
    fn skipped(&self) -> Vec<String> {
        let Statistics {
            packets: _,
            tcp: _,
            not_tcp,
            later_fragments,
            truncated,
            malformed,
            unknown_link,
            untimed,
        } = &self.statistics;
        let of_links =
            unknown_link.iter().map(|(link, count)| (*count, format!("of {link}, which is not supported")));
        let reasons = [
            (*not_tcp, "not TCP"),
            (*later_fragments, "later fragments"),
            (*truncated, "truncated by the snap length before the end of the TCP header"),
            (*malformed, "malformed"),
        ];
        let reasons = reasons.map(|(count, reason)| (count, reason.to_owned()));
        let mut phrases: Vec<_> = reasons
            .into_iter()
            .chain(of_links)
            .filter(|(count, _)| *count > 0)
            .map(|(count, reason)| format!("{count} {reason}"))
            .collect();
        if *untimed > 0 {
            phrases.push(format!("the times of {untimed} segments, which the file lacks"));
        }
        phrases
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { closed, reset, timed_out, failed, half_open, open } = *self;
        let kinds = [
            (closed, "closed"),
            (reset, "reset"),
            (timed_out, "timed out"),
            (failed, "failed"),
            (half_open, "half-open at the end"),
            (open, "open at the end"),
        ];
        let total: u64 = kinds.iter().map(|(count, _)| count).sum();
        write!(f, "{total} {}", if total == 1 { "connection" } else { "connections" })?;
        let mut separator = ": ";
        for (count, kind) in kinds.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{separator}{count} {kind}")?;
            separator = " · ";
        }
        Ok(())
    }
}
