//! Evictions: the tables of the programs are of fixed size, and what they have no room for is
//! counted.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use tcp_monitor_common::counters::{Table, TableCounters};

use crate::kernel::asm::add;

#[map]
static TABLE_COUNTERS: PerCpuArray<TableCounters> = PerCpuArray::with_max_entries(1, 0);

/// Counts that an entry was evicted, or not stored, because a table was full.
#[inline(always)]
pub(crate) fn count_eviction(table: Table) {
    if let Some(counters) = TABLE_COUNTERS.get_ptr_mut(0) {
        // SAFETY: the map's own value; the table is within the array.
        unsafe { add(&raw mut (*counters).evictions[table as usize], 1) };
    }
}
