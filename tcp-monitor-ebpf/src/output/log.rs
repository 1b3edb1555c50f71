//! The programs' log, for their maintainers: `tcp-monitor --kernel-log`.
//!
//! It says what the programs could not do. Its level is a read-only global: when the log is off,
//! the verifier removes all of it but the calls, which lie on paths that are taken rarely.
//!
//! Each message is a global function: the verifier checks it once, and not again on each path to a
//! call. Such a function takes and returns numbers.
//!
//! A message has its line number in it, so that a comment moved in this file changes the object.

use aya_log_ebpf::debug;
use tcp_monitor_common::{counters::Table, record::Kind};

/// A table was full: one of its entries was evicted, or a new one was not stored.
#[inline(always)]
pub(crate) fn table_full(table: Table) {
    match table {
        Table::Acks => log_acks_full(),
        Table::SocketTimes => log_socket_times_full(),
        Table::Requests => log_requests_full(),
        Table::FinWait2Timewait => log_fin_wait2_timewait_full(),
    };
}

#[unsafe(no_mangle)]
#[inline(never)]
fn log_acks_full() -> u32 {
    debug!((), "table of awaited ACKs full: an entry was evicted");
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
fn log_socket_times_full() -> u32 {
    debug!((), "table of socket times full: an entry was evicted");
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
fn log_requests_full() -> u32 {
    debug!((), "table of half-open requests full: a request is not followed");
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
fn log_fin_wait2_timewait_full() -> u32 {
    debug!((), "table of timewait sockets in FIN_WAIT2 full: an entry was evicted");
    0
}

/// A record was refused: of the ring buffer's bytes so many are unread that the rest is for other
/// kinds, or too little.
#[inline(always)]
pub(crate) fn record_refused(kind: Kind, unread: u64) {
    log_record_refused(kind as u32, unread);
}

/// Kinds are numbered as in `record::Kind`.
#[unsafe(no_mangle)]
#[inline(never)]
fn log_record_refused(kind: u32, unread: u64) -> u32 {
    debug!((), "record of kind {} refused: {} bytes of the ring buffer unread", kind, unread);
    0
}

/// A packet's headers contradict each other, or it is shorter than they say.
#[inline(always)]
pub(crate) fn malformed_header(ifindex: u32) {
    log_malformed_header(ifindex);
}

#[unsafe(no_mangle)]
#[inline(never)]
fn log_malformed_header(ifindex: u32) -> u32 {
    debug!((), "interface {}: TCP header malformed or truncated", ifindex);
    0
}

/// A transition was refused: it is between states that are none of TCP.
#[inline(always)]
pub(crate) fn unknown_state(old: i32, new: i32) {
    log_unknown_state(old as u32, new as u32);
}

#[unsafe(no_mangle)]
#[inline(never)]
fn log_unknown_state(old: u32, new: u32) -> u32 {
    debug!((), "transition from state {} to {} refused: not of TCP", old, new);
    0
}
