//! The programs' log, for whoever works on them: `tcp-monitor --kernel-log`.
//!
//! It says what the programs could not do. Its level is a read-only global. When the log is off, the verifier knows that
//! nothing is logged, and removes all of it but the calls, which lie on paths that are taken rarely. Each message is a
//! function of its own, not inlined: it is longer than the code around it.

use aya_log_ebpf::debug;
use tcp_monitor_common::{counters::Table, record::Kind};

/// A table was full: one of its entries was evicted, or a new one was not stored.
#[inline(always)]
pub(crate) fn table_full(table: Table) {
    match table {
        Table::Acks => acks_full(),
        Table::SocketTimes => socket_times_full(),
        Table::Requests => requests_full(),
        Table::FinWait2Timewait => fin_wait2_timewait_full(),
    }
}

#[inline(never)]
fn acks_full() {
    debug!((), "table of awaited ACKs full: an entry was evicted");
}

#[inline(never)]
fn socket_times_full() {
    debug!((), "table of socket times full: an entry was evicted");
}

#[inline(never)]
fn requests_full() {
    debug!((), "table of half-open requests full: a request is not followed");
}

#[inline(never)]
fn fin_wait2_timewait_full() {
    debug!((), "table of timewait sockets in FIN_WAIT2 full: an entry was evicted");
}

/// A record was refused: of the ring buffer's bytes so many are unread that the rest is for other kinds, or too little.
#[inline(always)]
pub(crate) fn record_refused(kind: Kind, unread: u64) {
    numbered_record_refused(kind as u32, unread);
}

/// Kinds are numbered as in `record::Kind`.
#[inline(never)]
fn numbered_record_refused(kind: u32, unread: u64) {
    debug!((), "record of kind {} refused: {} bytes of the ring buffer unread", kind, unread);
}

/// A packet's headers contradict each other, or it is shorter than they say.
#[inline(never)]
pub(crate) fn malformed_header(ifindex: u32) {
    debug!((), "interface {}: TCP header malformed or truncated", ifindex);
}

/// A transition was refused: it is between states that are none of TCP.
#[inline(never)]
pub(crate) fn unknown_state(old: u32, new: u32) {
    debug!((), "transition from state {} to {} refused: not of TCP", old, new);
}
