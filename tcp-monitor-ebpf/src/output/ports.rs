//! Which ports are watched, and the counters of each.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};
use tcp_monitor_common::{
    abi::maps::{PortTable, slot},
    counters::PortCounters,
    record::Role,
};

use crate::kernel::{asm::element, layout::setting};

#[map]
static PORTS: Array<PortTable> = Array::with_max_entries(1, 0);

/// The port of each slot that has one. The agent sets the size.
#[map]
static SLOT_PORTS: HashMap<u32, u16> = HashMap::with_max_entries(1, 0);

/// By slot. The agent sets the size.
#[map]
static PORT_COUNTERS: PerCpuArray<PortCounters> = PerCpuArray::with_max_entries(1, 0);

/// How many slots were claimed, about: the search for a free one begins there. One entry.
#[map]
static FREE_SLOT: Array<u32> = Array::with_max_entries(1, 0);

/// How many slots are tried; the second and later only if another CPU claimed one at the same
/// moment.
const CLAIM_TRIES: usize = 8;

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
    unsafe {
        let (of_local, of_remote) = (watched_bit(table, local), watched_bit(table, remote));
        if of_local | of_remote == 0 {
            return None;
        }
        // Of a port that is not watched the slot of port 0 is read, which is not watched either: a
        // branch here would double what the verifier follows.
        let slot = |port: u16, bit: u16| *slot_of(table, port & bit.wrapping_neg());
        let (local_slot, remote_slot) = (slot(local, of_local), slot(remote, of_remote));
        Some(Watched { table, local, remote, local_slot, remote_slot })
    }
}

impl Watched {
    /// The counters of the service port: the port of the end that listens.
    ///
    /// If only one port is watched it is that one, else the role decides. Without a role it is the
    /// port with counters of its own.
    #[inline(always)]
    pub(crate) fn counters(self, role: Option<Role>) -> Option<*mut PortCounters> {
        counters_of(self.slot(role))
    }

    /// The slot of those counters.
    #[inline(always)]
    pub(crate) fn slot(self, role: Option<Role>) -> u32 {
        let remote = match role {
            Some(Role::Server) => self.local_slot == slot::UNWATCHED,
            Some(Role::Client) => self.remote_slot != slot::UNWATCHED,
            None => self.local_slot <= slot::OTHER && self.remote_slot != slot::UNWATCHED,
        };
        let (port, slot) =
            if remote { (self.remote, self.remote_slot) } else { (self.local, self.local_slot) };
        let slot = match role {
            // Else a port scan, which gets a RST from each closed port, would take all slots.
            None if slot == slot::UNCLAIMED => slot::OTHER,
            Some(_) if slot == slot::UNCLAIMED => claim(self.table, port),
            _ => slot,
        };
        slot.into()
    }
}

/// The counters of a slot.
#[inline(always)]
pub(crate) fn counters_of(slot: u32) -> Option<*mut PortCounters> {
    PORT_COUNTERS.get_ptr_mut(slot)
}

/// 1 if the port is watched, else 0.
///
/// # Safety
///
/// `table` must be the map's own value.
#[inline(always)]
unsafe fn watched_bit(table: *const PortTable, port: u16) -> u16 {
    // SAFETY: by the caller's word.
    unsafe {
        let word = element::<_, 0x3ff, 1024>((&raw const (*table).watched).cast_mut(), port as usize >> 6);
        (*word >> (port & 63) & 1) as u16
    }
}

/// Where the table holds the slot of `port`.
///
/// A `u16` is always within the table, but the verifiers of 6.1 and 6.12 lose the bounds of a
/// number whose bytes were swapped.
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
/// Two CPUs may each claim one for the same port at the same moment: both slots then name the port
/// and the agent adds them up.
#[inline(always)]
fn claim(table: *mut PortTable, port: u16) -> u16 {
    let Some(claimed) = next_slot(port) else { return slot::OTHER };
    // SAFETY: the map's own value.
    unsafe { *slot_of(table, port) = claimed };
    claimed
}

/// The slot now named after `port`, [`slot::OTHER`] if all are taken, `None` if too many CPUs ask
/// at once.
///
/// Naming a slot that has no name yet is one atomic step, on every kernel: instructions that fetch
/// and add are refused by those before 5.12, even where they are never reached.
#[inline(always)]
fn next_slot(port: u16) -> Option<u16> {
    let hint = FREE_SLOT.get_ptr_mut(0)?;
    let mut i = 0;
    while i < CLAIM_TRIES {
        // SAFETY: the map's own value.
        let slot = unsafe { hint.read_volatile() }.wrapping_add(u32::from(slot::FIRST));
        if slot >= setting!(slots) {
            return Some(slot::OTHER);
        }
        let claimed = SLOT_PORTS.insert(slot, port, u64::from(BPF_NOEXIST));
        // SAFETY: as above. Another CPU may write an older number: then a try is lost, nothing
        // else.
        unsafe { hint.write_volatile((slot + 1).wrapping_sub(u32::from(slot::FIRST))) };
        if claimed.is_ok() {
            return Some(slot as u16);
        }
        i += 1;
    }
    None
}
