//! The programs' log, for their maintainers: `tcp-monitor --kernel-log`.
//!
//! It says what the programs refused: malformed headers, unknown states, records without room in
//! the ring buffer, and entries evicted from full tables. Its level is a read-only global: when the
//! log is off, the verifier removes all of it.
//!
//! A message is a global function, which the verifier checks once and not on each path to a call.
//! Before 6.4 it cannot trace a number back over a call, and then checks nearly each path to the
//! end of the program. So a message comes right before the end: what was counted on the way is
//! reported there.
//!
//! A message has its line number in it, so that a comment moved in this file changes the object.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use aya_log_ebpf::{
    debug,
    macro_support::{Level, level_enabled},
};
use tcp_monitor_common::{
    counters::{RecordCounters, Table, TableCounters},
    record::Kind,
};

use super::{evictions, ring};

/// What was reported, on each CPU.
#[map]
static REPORTED: PerCpuArray<Reported> = PerCpuArray::with_max_entries(1, 0);

#[derive(Clone, Copy)]
#[repr(C)]
struct Reported {
    tables: TableCounters,
    records: RecordCounters,
}

/// Reports evictions and refused records since the last report on this CPU. The last call of a
/// program.
#[inline(always)]
pub(crate) fn report() {
    // As each message does, so that not even the call remains.
    if level_enabled(Level::Debug) {
        log_refusals();
    }
}

/// A packet's headers contradict each other, or it is shorter than they say.
#[inline(always)]
pub(crate) fn malformed_header(ifindex: u32) {
    if level_enabled(Level::Debug) {
        log_malformed_header(ifindex);
    }
}

/// A transition was refused: it is between states that are none of TCP.
#[inline(always)]
pub(crate) fn unknown_state(old: i32, new: i32) {
    if level_enabled(Level::Debug) {
        log_unknown_state(old as u32, new as u32);
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
fn log_refusals() -> u32 {
    let (Some(reported), Some(tables), Some(records)) =
        (REPORTED.get_ptr_mut(0), evictions::counters(), ring::counters())
    else {
        return 0;
    };
    // SAFETY: the maps' own values, and only this CPU's. Each place is within its array.
    unsafe {
        if let Some(count) = news(tables, reported, Table::Acks) {
            log_acks_full(count);
        }
        if let Some(count) = news(tables, reported, Table::SocketTimes) {
            log_socket_times_full(count);
        }
        if let Some(count) = news(tables, reported, Table::Requests) {
            log_requests_full(count);
        }
        if let Some(count) = news(tables, reported, Table::FinWait2Timewait) {
            log_fin_wait2_timewait_full(count);
        }
        let last = &raw mut (*reported).records;
        let mut kind = 0;
        while kind < Kind::ALL.len() {
            let (lost, suppressed) = ((*records).lost[kind], (*records).suppressed[kind]);
            if lost != (*last).lost[kind] || suppressed != (*last).suppressed[kind] {
                (*last).lost[kind] = lost;
                (*last).suppressed[kind] = suppressed;
                log_records_refused(kind as u32, lost, suppressed);
            }
            kind += 1;
        }
    }
    0
}

/// How many evictions of a table there were, if that changed since the last report.
///
/// # Safety
///
/// Both must be the maps' own values.
#[inline(always)]
unsafe fn news(tables: *mut TableCounters, reported: *mut Reported, table: Table) -> Option<u64> {
    // SAFETY: by the caller's word; the table is within the arrays.
    unsafe {
        let count = (*tables).evictions[table as usize];
        let last = &raw mut (*reported).tables.evictions[table as usize];
        if count == *last {
            return None;
        }
        *last = count;
        Some(count)
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
fn log_acks_full(count: u64) -> u32 {
    debug!((), "table of awaited ACKs full: {} evictions on this CPU", count);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
fn log_socket_times_full(count: u64) -> u32 {
    debug!((), "table of socket times full: {} evictions on this CPU", count);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
fn log_requests_full(count: u64) -> u32 {
    debug!((), "table of half-open requests full: {} not followed on this CPU", count);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
fn log_fin_wait2_timewait_full(count: u64) -> u32 {
    debug!((), "table of timewait sockets in FIN_WAIT2 full: {} evictions on this CPU", count);
    0
}

/// Kinds are numbered as in `record::Kind`.
#[unsafe(no_mangle)]
#[inline(never)]
fn log_records_refused(kind: u32, lost: u64, suppressed: u64) -> u32 {
    debug!((), "records of kind {} on this CPU: {} lost, {} suppressed", kind, lost, suppressed);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
fn log_malformed_header(ifindex: u32) -> u32 {
    debug!((), "interface {}: TCP header malformed or truncated", ifindex);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
fn log_unknown_state(old: u32, new: u32) -> u32 {
    debug!((), "transition from state {} to {} refused: not of TCP", old, new);
    0
}
