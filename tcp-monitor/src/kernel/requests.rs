//! Handshakes that fail at a server before there is a socket: pending segments of the kernel
//! programs that no reaction followed, and half-open requests that time out.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aya::maps::{HashMap, MapData, MapError, PerCpuArray};
use tcp_monitor_common::{
    TcpState,
    abi::half_open::{HalfOpen, PendingSegment, PendingSegments, REACTION_TIME},
    counters::{HandshakeFailure, PortCounters},
    record::{ResetPhase, Role},
    rules::segment_outcome::SegmentOutcome,
};

use crate::clock;

/// The half-open requests, and the segments whose outcome is not counted yet.
pub(super) struct Requests {
    half_open: Mutex<HashMap<MapData, u64, HalfOpen>>,
    /// When listeners closed, by their address.
    closed_listeners: HashMap<MapData, u64, u64>,
    pending: PerCpuArray<MapData, PendingSegments>,
    /// By the counters of their port.
    given_up: Mutex<BTreeMap<u32, GivenUp>>,
}

/// Requests whose end nothing reported.
#[derive(Clone, Copy, Default)]
struct GivenUp {
    timed_out: u64,
    overflowed: u64,
    reset: u64,
    /// Their listeners closed.
    aborted: u64,
    /// RSTs that ended them.
    resets: u64,
}

impl Requests {
    pub(super) fn new(
        half_open: HashMap<MapData, u64, HalfOpen>,
        closed_listeners: HashMap<MapData, u64, u64>,
        pending: PerCpuArray<MapData, PendingSegments>,
    ) -> Self {
        Self { half_open: Mutex::new(half_open), closed_listeners, pending, given_up: Mutex::default() }
    }

    /// Counts, and removes, the requests that the kernel has given up by now. It reports none of
    /// them; but a request whose SYN-ACK was not retransmitted when it should have been is gone.
    pub(super) fn expire(&self) -> Result<(), MapError> {
        let now = clock::now().as_nanos();
        let pending = self.without_reaction()?;
        let mut half_open = self.half_open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut overdue = Vec::new();
        for entry in half_open.iter() {
            let (cookie, request) = entry?;
            if now > deadline(&request) {
                overdue.push((cookie, request));
            }
        }
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        for (cookie, request) in overdue {
            // The programs count it with the CPU's next segment; until then it is added.
            if pending.iter().any(|segment| segment.is_refused_ack_of(cookie)) {
                continue;
            }
            let listener_closed = match self.closed_listeners.get(&request.listener, 0) {
                Ok(time) => Some(time),
                Err(MapError::KeyNotFound) => None,
                Err(error) => return Err(error),
            };
            // If it is gone, it has just been answered after all, and was counted so.
            if half_open.remove(&cookie).is_ok() {
                given_up.entry(request.slot).or_default().add(&request, listener_closed);
            }
        }
        Ok(())
    }

    /// Reads the counters with `read` and adds what is not in them: to those of each slot, by
    /// `add`.
    pub(super) fn complete<T>(
        &self,
        read: impl Fn() -> Result<T, MapError>,
        mut add: impl FnMut(&mut T, u32, &PortCounters),
    ) -> Result<T, MapError> {
        let (mut counters, pending) = self.read_with_pending(read)?;
        for segment in pending {
            let more = SegmentOutcome::from_number(segment.outcome).map_or(PortCounters::ZERO, counters_of);
            add(&mut counters, segment.slot, &more);
        }
        for (slot, given_up) in &*self.given_up.lock().unwrap_or_else(PoisonError::into_inner) {
            add(&mut counters, *slot, &given_up.counters());
        }
        Ok(counters)
    }

    /// The counters, and the segments that are not in them. A CPU commits a segment to them at any
    /// time: what is read must not miss it in both, or a counter would go down.
    fn read_with_pending<T>(
        &self,
        read: impl Fn() -> Result<T, MapError>,
    ) -> Result<(T, Vec<PendingSegment>), MapError> {
        for _ in 0..TRIES {
            let before = self.without_reaction()?;
            let counters = read()?;
            if self.without_reaction()? == before {
                return Ok((counters, before));
            }
        }
        // Segments come so fast that a few do not show.
        Ok((read()?, Vec::new()))
    }

    /// The segments that no reaction followed in time.
    fn without_reaction(&self) -> Result<Vec<PendingSegment>, MapError> {
        let now = clock::now().as_nanos();
        let pending = self.pending.get(&0, 0)?;
        Ok(pending
            .iter()
            .flat_map(|pending| pending.segments)
            .filter(|segment| segment.outcome != 0 && now.saturating_sub(segment.time) > REACTION_TIME)
            .collect())
    }
}

