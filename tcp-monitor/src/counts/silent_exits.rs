//! Exits that nothing reports: of TIME_WAIT, and of FIN_WAIT2 after close().
//!
//! A timewait socket that the kernel gives up (kernel: `tw_timer_handler`) passes no tracepoint and
//! sends no segment. A socket that was counted to enter a state, was not counted to leave it and is
//! not listed any more has gone to CLOSE.

use std::array;
use std::collections::BTreeMap;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::{PortCounters, STATES};

use super::snapshot::PortLabel;
use super::sockets::PortSockets;

/// A dump of the sockets, between two readings of the counters.
///
/// A dump takes time, in which sockets enter and leave. It counts as a silent exit only if a socket
/// had entered by the reading before the dump, is not in the dump, and had not left by the reading
/// after it. A reading after that is late finds fewer exits, which the next dump shows.
#[derive(Clone, Copy, Debug)]
pub struct SocketDump<'a> {
    /// The counters before the dump.
    pub before: &'a EntriesAndExits,
    /// The sockets.
    pub sockets: &'a [(PortLabel, PortSockets)],
    /// The counters after the dump.
    pub after: &'a EntriesAndExits,
}

/// How many sockets were counted to enter and to leave the states with silent exits, by port.
#[derive(Clone, Debug)]
pub struct EntriesAndExits(Vec<(PortLabel, [StateCount; STATES_WITH_SILENT_EXITS.len()])>);

#[derive(Clone, Copy, Debug)]
struct StateCount {
    entries: u64,
    exits: u64,
}

/// The silent exits found so far, by state and port.
#[derive(Debug)]
pub struct SilentExits([ExitsByPort; STATES_WITH_SILENT_EXITS.len()]);

/// The silent exits of one state.
#[derive(Debug)]
struct ExitsByPort(BTreeMap<PortLabel, PortExits>);

#[derive(Clone, Copy, Debug, Default)]
struct PortExits {
    /// Entries less exits less listed sockets when counting began: the sockets from before, as a
    /// negative number.
    offset: i64,
    /// Silent exits found since then.
    found: u64,
}

impl EntriesAndExits {
    /// Those in the counters of these ports.
    #[must_use]
    pub fn of(ports: &[(PortLabel, PortCounters)]) -> Self {
        let count = |counters: &PortCounters, state: TcpState| StateCount {
            entries: (0..STATES).map(|from| counters.transitions[from][state as usize]).sum(),
            exits: counters.transitions[state as usize].iter().sum(),
        };
        Self(
            ports
                .iter()
                .map(|(label, counters)| {
                    (*label, STATES_WITH_SILENT_EXITS.map(|state| count(counters, state)))
                })
                .collect(),
        )
    }
}

impl SilentExits {
    /// Counts from `dump` on.
    ///
    /// A socket that enters or leaves between its two readings may have done so before it was
    /// listed or after: of these, an exit may be missed, but none is made up.
    #[must_use]
    pub fn since(dump: SocketDump<'_>) -> Self {
        Self(array::from_fn(|state| {
            let exits = |(label, offset)| (label, PortExits { offset, found: 0 });
            let ports = balances(state, dump.after, dump.sockets, dump.before);
            ExitsByPort(ports.into_iter().map(exits).collect())
        }))
    }

    /// Finds the exits up to `dump`.
    pub fn update(&mut self, dump: SocketDump<'_>) {
        for (state, exits) in self.0.iter_mut().enumerate() {
            exits.update(balances(state, dump.before, dump.sockets, dump.after));
        }
    }

    /// Adds them to the counters.
    pub fn add_to(&self, ports: &mut [(PortLabel, PortCounters)]) {
        for (label, counters) in ports {
            for (state, exits) in STATES_WITH_SILENT_EXITS.into_iter().zip(&self.0) {
                let found = exits.0.get(label).map_or(0, |exits| exits.found);
                counters.transitions[state as usize][TcpState::Close as usize] += found;
            }
        }
    }
}

