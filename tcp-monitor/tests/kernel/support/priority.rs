//! Threads that must not wait for others: those that play a network, and those that fill a CPU's
//! queue.

use std::io;

/// Gives the calling thread precedence over all threads of normal priority: they get its CPU only
/// while it blocks.
///
/// # Errors
/// Without the privilege.
pub(crate) fn raise() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 1 };
    // SAFETY: reads the parameter.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
