//! How long an end of a connection was in each state.

use std::time::Duration;

use tcp_monitor_common::TcpState;

/// For how long each of the first states lasted in which any time passed: nanoseconds, and in the
/// highest eight bits the state.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TimeInStates([u64; MAX_STATES]);

impl TimeInStates {
    pub(super) fn add(&mut self, state: TcpState, duration: Duration) {
        let is_of = |known: &&mut u64| **known == 0 || **known >> NANOS_BITS == state as u64;
        let known = self.0.iter_mut().find(is_of);
        if let Some(known) = known.filter(|_| !duration.is_zero()) {
            let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
            let sum = nanos.saturating_add(*known & MAX_NANOS).min(MAX_NANOS);
            *known = (state as u64) << NANOS_BITS | sum;
        }
    }

    /// The states in which any time passed, in the order of [`TcpState::ALL`].
    pub(super) fn states(&self) -> Vec<(TcpState, Duration)> {
        let time_in = |state| self.0.iter().find(|known| **known >> NANOS_BITS == state as u64);
        let states = TcpState::ALL.into_iter().filter_map(|state| Some((state, *time_in(state)?)));
        states.map(|(state, known)| (state, Duration::from_nanos(known & MAX_NANOS))).collect()
    }
}

/// Two years and three months.
const NANOS_BITS: u32 = 56;
const MAX_NANOS: u64 = (1 << NANOS_BITS) - 1;
/// No end passes through more until it is over: SYN_SENT, SYN_RECV, ESTABLISHED, then FIN_WAIT1 and
/// FIN_WAIT2 or CLOSING, or CLOSE_WAIT and LAST_ACK. What it spends in TIME_WAIT follows on its
/// summary.
const MAX_STATES: usize = 5;

#[cfg(test)]
mod tests {
    use super::{Duration, MAX_STATES, TcpState, TimeInStates};

    #[test]
    fn times_add_up_and_states_are_in_order() {
        let mut durations = TimeInStates::default();
        let [short, long] = [3, 5].map(Duration::from_nanos);
        for state in [TcpState::SynSent, TcpState::Established, TcpState::SynSent] {
            durations.add(state, short);
        }
        durations.add(TcpState::FinWait1, Duration::ZERO);
        durations.add(TcpState::SynRecv, long);
        let expected =
            [(TcpState::Established, short), (TcpState::SynSent, 2 * short), (TcpState::SynRecv, long)];
        assert_eq!(durations.states(), expected);
    }

    #[test]
    fn nonsense_does_not_overflow() {
        let mut durations = TimeInStates::default();
        for state in TcpState::ALL {
            durations.add(state, Duration::MAX);
        }
        assert_eq!(durations.states().len(), MAX_STATES);
    }
}