impl ExitsByPort {
    /// No port has more exits than all ports have together: a socket may be listed under another
    /// port than it was counted under.
    fn update(&mut self, balances: BTreeMap<PortLabel, i64>) {
        for label in balances.keys() {
            self.0.entry(*label).or_default();
        }
        let new = |exits: &PortExits, label: &PortLabel| {
            let balance = balances.get(label).copied().unwrap_or(0);
            balance.saturating_sub(exits.offset).saturating_sub_unsigned(exits.found)
        };
        let mut left: i64 = self.0.iter().map(|(label, exits)| new(exits, label)).sum();
        for (label, exits) in &mut self.0 {
            let more = new(exits, label).min(left);
            if more > 0 {
                exits.found = exits.found.saturating_add_signed(more);
                left -= more;
            }
        }
    }
}

/// Of one state, by port: the sockets that entered it, less those that left it, less those that are
/// listed in it.
fn balances(
    state: usize,
    entries: &EntriesAndExits,
    sockets: &[(PortLabel, PortSockets)],
    exits: &EntriesAndExits,
) -> BTreeMap<PortLabel, i64> {
    let mut balances = BTreeMap::new();
    let mut add = |label: PortLabel, count: i64| *balances.entry(label).or_insert(0_i64) += count;
    for (label, counts) in &entries.0 {
        add(*label, counts[state].entries.cast_signed());
    }
    for (label, counts) in &exits.0 {
        add(*label, -counts[state].exits.cast_signed());
    }
    for (label, sockets) in sockets {
        add(*label, -sockets.states[STATES_WITH_SILENT_EXITS[state] as usize].cast_signed());
    }
    balances
}

const STATES_WITH_SILENT_EXITS: [TcpState; 2] = [TcpState::FinWait2, TcpState::TimeWait];

#[cfg(test)]
mod tests {
    use tcp_monitor_common::TcpState::{self, Close, FinWait1, FinWait2, TimeWait};
    use tcp_monitor_common::counters::PortCounters;

    use super::{EntriesAndExits, SilentExits, SocketDump};
    use crate::counts::{PortLabel, PortSockets};

    const HTTP: PortLabel = PortLabel::Port(80);

    type Counted = (PortLabel, PortCounters);
    type Listed = (PortLabel, PortSockets);

    fn counted(label: PortLabel, transitions: &[(TcpState, TcpState, u64)]) -> Counted {
        let mut counters = PortCounters::ZERO;
        for (from, to, count) in transitions {
            counters.transitions[*from as usize][*to as usize] = *count;
        }
        (label, counters)
    }

    fn listed(label: PortLabel, states: &[(TcpState, u64)]) -> Listed {
        let mut sockets = PortSockets::default();
        for (state, count) in states {
            sockets.states[*state as usize] = *count;
        }
        (label, sockets)
    }

    fn since(sockets: &[Listed]) -> SilentExits {
        SilentExits::since(SocketDump {
            before: &EntriesAndExits::of(&[]),
            sockets,
            after: &EntriesAndExits::of(&[]),
        })
    }

    /// Exits up to a dump during which nothing changes.
    fn at_rest(exits: &mut SilentExits, counters: &[Counted], sockets: &[Listed]) -> Vec<[u64; 2]> {
        let counts = EntriesAndExits::of(counters);
        exits.update(SocketDump { before: &counts, sockets, after: &counts });
        of(exits, counters)
    }

    fn of(exits: &SilentExits, counters: &[Counted]) -> Vec<[u64; 2]> {
        let mut with_exits = counters.to_vec();
        exits.add_to(&mut with_exits);
        let added = |state: TcpState, index: usize| {
            let [before, after] = [counters, &with_exits]
                .map(|ports| ports[index].1.transitions[state as usize][Close as usize]);
            after - before
        };
        (0..counters.len()).map(|index| [FinWait2, TimeWait].map(|state| added(state, index))).collect()
    }

    #[test]
    fn a_socket_that_is_not_listed_any_more_has_left() {
        let mut exits = since(&[listed(HTTP, &[(TimeWait, 2), (FinWait2, 1)])]);
        let counters =
            [counted(HTTP, &[(FinWait1, FinWait2, 10), (FinWait2, TimeWait, 7), (FinWait2, Close, 1)])];
        let all = [listed(HTTP, &[(TimeWait, 9), (FinWait2, 3)])];
        assert_eq!(at_rest(&mut exits, &counters, &all), [[0, 0]]);
        let some = [listed(HTTP, &[(TimeWait, 4), (FinWait2, 2)])];
        assert_eq!(at_rest(&mut exits, &counters, &some), [[1, 5]]);
        assert_eq!(at_rest(&mut exits, &counters, &[]), [[3, 9]], "those from before included");
    }

