//! The kernel programs of tcp-monitor.
//!
//! Each folder uses only those after it:
//! - [`hooks`]: one file a hook, named after it.
//! - [`state`]: the maps that several hooks share, one file each.
//! - [`output`]: counters, records and the log.
//! - [`kernel`]: reading the kernel's sockets and packets.

// For any other target the crate is only checked, by clippy.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

mod hooks;
mod kernel;
mod output;
mod state;

/// The helpers for reading kernel memory are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no program can get here.
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
