//! The kernel as the programs see it: its memory, sockets and packets.

pub(crate) mod asm;
pub(crate) mod layout;
pub(crate) mod lookup;
pub(crate) mod memory;
pub(crate) mod nesting;
pub(crate) mod packet;
pub(crate) mod path;
pub(crate) mod prefilter;
pub(crate) mod socket;

use aya_ebpf::helpers::bpf_ktime_get_ns;

/// `CLOCK_MONOTONIC`, nanoseconds.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { bpf_ktime_get_ns() }
}
