//! Handshakes that fail at a server before there is a socket: what the kernel programs have noted of them, and what only
//! time can tell.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aya::maps::{HashMap, MapData, MapError, PerCpuArray};
use rustix::time::{ClockId, clock_gettime};
use tcp_monitor_common::{
    TcpState,
    counters::{HandshakeFailure, PortCounters},
    half_open::{AT_ONCE, Arrivals, Fate, HalfOpen, Undecided},
    record::{ResetPhase, Role},
};

/// The half-open requests, and the segments whose fate is not counted yet.
pub(super) struct Requests {
    half_open: Mutex<HashMap<MapData, u64, HalfOpen>>,
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
    /// RSTs that ended them.
    resets: u64,
}

impl Requests {
    pub(super) fn new(
        half_open: HashMap<MapData, u64, HalfOpen>,
        arrivals: PerCpuArray<MapData, Arrivals>,
    ) -> Self {
        Self { half_open: Mutex::new(half_open), arrivals, given_up: Mutex::default() }
    }

    /// Counts, and forgets, the requests that the kernel has given up by now. It tells of none of them; but a request
    /// whose SYN-ACK was not sent again when it should have been is gone.
    pub(super) fn expire(&self) -> Result<(), MapError> {
        let now = now();
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
            // If it is gone it has just been answered after all, and was counted as what it came to.
            if half_open.remove(&cookie).is_ok() {
                given_up.entry(request.slot).or_default().add(&request);
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
            let mut more = PortCounters::ZERO;
            if undecided.fate == Fate::AckRefused as u32 {
                more.transitions[TcpState::NewSynRecv as usize][TcpState::Close as usize] = 1;
            }
            let failures = &mut more.handshake_failures[Role::Server as usize];
            match Fate::from_number(undecided.fate) {
                Some(Fate::SynOverflowed | Fate::AckRefused) => {
                    failures[HandshakeFailure::AcceptQueueFull as usize] = 1;
                    more.accept_queue_overflows = 1;
                }
                Some(Fate::SynDropped) => failures[HandshakeFailure::SynDropped as usize] = 1,
                Some(Fate::AckOverflowed) => more.accept_queue_overflows = 1,
                Some(Fate::NoListener | Fate::SynTaken) | None => {}
            }
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
        let now = now();
        let arrivals = self.arrivals.get(&0, 0)?;
        Ok(arrivals
            .iter()
            .flat_map(|arrivals| arrivals.undecided)
            .filter(|undecided| undecided.fate != 0 && now.saturating_sub(undecided.time) > AT_ONCE)
            .collect())
    }
}

impl GivenUp {
    fn add(&mut self, request: &HalfOpen) {
        // After the RST its SYN-ACK was not sent again.
        let was_reset = request.doubted > request.answered;
        self.resets += u64::from(was_reset);
        if request.overflowed != 0 {
            self.overflowed += 1;
        } else if was_reset {
            self.reset += 1;
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
        counters.resets_received[ResetPhase::Handshake as usize] = self.resets;
        counters.transitions[TcpState::NewSynRecv as usize][TcpState::Close as usize] =
            self.timed_out + self.overflowed + self.reset;
        counters
    }
}

/// When a request is certainly gone: it was to be answered again, or given up, at twice the pause each time (kernel:
/// `reqsk_timer_handler`).
fn deadline(request: &HalfOpen) -> u64 {
    let pause = FIRST_TIMEOUT.saturating_mul(1 << request.retransmits.min(31)).min(LONGEST_TIMEOUT);
    request.answered.saturating_add(nanoseconds(pause + PATIENCE))
}

/// `CLOCK_MONOTONIC`, nanoseconds.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec.cast_unsigned())
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Kernel: `TCP_TIMEOUT_INIT`.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
/// Kernel: `TCP_RTO_MAX`.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(120);
/// How late a timer of the kernel may be.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the counters are read for one that nothing changed in between.
const TRIES: usize = 4;

#[cfg(test)]
mod tests {
    use super::deadline;
    use tcp_monitor_common::half_open::HalfOpen;

    #[test]
    fn a_request_is_gone_when_its_syn_ack_should_have_been_sent_again() {
        let after =
            |retransmits| deadline(&HalfOpen { answered: 5_000_000_000, retransmits, ..HalfOpen::default() });
        assert_eq!([after(0), after(1), after(5)], [8_000_000_000, 9_000_000_000, 39_000_000_000]);
        assert_eq!([after(7), after(255)], [127_000_000_000; 2]);
    }
}
