//! Ends that nothing tells of: of TIME_WAIT, and of FIN_WAIT2 after close().
//!
//! Whoever has entered a state, has not been seen to leave it and is not among the sockets there are, has left it for CLOSE.

use std::collections::BTreeMap;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::{PortCounters, STATES};

use super::snapshot::PortLabel;
use super::sockets::PortSockets;

/// The sockets there were at one moment, and the counters before and after that: a socket in between was counted to enter at most
/// after, and to leave at least before.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The counters before the sockets were looked at.
    pub before: &'a [(PortLabel, PortCounters)],
    /// The sockets.
    pub sockets: &'a [(PortLabel, PortSockets)],
    /// The counters afterwards.
    pub after: &'a [(PortLabel, PortCounters)],
}

/// The ends that were found so far, by state and port.
#[derive(Debug)]
pub struct Ends([Ledger; SILENT.len()]);

/// The sockets that left one of the states silently.
#[derive(Debug)]
struct Ledger {
    state: TcpState,
    ports: BTreeMap<PortLabel, Account>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// What came in, less what went out and what is there, when counting began: the sockets from before, as a negative number.
    opening: i64,
    /// Ends found since then.
    ended: u64,
}

impl Ends {
    /// Counts from `moment` on.
    ///
    /// Sockets that come or go between its two readings may have done so before the look or after it: of these, an end may be missed,
    /// but none is made up.
    #[must_use]
    pub fn since(moment: Moment<'_>) -> Self {
        Self(SILENT.map(|state| {
            let account = |(label, opening)| (label, Account { opening, ended: 0 });
            let ports = balances(state, moment.after, moment.sockets, moment.before);
            Ledger { state, ports: ports.into_iter().map(account).collect() }
        }))
    }

    /// Finds the ends up to `moment`.
    pub fn update(&mut self, moment: Moment<'_>) {
        for ledger in &mut self.0 {
            ledger.update(balances(ledger.state, moment.before, moment.sockets, moment.after));
        }
    }

    /// Adds them to the counters.
    pub fn add_to(&self, ports: &mut [(PortLabel, PortCounters)]) {
        for (label, counters) in ports {
            for ledger in &self.0 {
                let ended = ledger.ports.get(label).map_or(0, |account| account.ended);
                counters.transitions[ledger.state as usize][TcpState::Close as usize] += ended;
            }
        }
    }
}

impl Ledger {
    /// No port is found to have more ends than there were on all: a socket may be looked at under another port than it was counted
    /// under.
    fn update(&mut self, balances: BTreeMap<PortLabel, i64>) {
        for label in balances.keys() {
            self.ports.entry(*label).or_default();
        }
        let due = |account: &Account, label: &PortLabel| {
            let balance = balances.get(label).copied().unwrap_or(0);
            balance.saturating_sub(account.opening).saturating_sub_unsigned(account.ended)
        };
        let mut left: i64 = self.ports.iter().map(|(label, account)| due(account, label)).sum();
        for (label, account) in &mut self.ports {
            let more = due(account, label).min(left);
            if more > 0 {
                account.ended = account.ended.saturating_add_signed(more);
                left -= more;
            }
        }
    }
}

/// By port: those that `entered` says came in, less those that `left` says went out, less those that are there.
fn balances(
    state: TcpState,
    entered: &[(PortLabel, PortCounters)],
    sockets: &[(PortLabel, PortSockets)],
    left: &[(PortLabel, PortCounters)],
) -> BTreeMap<PortLabel, i64> {
    let mut balances = BTreeMap::new();
    let mut add = |label: PortLabel, count: i64| *balances.entry(label).or_insert(0_i64) += count;
    for (label, counters) in entered {
        let into: u64 = (0..STATES).map(|from| counters.transitions[from][state as usize]).sum();
        add(*label, into.cast_signed());
    }
    for (label, counters) in left {
        let out: u64 = counters.transitions[state as usize].iter().sum();
        add(*label, -out.cast_signed());
    }
    for (label, sockets) in sockets {
        add(*label, -sockets.states[state as usize].cast_signed());
    }
    balances
}

const SILENT: [TcpState; 2] = [TcpState::FinWait2, TcpState::TimeWait];

#[cfg(test)]
mod tests {
    use tcp_monitor_common::TcpState::{self, Close, FinWait1, FinWait2, TimeWait};
    use tcp_monitor_common::counters::PortCounters;

    use super::{Ends, Moment};
    use crate::metrics::{PortLabel, PortSockets};

    const HTTP: PortLabel = PortLabel::Port(80);

    type Counted = (PortLabel, PortCounters);
    type Seen = (PortLabel, PortSockets);

    fn counted(label: PortLabel, transitions: &[(TcpState, TcpState, u64)]) -> Counted {
        let mut counters = PortCounters::ZERO;
        for (from, to, count) in transitions {
            counters.transitions[*from as usize][*to as usize] = *count;
        }
        (label, counters)
    }