impl GivenUp {
    fn add(&mut self, request: &HalfOpen, listener_closed: Option<u64>) {
        // After the RST its SYN-ACK was not retransmitted.
        let was_reset = request.rst_at > request.syn_ack_at;
        self.resets += u64::from(was_reset);
        if request.overflowed != 0 {
            self.overflowed += 1;
        } else if was_reset {
            self.reset += 1;
        } else if listener_closed.is_some_and(|time| (request.syn_ack_at..due(request)).contains(&time)) {
            self.aborted += 1;
        } else {
            self.timed_out += 1;
        }
    }

    fn counters(&self) -> PortCounters {
        let mut counters = PortCounters::ZERO;
        let failures = &mut counters.handshake_failures[Role::Server as usize];
        failures[HandshakeFailure::TimedOut as usize] = self.timed_out;
        failures[HandshakeFailure::AcceptQueueFull as usize] = self.overflowed;
        failures[HandshakeFailure::Reset as usize] = self.reset;
        failures[HandshakeFailure::Aborted as usize] = self.aborted;
        counters.resets_received[ResetPhase::Handshake as usize] = self.resets;
        counters.transitions[TcpState::NewSynRecv as usize][TcpState::Close as usize] =
            self.timed_out + self.overflowed + self.reset + self.aborted;
        counters
    }
}

/// What an outcome that no reaction cancelled counts as; the programs add the same when they commit
/// it.
fn counters_of(outcome: SegmentOutcome) -> PortCounters {
    let mut counters = PortCounters::ZERO;
    counters.accept_queue_overflows = outcome.overflows_accept_queue().into();
    if let Some(reason) = outcome.handshake_failure() {
        counters.handshake_failures[Role::Server as usize][reason as usize] = 1;
    }
    if let Some(phase) = outcome.reset_received() {
        counters.resets_received[phase as usize] = 1;
    }
    if outcome.ends_request() {
        counters.transitions[TcpState::NewSynRecv as usize][TcpState::Close as usize] = 1;
    }
    counters
}

/// When a request is certainly gone: its SYN-ACK should have been retransmitted by then, however
/// late the timers were.
fn deadline(request: &HalfOpen) -> u64 {
    let pause = pause(request);
    request.syn_ack_at.saturating_add(nanoseconds(pause + pause / TIMER_SLACK + PATIENCE))
}

/// When a request's SYN-ACK is to be retransmitted, or the request given up.
fn due(request: &HalfOpen) -> u64 {
    request.syn_ack_at.saturating_add(nanoseconds(pause(request)))
}

