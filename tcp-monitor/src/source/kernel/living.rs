//! Whether another agent is running. A filter on a clsact qdisc looks the same whether its agent lives or was killed, and
//! only what a killed one left may be removed.

use std::fs::{File, OpenOptions};

use rustix::fs::{FlockOperation, flock};

use super::classifier::Mode;

/// This agent's share in a lock that all agents with filters hold. The kernel lets go of it when the process ends, however
/// it ends.
pub(super) struct Living {
    /// `None` if there can be no lock: then this agent takes itself for the only one.
    file: Option<File>,
    /// What is held between the looks.
    rest: FlockOperation,
}

impl Living {
    /// Tells other agents, from now on, that this one lives and may have filters.
    pub(super) fn announce(mode: Mode) -> Self {
        let rest = match mode {
            // Links vanish with the process: there is nothing to protect.
            Mode::Tcx => FlockOperation::NonBlockingUnlock,
            Mode::Clsact => FlockOperation::NonBlockingLockShared,
        };
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(PATH);
        let file = opened.inspect_err(|error| log::debug!("{PATH} cannot be opened: {error}")).ok();
        let living = Self { file, rest };
        living.settle();
        living
    }

    /// Does something that no other agent must see, unless another one lives.
    pub(super) fn if_alone<T>(&self, act: impl FnOnce() -> T) -> Option<T> {
        let Some(file) = &self.file else { return Some(act()) };
        let alone = flock(file, FlockOperation::NonBlockingLockExclusive).is_ok();
        let result = alone.then(act);
        self.settle();
        result
    }

    fn settle(&self) {
        if let Some(file) = &self.file
            && let Err(error) = flock(file, self.rest)
        {
            // Another agent is looking at this very moment; it holds the lock for milliseconds.
            log::debug!("{PATH} cannot be locked: {error}");
        }
    }
}

const PATH: &str = "/run/tcp-monitor.lock";
