//! The programs' log, for their maintainers: `tcp-monitor --kernel-log`.
//!
//! Its level is a read-only global: when the log is off, the verifier removes all of it.
//!
//! A message is a function call. Before 6.4 the verifier cannot trace a number back over a call,
//! and then checks nearly each path to the end of the program. So a message comes right before the
//! end.
//!
//! A message has its line number in it, so that a comment moved in this file changes the object.

use aya_log_ebpf::debug;

/// A packet's headers contradict each other, or it is shorter than they say.
#[inline(always)]
pub(crate) fn malformed_header(ifindex: u32) {
    debug!((), "interface {}: TCP header malformed or truncated", ifindex);
}
