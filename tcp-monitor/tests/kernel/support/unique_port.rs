//! Ports for trials in which an agent watches more than the trial's own namespaces.

use std::{
    process,
    sync::atomic::{AtomicU16, Ordering},
};

/// A port, below the ephemeral ones, that no other trial uses, nor those of another run of the
/// suite on this machine.
pub(crate) fn unique_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    const PORTS_A_RUN: u32 = 16;
    let run = process::id() % 700;
    let taken = u32::from(TAKEN.fetch_add(1, Ordering::Relaxed)) % PORTS_A_RUN;
    20_000 + (run * PORTS_A_RUN + taken) as u16
}
