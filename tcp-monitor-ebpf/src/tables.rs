//! The tables of the programs are of fixed size: what they had no room for is counted.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use tcp_monitor_common::counters::{Table, TableCounters};

use crate::instruction::add;

#[map]
static TABLE_COUNTERS: PerCpuArray<TableCounters> = PerCpuArray::with_max_entries(1, 0);

/// Counts that something was forgotten, or not taken in, because a table was full.
#[inline(always)]
pub(crate) fn forgotten(table: Table) {
    if let Some(counters) = TABLE_COUNTERS.get_ptr_mut(0) {
        // SAFETY: the map's own value; the table is within the array.
        unsafe { add(&raw mut (*counters).forgotten[table as usize], 1) };
    }
}
