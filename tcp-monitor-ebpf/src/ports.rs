//! Which ports are watched, and the counters of each.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use tcp_monitor_common::{
    config::{PortTable, slot},
    counters::PortCounters,
    record::Role,
};

use crate::{
    instruction::{element, fetch_add},
    kernel::{layout, setting},
};

#[map]
static PORTS: Array<PortTable> = Array::with_max_entries(1, 0);

/// The port of each slot. The agent sets the size.
#[map]
static SLOT_PORTS: Array<u32> = Array::with_max_entries(1, 0);

/// By slot. The agent sets the size.
#[map]
static PORT_COUNTERS: PerCpuArray<PortCounters> = PerCpuArray::with_max_entries(1, 0);

/// How many slots were claimed, one entry.
#[map]
static CLAIMED: Array<u64> = Array::with_max_entries(1, 0);

/// The two ports of a socket or a segment, at least one of them watched.
#[derive(Clone, Copy)]
pub(crate) struct Watched {
    table: *mut PortTable,
    local: u16,
    remote: u16,
    local_slot: u16,
    remote_slot: u16,
}

/// The slots of two ports, or `None` if neither is watched.
#[inline(always)]
pub(crate) fn watched(local: u16, remote: u16) -> Option<Watched> {
    let table = PORTS.get_ptr_mut(0)?;
    // SAFETY: the map's own value.
    let (local_slot, remote_slot) = unsafe { (*slot_of(table, local), *slot_of(table, remote)) };
    if local_slot | remote_slot == slot::UNWATCHED {
        return None;
    }
    Some(Watched { table, local, remote, local_slot, remote_slot })
}

impl Watched {
    /// The counters of the service port: the port of the end that listens.
    ///
    /// If only one port is watched it is that one; else the role tells.
    #[inline(always)]
    pub(crate) fn counters(self, role: Role) -> Option<*mut PortCounters> {
        let remote = match role {
            Role::Server => self.local_slot == slot::UNWATCHED,
            Role::Client => self.remote_slot != slot::UNWATCHED,
        };
        let (port, slot) =
            if remote { (self.remote, self.remote_slot) } else { (self.local, self.local_slot) };
        let slot = if slot == slot::UNCLAIMED { claim(self.table, port) } else { slot };
        PORT_COUNTERS.get_ptr_mut(u32::from(slot))
    }
}

/// Where the table holds the slot of `port`.
///
/// A `u16` is always within the table, but the verifiers of 6.1 and 6.12 lose the bounds of a number whose bytes were
/// swapped.
///
/// # Safety
///
/// `table` must be the map's own value.
#[inline(always)]
unsafe fn slot_of(table: *mut PortTable, port: u16) -> *mut u16 {
    // SAFETY: by the caller's word.
    unsafe { element::<_, 0xffff, 65536>(&raw mut (*table).slots, port as usize) }
}

/// Gives `port` a slot of its own while there are any.
///
/// Two CPUs may each claim one for the same port at the same moment: both slots then name the port and the agent adds
/// them up.
#[inline(always)]
fn claim(table: *mut PortTable, port: u16) -> u16 {
    let claimed = if layout!(has_atomic_fetch) != 0 { next_slot(port) } else { None };
    let claimed = claimed.unwrap_or(slot::OTHER);
    // SAFETY: the map's own value.
    unsafe { *slot_of(table, port) = claimed };
    claimed
}

#[inline(always)]
fn next_slot(port: u16) -> Option<u16> {
    let count = CLAIMED.get_ptr_mut(0)?;
    // SAFETY: the map's own value.
    let next = unsafe { fetch_add(count, 1) } + u64::from(slot::FIRST);
    if next >= u64::from(setting!(slots)) {
        return None;
    }
    let name = SLOT_PORTS.get_ptr_mut(next as u32)?;
    // SAFETY: the map's own value.
    unsafe { *name = u32::from(port) };
    Some(next as u16)
}
