//! How long an end of a connection spent in each state.

use std::time::Duration;

use tcp_monitor_common::TcpState;

/// Nanoseconds by state, in the order of [`TcpState::ALL`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent([u64; TcpState::ALL.len()]);

impl Spent {
    pub(super) fn add(&mut self, state: TcpState, spent: Duration) {
        let nanos = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        let total = &mut self.0[state as usize - 1];
        *total = total.saturating_add(nanos);
    }

    /// The states in which any time was spent.
    pub(super) fn states(&self) -> Vec<(TcpState, Duration)> {
        let states = TcpState::ALL.into_iter().zip(self.0.map(Duration::from_nanos));
        states.filter(|(_, spent)| !spent.is_zero()).collect()
    }
}
