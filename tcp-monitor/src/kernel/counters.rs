//! Reads the kernel programs' counters and adds them up over the CPUs.

use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc};

use aya::{
    Pod,
    maps::{HashMap, MapData, MapError, PerCpuArray},
};
use tcp_monitor_common::{
    abi::maps::{map, slot},
    counters::{PortCounters, RecordCounters, TableCounters},
    words::Words,
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
    /// The counters now. Those of ports, interfaces and records are read one after the other, not
    /// at one instant.
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
            records: total(&self.records).map_err(failed(map::RECORD_COUNTERS))?,
            tables: total(&self.tables).map_err(failed(map::TABLE_COUNTERS))?,
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
                self.ports.get(slot, 0)?.iter().for_each(|value| ports[*index].1.add(value));
            }
            Ok(ports)
        };
        let add_more = |ports: &mut Vec<(PortLabel, PortCounters)>, slot, more: &PortCounters| {
            if let Some(&index) = index_of.get(&slot) {
                ports[index].1.add(more);
            }
        };
        self.requests.complete(read, add_more).map_err(failed(map::PORT_COUNTERS))
    }
}

/// The counters of a map's only entry, of all CPUs together.
pub(super) fn total<C: Words + Pod + Default>(map: &PerCpuArray<MapData, C>) -> Result<C, MapError> {
    let mut total = C::default();
    for value in map.get(&0, 0)?.iter() {
        total.add(value);
    }
    Ok(total)
}