    #[test]
    fn a_transition_during_a_dump_is_no_silent_exit() {
        let mut exits = since(&[]);
        let before = [counted(HTTP, &[(FinWait1, FinWait2, 5)])];
        let after = [counted(HTTP, &[(FinWait1, FinWait2, 9), (FinWait2, TimeWait, 5)])];
        for left in 0..=5 {
            let sockets = [listed(HTTP, &[(FinWait2, 5 - left), (TimeWait, left)])];
            let counts = [&before, &after].map(|counters| EntriesAndExits::of(counters));
            exits.update(SocketDump { before: &counts[0], sockets: &sockets, after: &counts[1] });
            assert_eq!(of(&exits, &after), [[0, 0]]);
        }
    }

    #[test]
    fn a_late_reading_after_a_dump_only_delays_what_the_next_dump_shows() {
        let mut exits = since(&[]);
        let before = [counted(HTTP, &[(FinWait1, FinWait2, 5)])];
        // Two of the five are gone, and three leave by a segment before the reading.
        let after = [counted(HTTP, &[(FinWait1, FinWait2, 5), (FinWait2, TimeWait, 3)])];
        let counts = [&before, &after].map(|counters| EntriesAndExits::of(counters));
        let sockets = [listed(HTTP, &[(FinWait2, 3)])];
        exits.update(SocketDump { before: &counts[0], sockets: &sockets, after: &counts[1] });
        assert_eq!(of(&exits, &after), [[0, 0]]);
        assert_eq!(at_rest(&mut exits, &after, &[listed(HTTP, &[(TimeWait, 3)])]), [[2, 0]]);
    }

    #[test]
    fn a_transition_during_the_first_dump_is_no_silent_exit() {
        let before = [counted(HTTP, &[])];
        let after = [counted(HTTP, &[(FinWait1, FinWait2, 3), (FinWait2, TimeWait, 3)])];
        for in_time_wait in 0..=3 {
            let sockets = [listed(HTTP, &[(TimeWait, in_time_wait)])];
            let counts = [&before, &after].map(|counters| EntriesAndExits::of(counters));
            let mut exits =
                SilentExits::since(SocketDump { before: &counts[0], sockets: &sockets, after: &counts[1] });
            let there = [listed(HTTP, &[(TimeWait, 3)])];
            assert_eq!(at_rest(&mut exits, &after, &there), [[0, 0]]);
        }
    }

    #[test]
    fn a_socket_that_is_listed_under_another_port_has_not_left() {
        let mut exits = since(&[]);
        let counters = [counted(HTTP, &[(FinWait2, TimeWait, 4)]), counted(PortLabel::Other, &[])];
        let elsewhere = [listed(HTTP, &[(TimeWait, 1)]), listed(PortLabel::Other, &[(TimeWait, 3)])];
        assert_eq!(at_rest(&mut exits, &counters, &elsewhere), [[0, 0]; 2]);
        let one_gone = [listed(HTTP, &[(TimeWait, 1)]), listed(PortLabel::Other, &[(TimeWait, 2)])];
        assert_eq!(at_rest(&mut exits, &counters, &one_gone), [[0, 1], [0, 0]]);
        assert_eq!(at_rest(&mut exits, &counters, &[]), [[0, 4], [0, 0]]);
    }

    #[test]
    fn a_silent_exit_that_was_found_stays() {
        let mut exits = since(&[]);
        let counters = [counted(HTTP, &[(FinWait2, TimeWait, 4)])];
        assert_eq!(at_rest(&mut exits, &counters, &[listed(HTTP, &[(TimeWait, 1)])]), [[0, 3]]);
        assert_eq!(at_rest(&mut exits, &counters, &[listed(HTTP, &[(TimeWait, 9)])]), [[0, 3]]);
    }
}
