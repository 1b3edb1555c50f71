//! Reads the kernel programs' counters and adds them up over the CPUs.

use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc};

use aya::maps::{HashMap, MapData, MapError, PerCpuArray};
use tcp_monitor_common::{
    abi::config::{map, slot},
    counters::{Histogram, PortCounters, RecordCounters, TableCounters},
};
use thiserror::Error;

use super::{interfaces::InterfaceTable, programs::LoadedProgram, requests::Requests};
use crate::counts::{KernelCounts, PortLabel};

/// The counters of the kernel programs, to be read at any time from any thread.
pub struct Counters {
    pub(super) slot_ports: HashMap<MapData, u32, u16>,
    pub(super) ports: PerCpuArray<MapData, PortCounters>,
    pub(super) requests: Requests,
    pub(super) records: Arc<PerCpuArray<MapData, RecordCounters>>,
    pub(super) tables: PerCpuArray<MapData, TableCounters>,
    pub(super) interfaces: Arc<InterfaceTable>,
    pub(super) programs: Vec<LoadedProgram>,
    /// Some watched port has no slot of its own, or may come to have none.
    pub(super) others: bool,
    pub(super) reasons_known: bool,
    /// The kernel measures run times as long as this is open.
    pub(super) bpf_stats: Option<OwnedFd>,
}

/// A map whose counters cannot be read.
#[derive(Debug, Error)]
#[error("the counters in map {map} cannot be read: {cause}")]
pub struct CounterError {
    /// The map's name.
    pub map: &'static str,
    /// aya's reason.
    pub cause: MapError,
}

impl Counters {
    /// The counters now. Those of ports, interfaces and records are read one after the other, not at one instant.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn read(&self) -> Result<KernelCounts, CounterError> {
        let failed = |map| move |cause| CounterError { map, cause };
        Ok(KernelCounts {
            ports: self.ports()?,
            interfaces: self
                .interfaces
                .totals()
                .map_err(failed(map::INTERFACE_COUNTERS))?
                .into_iter()
                .collect(),
            records: sum_records(&self.records).map_err(failed(map::RECORD_COUNTERS))?,
            tables: self.tables().map_err(failed(map::TABLE_COUNTERS))?,
            programs: self.programs.iter().filter_map(LoadedProgram::runs).collect(),
            reasons_known: self.reasons_known,
            bpf_stats: self.bpf_stats.is_some(),
        })
    }

    /// Counts the half-open requests that were given up; to be called each second or so.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn expire_requests(&self) -> Result<(), CounterError> {
        self.requests.expire().map_err(|cause| CounterError { map: map::HALF_OPEN, cause })
    }

    fn tables(&self) -> Result<TableCounters, MapError> {
        let mut total = TableCounters::default();
        for value in self.tables.get(&0, 0)?.iter() {
            add_each(&mut total.forgotten, &value.forgotten);
        }
        Ok(total)
    }

    /// Those of ports alone, each at most once, in ascending order.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn ports(&self) -> Result<Vec<(PortLabel, PortCounters)>, CounterError> {
        let failed = |map| move |cause| CounterError { map, cause };
        let mut slots = Vec::new();
        if self.others {
            slots.push((PortLabel::Other, u32::from(slot::OTHER)));
        }
        for named in self.slot_ports.iter() {
            let (slot, port) = named.map_err(failed(map::SLOT_PORTS))?;
            slots.push((PortLabel::Port(port), slot));
        }
        slots.sort_unstable();
        let (mut labels, mut index_of) = (Vec::new(), BTreeMap::new());
        for (label, slot) in slots {
            // Two slots may be of one port, if two CPUs claimed one at the same moment.
            if labels.last() != Some(&label) {
                labels.push(label);
            }
            index_of.insert(slot, labels.len() - 1);
        }
        let read = || {
            let mut ports: Vec<_> = labels.iter().map(|label| (*label, PortCounters::ZERO)).collect();
            for (slot, index) in &index_of {
                self.ports.get(slot, 0)?.iter().for_each(|value| add(&mut ports[*index].1, value));
            }
            Ok(ports)
        };
        let add_more = |ports: &mut Vec<(PortLabel, PortCounters)>, slot, more: &PortCounters| {
            if let Some(&index) = index_of.get(&slot) {
                add(&mut ports[index].1, more);
            }
        };
        self.requests.complete(read, add_more).map_err(failed(map::PORT_COUNTERS))
    }
}

/// The records of all CPUs.
pub(super) fn sum_records(
    counters: &PerCpuArray<MapData, RecordCounters>,
) -> Result<RecordCounters, MapError> {
    let mut total = RecordCounters::default();
    for value in counters.get(&0, 0)?.iter() {
        add_each(&mut total.sent, &value.sent);
        add_each(&mut total.lost, &value.lost);
        add_each(&mut total.suppressed, &value.suppressed);
    }
    Ok(total)
}

fn add(total: &mut PortCounters, more: &PortCounters) {
    add_each(&mut total.handshakes, &more.handshakes);
    add_each(total.handshake_failures.as_flattened_mut(), more.handshake_failures.as_flattened());
    add_each(&mut total.syn_retransmits, &more.syn_retransmits);
    total.retransmits = total.retransmits.wrapping_add(more.retransmits);
    add_each(total.transitions.as_flattened_mut(), more.transitions.as_flattened());
    add_each(&mut total.resets_received, &more.resets_received);
    add_each(total.resets_sent.as_flattened_mut(), more.resets_sent.as_flattened());
    add_each(total.closed.as_flattened_mut(), more.closed.as_flattened());
    add_each(&mut total.bytes, &more.bytes);
    total.accept_queue_overflows = total.accept_queue_overflows.wrapping_add(more.accept_queue_overflows);
    add_each(&mut total.syn_cookies, &more.syn_cookies);
    add_histograms(&mut total.handshake_durations, &more.handshake_durations);
    add_histograms(&mut total.connection_durations, &more.connection_durations);
    add_histograms(&mut total.state_durations, &more.state_durations);
}

fn add_histograms(total: &mut [Histogram], more: &[Histogram]) {
    for (total, more) in total.iter_mut().zip(more) {
        add_each(&mut total.buckets, &more.buckets);
        total.sum = total.sum.wrapping_add(more.sum);
    }
}

fn add_each(total: &mut [u64], more: &[u64]) {
    for (total, more) in total.iter_mut().zip(more) {
        *total = total.wrapping_add(*more);
    }
}

#[cfg(test)]
mod tests {
    use tcp_monitor_common::counters::PortCounters;

    use super::add;

    #[test]
    fn every_counter_of_a_port_is_added_up() {
        let mut one = PortCounters::ZERO;
        one.handshakes[1] = 1;
        one.handshake_failures[1][6] = 2;
        one.syn_retransmits[0] = 3;
        one.retransmits = 4;
        one.transitions[12][3] = 5;
        one.resets_received[4] = 6;
        one.resets_sent[4][31] = 7;
        let mut total = one;
        add(&mut total, &one);
        add(&mut total, &one);
        assert_eq!(total.handshakes, [0, 3]);
        assert_eq!(total.handshake_failures[1][6], 6);
        assert_eq!(total.syn_retransmits, [9, 0]);
        assert_eq!(total.retransmits, 12);
        assert_eq!(total.transitions[12][3], 15);
        assert_eq!(total.resets_received[4], 18);
        assert_eq!(total.resets_sent[4][31], 21);
    }
}
