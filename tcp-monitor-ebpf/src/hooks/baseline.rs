//! Programs that the benchmarks compare with. The agent never loads them: what they cost is what
//! measuring itself costs, and what any record costs.

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    macros::{btf_tracepoint, classifier},
    programs::{BtfTracePointContext, TcContext},
};

use crate::output::ring::RECORDS;

const TC_ACT_UNSPEC: i32 = -1;

/// Does nothing.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn baseline_tracepoint(_ctx: BtfTracePointContext) -> i32 {
    0
}

/// Does nothing.
#[classifier]
pub(crate) fn baseline_classifier(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// A record of 64 bytes for each transition, without waking its reader.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn baseline_record(_ctx: BtfTracePointContext) -> i32 {
    if let Some(mut record) = RECORDS.reserve::<[u64; 8]>(0) {
        record.write([0; 8]);
        record.submit(u64::from(BPF_RB_NO_WAKEUP));
    }
    0
}
