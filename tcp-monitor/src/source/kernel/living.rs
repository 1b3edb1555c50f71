//! Whether another agent is running in a network namespace. A filter on a clsact qdisc looks the same whether its agent
//! lives or was killed, and only what a killed one left may be removed.

use std::{
    fs::{self, File, OpenOptions},
    path::PathBuf,
};

use rustix::fs::{FlockOperation, flock};

use super::classifier::Mode;

/// This agent's share in a lock that all agents with filters in the namespace hold. The kernel lets go of it when the
/// process ends, however it ends.
pub(super) struct Living {
    path: PathBuf,
    /// `None` if there can be no lock: then this agent takes itself for the only one.
    file: Option<File>,
    /// What is held between the looks.
    rest: FlockOperation,
}

impl Living {
    /// Tells other agents, from now on, that this one lives and may have filters in the namespace `netns`.
    pub(super) fn announce(mode: Mode, netns: u32) -> Self {
        let path = PathBuf::from(format!("/run/tcp-monitor-{netns}.lock"));
        let (create, rest) = match mode {
            // Links vanish with the process: there is nothing to protect, and where no file is, no filter was.
            Mode::Tcx => (false, FlockOperation::NonBlockingUnlock),
            Mode::Clsact => (true, FlockOperation::NonBlockingLockShared),
        };
        let opened = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(&path);
        let file = opened.inspect_err(|error| log::debug!("{}: {error}", path.display())).ok();
        let living = Self { path, file, rest };
        living.settle();
        living
    }

    /// Does something that must not be done while another agent lives, unless one does.
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
            log::debug!("{}: {error}", self.path.display());
        }
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        // The last one takes the file along.
        self.if_alone(|| fs::remove_file(&self.path).ok());
    }
}
