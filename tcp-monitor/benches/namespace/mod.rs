//! A network namespace for a benchmark alone.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Moves this thread, and those and the processes that it starts from now on, to a new one.
pub(crate) fn enter_new() -> Result<()> {
    // SAFETY: only the network namespace is left; no file descriptor is shared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .context("cannot make a network namespace")?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("cannot run ip")?;
    ensure!(up.success(), "cannot set the loopback interface up");
    Ok(())
}
