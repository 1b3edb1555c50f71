//! Which ports are watched, and which of them have counters of their own.

use std::ops::RangeInclusive;

#[cfg(doc)]
use tcp_monitor_common::abi::maps::PortTable;
use tcp_monitor_common::abi::maps::slot;

use crate::ports::PortSet;

/// The values of the two maps that the programs look ports up in.
pub(super) struct Slots {
    /// The slots of a [`PortTable`], by port number. On the heap from the start: it is 128 KiB.
    pub(super) table: Box<[u16; PORTS]>,
    /// The ports that have a slot of their own from the start, beginning with [`slot::FIRST`].
    pub(super) ports: Vec<u16>,
    /// How many slots there are in all.
    pub(super) count: u16,
    /// Some watched port has no slot of its own, or may come to have none.
    pub(super) others: bool,
}

impl Slots {
    /// The ports in `watched`, or all if that is empty. At most `max_ports` have counters of their
    /// own: the lowest of those that were named; of all, the first that are seen as a service port
    /// and not in `ephemeral`, beginning with those that have been `seen`.
    pub(super) fn new(
        watched: &PortSet,
        max_ports: u16,
        ephemeral: RangeInclusive<u16>,
        seen: &[u16],
    ) -> Self {
        let mut table = zeroed_table();
        let max_ports = max_ports.min(slot::UNCLAIMED - slot::FIRST);
        if watched.is_empty() {
            for port in 1..=u16::MAX {
                table[usize::from(port)] =
                    if ephemeral.contains(&port) { slot::OTHER } else { slot::UNCLAIMED };
            }
            let mut ports = Vec::new();
            for (own, &port) in (slot::FIRST..slot::FIRST + max_ports)
                .zip(seen.iter().filter(|port| **port != 0 && !ephemeral.contains(port)))
            {
                table[usize::from(port)] = own;
                ports.push(port);
            }
            return Self { table, ports, count: slot::FIRST + max_ports, others: true };
        }
        let mut ports = Vec::new();
        let mut others = false;
        let mut next = slot::FIRST;
        for port in watched.iter() {
            let own = next < slot::FIRST + max_ports;
            table[usize::from(port)] = if own { next } else { slot::OTHER };
            if own {
                ports.push(port);
                next += 1;
            }
            others |= !own;
        }
        Self { table, ports, count: next, others }
    }
}

fn zeroed_table() -> Box<[u16; PORTS]> {
    const { assert!(slot::UNWATCHED == 0) };
    match vec![0; PORTS].into_boxed_slice().try_into() {
        Ok(table) => table,
        Err(_) => unreachable!("a slice of PORTS elements is an array of PORTS elements"),
    }
}

const PORTS: usize = 65536;

#[cfg(test)]
mod tests {
    use tcp_monitor_common::abi::maps::slot;

    use super::Slots;
    use crate::ports::PortSet;

    fn ports(list: &str) -> PortSet {
        list.parse().expect("a list of ports")
    }

    #[test]
    fn named_ports_get_slots_until_there_are_none_left() {
        let slots = Slots::new(&ports("80,443,8000-8001"), 3, 32768..=60999, &[]);
        assert_eq!([80, 443, 8000, 8001].map(|port| slots.table[port]), [2, 3, 4, slot::OTHER]);
        assert_eq!(slots.ports, [80, 443, 8000]);
        assert_eq!(slots.count, 5);
        assert!(slots.others);
        assert_eq!(slots.table.iter().filter(|slot| **slot != slot::UNWATCHED).count(), 4);
    }

    #[test]
    fn no_port_is_other_when_each_named_one_has_a_slot() {
        let slots = Slots::new(&ports("50000"), 256, 32768..=60999, &[]);
        assert_eq!(slots.table[50000], slot::FIRST);
        assert_eq!(slots.count, 3);
        assert!(!slots.others);
    }

    #[test]
    fn all_ports_but_ephemeral_ones_may_claim_a_slot() {
        let slots = Slots::new(&PortSet::default(), 256, 32768..=60999, &[]);
        let of = |port: usize| slots.table[port];
        assert_eq!(of(0), slot::UNWATCHED);
        assert_eq!([1, 80, 32767, 61000, 65535].map(of), [slot::UNCLAIMED; 5]);
        assert_eq!([32768, 50000, 60999].map(of), [slot::OTHER; 3]);
        assert_eq!(slots.count, 258);
        assert!(slots.others && slots.ports.is_empty());
    }

    #[test]
    fn of_all_ports_those_that_are_in_use_have_a_slot_from_the_start() {
        let seen = [443, 22, 40000, 0, 8080];
        let slots = Slots::new(&PortSet::default(), 2, 32768..=60999, &seen);
        assert_eq!(
            [443, 22, 40000, 8080].map(|port| slots.table[port]),
            [2, 3, slot::OTHER, slot::UNCLAIMED]
        );
        assert_eq!((slots.ports, slots.count), (vec![443, 22], 4));
    }

    #[test]
    fn without_slots_every_port_is_other() {
        let slots = Slots::new(&ports("80"), 0, 1..=1, &[]);
        assert_eq!((slots.table[80], slots.count, slots.others), (slot::OTHER, 2, true));
    }

    #[test]
    fn more_slots_than_numbers_for_them_are_not_given() {
        let slots = Slots::new(&ports("1-65535"), u16::MAX, 1..=1, &[]);
        assert_eq!(slots.count, slot::UNCLAIMED);
        assert_eq!(slots.table[65534], slot::OTHER);
        assert_eq!(slots.table[65533], slot::UNCLAIMED - 1);
    }
}
