//! The kernel programs of tcp-monitor: one file per hook, named after it, over a few files of what they share.

// For any other target the crate is only checked, by clippy.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

mod acks;
mod arrivals;
mod baseline;
mod classifier;
mod fate;
mod glance;
mod half_open;
mod inet_sock_set_state;
mod instruction;
mod kernel;
mod lifetime;
mod lookup;
mod orphans;
mod packet;
mod ports;
mod records;
mod resets;
mod socket;
mod tables;
mod tcp_receive_reset;
mod tcp_retransmit_skb;
mod tcp_retransmit_synack;
mod tcp_send_reset;
mod turn;

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
