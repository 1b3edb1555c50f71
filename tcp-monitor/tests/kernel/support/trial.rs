//! A trial and what it needs of the machine. One that cannot run is ignored with the reason; one
//! that fails prints the command that runs it alone.

use std::{
    env, fs,
    panic::{self, AssertUnwindSafe},
    path::Path,
};

use anyhow::{Result, anyhow};
use libtest_mimic::{Completion, Failed, Trial};

use crate::support::{burst_device, command_line::command_for, skipped_runs};

/// Something that a machine may not have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// The superuser: namespaces, and the agent's privileges.
    Root,
    /// `/sys/kernel/btf/vmlinux`, from which the agent takes its offsets.
    Btf,
    /// A program in the PATH.
    Tool(&'static str),
    /// A device file.
    Device(&'static str),
    /// A setting of the kernel: a file in `/proc/sys`.
    Setting(&'static str),
    /// A device whose packets the kernel receives several at a time, as a list.
    PacketLists,
}

/// What every trial that runs the agent needs.
pub(crate) const AGENT: &[Need] = &[Need::Root, Need::Btf, Need::Tool("ip"), Need::Tool("ss")];
/// What a trial needs that compares with a capture.
pub(crate) const CAPTURE: &[Need] = &[Need::Tool("tcpdump"), Need::Tool("tshark")];
/// Tun devices: those of a `ControlledLink` or an `OutsideNetwork`.
pub(crate) const TUN: &[Need] = &[Need::Device("/dev/net/tun")];

/// A trial that runs `body` if the machine has what it needs. If it fails, the command that runs it
/// alone is printed.
pub(crate) fn trial(
    name: impl Into<String>,
    needs: &[&'static [Need]],
    body: impl Fn() -> Result<()> + Send + 'static,
) -> Trial {
    let (name, needs) = (name.into(), needs.concat());
    let command = command_for(&name);
    Trial::ignorable_test(name, move || {
        if let Some(lacking) = needs.iter().find_map(|need| need.lacking()) {
            return Ok(Completion::ignored_with(lacking));
        }
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| attempt(body)))
            .unwrap_or_else(|_| Err(anyhow!("panicked: the message is on stderr")));
        outcome.map_err(|error| Failed::from(format!("{error:#}\n\nTo run it alone:\n    {command}\n")))?;
        Ok(Completion::Completed)
    })
}

/// The traffic is not what the trial needs: on a busy machine a timer of the kernel may expire
/// first. This is no fault of the agent.
#[derive(Debug, thiserror::Error)]
#[error("the traffic is not as intended: {0}")]
pub(crate) struct UnintendedTraffic(pub(crate) String);

/// On a busy machine the agent did not finish in time what it does only for a limited time, as
/// documented.
#[derive(Debug, thiserror::Error)]
#[error("out of time: {0}")]
pub(crate) struct OutOfTime(pub(crate) String);

/// Runs `body`, and again if it fails while this machine may have skipped runs of the kernel
/// programs (see [`skipped_runs`]), or with [`UnintendedTraffic`] or [`OutOfTime`]. One of the
/// attempts must succeed.
pub(crate) fn attempt(body: impl Fn() -> Result<()>) -> Result<()> {
    for _ in 1..ATTEMPTS {
        let before = skipped_runs::count();
        let Err(error) = body() else { return Ok(()) };
        let skipped = skipped_runs::count() - before;
        if skipped > 0 {
            eprintln!("another attempt: the machine skipped {skipped} program runs at most: {error:#}");
        } else if error.chain().any(|cause| cause.is::<UnintendedTraffic>() || cause.is::<OutOfTime>()) {
            eprintln!("another attempt: {error:#}");
        } else {
            return Err(error);
        }
    }
    body()
}

/// Where program runs are skipped, every third run of the heaviest trials fails.
const ATTEMPTS: usize = 8;

impl Need {
    pub(crate) fn is_met(self) -> bool {
        self.lacking().is_none()
    }

    /// What is missing, for the reader.
    fn lacking(self) -> Option<String> {
        match self {
            Self::Root => (!rustix::process::geteuid().is_root()).then(|| "needs root".to_owned()),
            Self::Btf => lacking_file("/sys/kernel/btf/vmlinux"),
            Self::Device(path) => lacking_file(path),
            Self::Setting(name) => lacking_file(&format!("/proc/sys/{name}")),
            Self::PacketLists => burst_device::lacking_for_packet_lists(),
            Self::Tool(name) => (!is_in_path(name)).then(|| format!("needs {name} in the PATH")),
        }
    }
}

pub(crate) fn lacking_file(path: &str) -> Option<String> {
    fs::exists(path).is_ok_and(|exists| !exists).then(|| format!("needs {path}"))
}

fn is_in_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| Path::new(&directory).join(program).is_file())
}
