//! Handshakes that fail at a server before there is a socket: what the kernel programs have noted of them, and what only
//! time can tell.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aya::maps::{HashMap, MapData, MapError, PerCpuArray};
use tcp_monitor_common::{
    TcpState,
    abi::half_open::{AT_ONCE, Arrivals, HalfOpen, Undecided},
    counters::{HandshakeFailure, PortCounters},
    record::{ResetPhase, Role},
    rules::segment_outcome::SegmentOutcome,
};

use crate::clock;

/// The half-open requests, and the segments whose fate is not counted yet.
pub(super) struct Requests {
    half_open: Mutex<HashMap<MapData, u64, HalfOpen>>,
    /// When listeners closed, by their address.
    closed_listeners: HashMap<MapData, u64, u64>,
    arrivals: PerCpuArray<MapData, Arrivals>,
    /// By the counters of their port.
    given_up: Mutex<BTreeMap<u32, GivenUp>>,
}

/// Requests that nobody told of the end of.
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
        arrivals: PerCpuArray<MapData, Arrivals>,
    ) -> Self {
        Self { half_open: Mutex::new(half_open), closed_listeners, arrivals, given_up: Mutex::default() }
    }

    /// Counts, and forgets, the requests that the kernel has given up by now. It tells of none of them; but a request
    /// whose SYN-ACK was not sent again when it should have been is gone.
    pub(super) fn expire(&self) -> Result<(), MapError> {
        let now = clock::now().as_nanos();
        let undecided = self.undecided()?;
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
            // The programs count it when the CPU gets to the next segment, or it is added until then.
            if undecided.iter().any(|undecided| undecided.is_refused_ack_of(cookie)) {
                continue;
            }
            let listener_closed = match self.closed_listeners.get(&request.listener, 0) {
                Ok(time) => Some(time),
                Err(MapError::KeyNotFound) => None,
                Err(error) => return Err(error),
            };
            // If it is gone it has just been answered after all, and was counted as what it came to.
            if half_open.remove(&cookie).is_ok() {
                given_up.entry(request.slot).or_default().add(&request, listener_closed);
            }
        }
        Ok(())
    }

    /// Reads the counters with `read` and adds what is not in them: to those of each slot, by `add`.
    pub(super) fn complete<T>(
        &self,
        read: impl Fn() -> Result<T, MapError>,
        mut add: impl FnMut(&mut T, u32, &PortCounters),
    ) -> Result<T, MapError> {
        let (mut counters, undecided) = self.read_with_undecided(read)?;
        for undecided in undecided {
            let more = SegmentOutcome::from_number(undecided.fate).map_or(PortCounters::ZERO, counters_of);
            add(&mut counters, undecided.slot, &more);
        }
        for (slot, given_up) in &*self.given_up.lock().unwrap_or_else(PoisonError::into_inner) {
            add(&mut counters, *slot, &given_up.counters());
        }
        Ok(counters)
    }

    /// The counters, and the segments that are not in them. Each CPU puts one there when the next comes: what is read must
    /// not miss it in both, or a counter would go down.
    fn read_with_undecided<T>(
        &self,
        read: impl Fn() -> Result<T, MapError>,
    ) -> Result<(T, Vec<Undecided>), MapError> {
        for _ in 0..TRIES {
            let before = self.undecided()?;
            let counters = read()?;
            if self.undecided()? == before {
                return Ok((counters, before));
            }
        }
        // Segments come so fast that a few do not show.
        Ok((read()?, Vec::new()))
    }

    /// The segments from which nothing followed, and will not any more.
    fn undecided(&self) -> Result<Vec<Undecided>, MapError> {
        let now = clock::now().as_nanos();
        let arrivals = self.arrivals.get(&0, 0)?;
        Ok(arrivals
            .iter()
            .flat_map(|arrivals| arrivals.undecided)
            .filter(|undecided| undecided.fate != 0 && now.saturating_sub(undecided.time) > AT_ONCE)
            .collect())
    }
}

impl GivenUp {
    fn add(&mut self, request: &HalfOpen, listener_closed: Option<u64>) {
        // After the RST its SYN-ACK was not sent again.
        let was_reset = request.doubted > request.answered;
        self.resets += u64::from(was_reset);
        if request.overflowed != 0 {
            self.overflowed += 1;
        } else if was_reset {
            self.reset += 1;
        } else if listener_closed.is_some_and(|time| (request.answered..due(request)).contains(&time)) {
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

/// What an outcome that no reaction cancelled counts as; the programs add the same when they commit it.
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

/// When a request is certainly gone: its SYN-ACK should have been sent again by then, however late the timers were.
fn deadline(request: &HalfOpen) -> u64 {
    let pause = pause(request);
    request.answered.saturating_add(nanoseconds(pause + pause / TIMER_SLACK + PATIENCE))
}

/// When a request's SYN-ACK is to be sent again, or the request given up.
fn due(request: &HalfOpen) -> u64 {
    request.answered.saturating_add(nanoseconds(pause(request)))
}

/// How long a request's SYN-ACK is not sent again: until its timer runs out, which takes twice as long each time, and once more as
/// often as the listener defers (kernel: `reqsk_timer_handler`, `syn_ack_recalc`).
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
    use super::{GivenUp, deadline, due};
    use tcp_monitor_common::abi::half_open::HalfOpen;

    #[test]
    fn a_request_is_gone_when_its_syn_ack_should_have_been_sent_again() {
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
        HalfOpen { answered: 5_000_000_000, timeouts, deferral, ..HalfOpen::default() }
    }
}