/// How long a request's SYN-ACK is not retransmitted: until its timer expires, which takes twice as
/// long each time, and once more as often as the listener defers (kernel: `reqsk_timer_handler`,
/// `syn_ack_recalc`).
fn pause(request: &HalfOpen) -> Duration {
    let last = request.deferral.saturating_sub(1).max(request.timeouts);
    (request.timeouts..=last)
        .map(|timeouts| FIRST_TIMEOUT.saturating_mul(1 << timeouts.min(31)).min(LONGEST_TIMEOUT))
        .sum()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Kernel: `TCP_TIMEOUT_INIT`.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
/// Kernel: `TCP_RTO_MAX`.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(120);
/// A timer of the kernel may be late by so small a part of its time (kernel/time/timer.c),
const TIMER_SLACK: u32 = 8;
/// and by what else holds up a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the counters are read for one that nothing changed in between.
const TRIES: usize = 4;

#[cfg(test)]
mod tests {
    use tcp_monitor_common::{
        TcpState,
        abi::half_open::HalfOpen,
        counters::{HandshakeFailure, PortCounters},
        record::{ResetPhase, Role},
        rules::segment_outcome::SegmentOutcome,
        words::Words as _,
    };

    use super::{GivenUp, counters_of, deadline, due};

    const CLOSED: (usize, usize) = (TcpState::NewSynRecv as usize, TcpState::Close as usize);

    /// What was counted: overflows, failures of servers, received RSTs, ends of requests; and how
    /// much in all.
    fn counted(counters: &PortCounters) -> (u64, [u64; 5], [u64; 4], u64, u64) {
        let failures = [
            HandshakeFailure::AcceptQueueFull,
            HandshakeFailure::SynDropped,
            HandshakeFailure::TimedOut,
            HandshakeFailure::Reset,
            HandshakeFailure::Aborted,
        ];
        let phases = [ResetPhase::Handshake, ResetPhase::Closing, ResetPhase::TimeWait, ResetPhase::NoSocket];
        (
            counters.accept_queue_overflows,
            failures.map(|reason| counters.handshake_failures[Role::Server as usize][reason as usize]),
            phases.map(|phase| counters.resets_received[phase as usize]),
            counters.transitions[CLOSED.0][CLOSED.1],
            counters.words().iter().sum(),
        )
    }

    #[test]
    fn each_outcome_is_added_to_its_counters_and_to_no_other() {
        let none = ([0; 5], [0; 4]);
        let table = [
            (SegmentOutcome::SynOverflow, (1, [1, 0, 0, 0, 0], none.1, 0, 2)),
            (SegmentOutcome::SynDropped, (0, [0, 1, 0, 0, 0], none.1, 0, 1)),
            (SegmentOutcome::AckOverflow, (1, none.0, none.1, 0, 1)),
            (SegmentOutcome::AckRefused, (1, [1, 0, 0, 0, 0], none.1, 1, 3)),
            (SegmentOutcome::NoListener, (0, none.0, none.1, 0, 0)),
            (SegmentOutcome::SynAccepted, (0, none.0, none.1, 0, 0)),
            (SegmentOutcome::RstInFinWait2, (0, none.0, [0, 1, 0, 0], 0, 1)),
            (SegmentOutcome::RstInTimeWait, (0, none.0, [0, 0, 1, 0], 0, 1)),
            (SegmentOutcome::RstNoSocket, (0, none.0, [0, 0, 0, 1], 0, 1)),
        ];
        assert_eq!(table.map(|(outcome, _)| outcome), SegmentOutcome::ALL);
        for (outcome, expected) in table {
            assert_eq!(counted(&counters_of(outcome)), expected, "{outcome:?}");
        }
    }

    #[test]
    fn each_request_that_was_given_up_is_counted_once_by_its_reason() {
        let mut given_up = GivenUp::default();
        let overflowed = HalfOpen { overflowed: 1, ..request(0, 0) };
        let reset = HalfOpen { rst_at: 5_000_000_001, ..request(0, 0) };
        for (times, request, listener_closed) in [
            (1, overflowed, None),
            (2, reset, None),
            (3, request(0, 0), Some(5_500_000_000)),
            (4, request(0, 0), None),
        ] {
            (0..times).for_each(|_| given_up.add(&request, listener_closed));
        }
        assert_eq!(counted(&given_up.counters()), (0, [1, 0, 4, 2, 3], [2, 0, 0, 0], 10, 22));
    }

    #[test]
    fn a_request_is_gone_when_its_syn_ack_should_have_been_retransmitted() {
        let after = |timeouts| deadline(&request(timeouts, 0));
        assert_eq!([after(0), after(1), after(5)], [8_125_000_000, 9_250_000_000, 43_000_000_000]);
        assert_eq!([after(7), after(255)], [142_000_000_000; 2]);
    }

    #[test]
    fn a_listener_that_defers_does_not_send_the_syn_ack_until_its_time_is_over() {
        // 1 + 2 + 4 s, 2 + 4 s; then as always.
        let after = |timeouts, deferral| due(&request(timeouts, deferral));
        assert_eq!([after(0, 3), after(1, 3)], [12_000_000_000, 11_000_000_000]);
        assert_eq!([after(2, 3), after(3, 3), after(3, 0)], [9_000_000_000, 13_000_000_000, 13_000_000_000]);
        // 1 to 64 s, and the longest for the rest.
        assert_eq!(after(0, 255), (5 + 127 + (255 - 7) * 120) * 1_000_000_000);
    }

    #[test]
    fn a_request_is_aborted_if_its_listener_closed_while_it_waited() {
        let counted = |listener_closed| {
            let mut given_up = GivenUp::default();
            given_up.add(&request(0, 0), listener_closed);
            (given_up.aborted, given_up.timed_out)
        };
        assert_eq!(counted(Some(5_500_000_000)), (1, 0));
        // The address was another listener's before, or the request had timed out.
        assert_eq!([None, Some(4_999_999_999), Some(6_500_000_000)].map(counted), [(0, 1); 3]);
    }

    /// Answered at 5 s.
    fn request(timeouts: u8, deferral: u8) -> HalfOpen {
        HalfOpen { syn_ack_at: 5_000_000_000, timeouts, deferral, ..HalfOpen::default() }
    }
}
