//! Programs that do nothing. The agent never loads them; the benchmark does, to know what measuring
//! itself costs.

use aya_ebpf::{
    macros::{btf_tracepoint, classifier},
    programs::{BtfTracePointContext, TcContext},
};

const TC_ACT_UNSPEC: i32 = -1;

#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn baseline_tracepoint(_ctx: BtfTracePointContext) -> i32 {
    0
}

#[classifier]
pub(crate) fn baseline_classifier(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}
