//! How long an end of a connection spent in each state.

use std::time::Duration;

use tcp_monitor_common::TcpState;

/// Nanoseconds, of the first states in which any time was spent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    states: [Option<TcpState>; MAX_STATES],
    nanos: [u64; MAX_STATES],
}

impl Spent {
    pub(super) fn add(&mut self, state: TcpState, spent: Duration) {
        let place = self.states.iter().position(|known| known.is_none_or(|known| known == state));
        if let Some(place) = place.filter(|_| !spent.is_zero()) {
            let nanos = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
            self.states[place] = Some(state);
            self.nanos[place] = self.nanos[place].saturating_add(nanos);
        }
    }

    /// The states in which any time was spent, in the order of [`TcpState::ALL`].
    pub(super) fn states(&self) -> Vec<(TcpState, Duration)> {
        let spent_in = |state| self.states.iter().position(|known| *known == Some(state));
        let states = TcpState::ALL.into_iter().filter_map(|state| Some((state, spent_in(state)?)));
        states.map(|(state, place)| (state, Duration::from_nanos(self.nanos[place]))).collect()
    }
}

/// No connection passes through more: SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT1, then FIN_WAIT2 or CLOSING, TIME_WAIT.
const MAX_STATES: usize = 6;

#[cfg(test)]
mod tests {
    use super::{Duration, MAX_STATES, Spent, TcpState};

    #[test]
    fn times_add_up_and_states_are_in_order() {
        let mut spent = Spent::default();
        let [short, long] = [3, 5].map(Duration::from_nanos);
        for state in [TcpState::SynSent, TcpState::Established, TcpState::SynSent] {
            spent.add(state, short);
        }
        spent.add(TcpState::FinWait1, Duration::ZERO);
        spent.add(TcpState::SynRecv, long);
        let expected =
            [(TcpState::Established, short), (TcpState::SynSent, 2 * short), (TcpState::SynRecv, long)];
        assert_eq!(spent.states(), expected);
    }

    #[test]
    fn nonsense_does_not_overflow() {
        let mut spent = Spent::default();
        for state in TcpState::ALL {
            spent.add(state, Duration::MAX);
        }
        assert_eq!(spent.states().len(), MAX_STATES);
    }
}