    fn seen(label: PortLabel, states: &[(TcpState, u64)]) -> Seen {
        let mut sockets = PortSockets::default();
        for (state, count) in states {
            sockets.states[*state as usize] = *count;
        }
        (label, sockets)
    }

    fn since(sockets: &[Seen]) -> Ends {
        Ends::since(Moment { before: &[], sockets, after: &[] })
    }

    /// Ends up to a moment at which nothing changes.
    fn at_rest(ends: &mut Ends, counters: &[Counted], sockets: &[Seen]) -> Vec<[u64; 2]> {
        ends.update(Moment { before: counters, sockets, after: counters });
        of(ends, counters)
    }

    fn of(ends: &Ends, counters: &[Counted]) -> Vec<[u64; 2]> {
        let mut with_ends = counters.to_vec();
        ends.add_to(&mut with_ends);
        let added = |state: TcpState, index: usize| {
            let [before, after] = [counters, &with_ends]
                .map(|ports| ports[index].1.transitions[state as usize][Close as usize]);
            after - before
        };
        (0..counters.len()).map(|index| [FinWait2, TimeWait].map(|state| added(state, index))).collect()
    }

    #[test]
    fn who_is_not_there_any_more_has_ended() {
        let mut ends = since(&[seen(HTTP, &[(TimeWait, 2), (FinWait2, 1)])]);
        let counters =
            [counted(HTTP, &[(FinWait1, FinWait2, 10), (FinWait2, TimeWait, 7), (FinWait2, Close, 1)])];
        let all = [seen(HTTP, &[(TimeWait, 9), (FinWait2, 3)])];
        assert_eq!(at_rest(&mut ends, &counters, &all), [[0, 0]]);
        let some = [seen(HTTP, &[(TimeWait, 4), (FinWait2, 2)])];
        assert_eq!(at_rest(&mut ends, &counters, &some), [[1, 5]]);
        assert_eq!(at_rest(&mut ends, &counters, &[]), [[3, 9]], "those from before included");
    }

    #[test]
    fn what_changes_while_sockets_are_looked_at_is_no_end() {
        let mut ends = since(&[]);
        let before = [counted(HTTP, &[(FinWait1, FinWait2, 5)])];
        let after = [counted(HTTP, &[(FinWait1, FinWait2, 9), (FinWait2, TimeWait, 5)])];
        for left in 0..=5 {
            let sockets = [seen(HTTP, &[(FinWait2, 5 - left), (TimeWait, left)])];
            ends.update(Moment { before: &before, sockets: &sockets, after: &after });
            assert_eq!(of(&ends, &after), [[0, 0]]);
        }
    }

    #[test]
    fn what_changes_while_counting_begins_is_no_end() {
        let before = [counted(HTTP, &[])];
        let after = [counted(HTTP, &[(FinWait1, FinWait2, 3), (FinWait2, TimeWait, 3)])];
        for seen_in_time_wait in 0..=3 {
            let sockets = [seen(HTTP, &[(TimeWait, seen_in_time_wait)])];
            let mut ends = Ends::since(Moment { before: &before, sockets: &sockets, after: &after });
            let there = [seen(HTTP, &[(TimeWait, 3)])];
            assert_eq!(at_rest(&mut ends, &after, &there), [[0, 0]]);
        }
    }

    #[test]
    fn a_socket_that_is_seen_under_another_port_has_not_ended() {
        let mut ends = since(&[]);
        let counters = [counted(HTTP, &[(FinWait2, TimeWait, 4)]), counted(PortLabel::Other, &[])];
        let elsewhere = [seen(HTTP, &[(TimeWait, 1)]), seen(PortLabel::Other, &[(TimeWait, 3)])];
        assert_eq!(at_rest(&mut ends, &counters, &elsewhere), [[0, 0]; 2]);
        let one_gone = [seen(HTTP, &[(TimeWait, 1)]), seen(PortLabel::Other, &[(TimeWait, 2)])];
        assert_eq!(at_rest(&mut ends, &counters, &one_gone), [[0, 1], [0, 0]]);
        assert_eq!(at_rest(&mut ends, &counters, &[]), [[0, 4], [0, 0]]);
    }

    #[test]
    fn an_end_that_was_found_stays() {
        let mut ends = since(&[]);
        let counters = [counted(HTTP, &[(FinWait2, TimeWait, 4)])];
        assert_eq!(at_rest(&mut ends, &counters, &[seen(HTTP, &[(TimeWait, 1)])]), [[0, 3]]);
        assert_eq!(at_rest(&mut ends, &counters, &[seen(HTTP, &[(TimeWait, 9)])]), [[0, 3]]);
    }
}
