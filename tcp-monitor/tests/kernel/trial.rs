//! A trial, and what it needs of the machine; one that cannot run says why instead of passing.

use std::{env, fs, path::Path};

use anyhow::Result;
use libtest_mimic::{Completion, Failed, Trial};

use crate::{napi, withheld};

/// Something a machine may lack.
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
    /// Packets that the kernel takes from a device several at a time.
    Lists,
}

/// What every trial that runs the agent needs.
pub(crate) const AGENT: &[Need] = &[Need::Root, Need::Btf, Need::Tool("ip"), Need::Tool("ss")];
/// And what one needs that compares with a capture.
pub(crate) const CAPTURE: &[Need] = &[Need::Tool("tcpdump"), Need::Tool("tshark")];
/// The devices of a [`Wire`](crate::wire::Wire).
pub(crate) const WIRE: &[Need] = &[Need::Device("/dev/net/tun")];

/// A trial that runs `body` if the machine has what it needs.
pub(crate) fn trial(
    name: impl Into<String>,
    needs: &[&'static [Need]],
    body: impl Fn() -> Result<()> + Send + 'static,
) -> Trial {
    let needs = needs.concat();
    Trial::ignorable_test(name, move || {
        if let Some(lacking) = needs.iter().find_map(|need| need.lacking()) {
            return Ok(Completion::ignored_with(lacking));
        }
        attempt(body).map_err(|error| Failed::from(format!("{error:#}")))?;
        Ok(Completion::Completed)
    })
}

/// Runs `body`, and again if it fails where the machine may have hidden an event from the agent. It must succeed in the end.
pub(crate) fn attempt(body: impl Fn() -> Result<()>) -> Result<()> {
    for _ in 1..ATTEMPTS {
        let before = withheld::events();
        let outcome = body();
        let hidden = withheld::events() - before;
        match outcome {
            Err(error) if hidden > 0 => {
                eprintln!("once more, for the machine hid some events ({hidden} or fewer): {error:#}");
            }
            outcome => return outcome,
        }
    }
    body()
}

/// Of the heaviest trials, every third fails on such a machine.
const ATTEMPTS: usize = 8;

impl Need {
    pub(crate) fn is_met(self) -> bool {
        self.lacking().is_none()
    }

    /// What is missing, in words.
    fn lacking(self) -> Option<String> {
        match self {
            Self::Root => (!rustix::process::geteuid().is_root()).then(|| "needs root".to_owned()),
            Self::Btf => lacking_file("/sys/kernel/btf/vmlinux"),
            Self::Device(path) => lacking_file(path),
            Self::Setting(name) => lacking_file(&format!("/proc/sys/{name}")),
            Self::Lists => napi::lacking_for_lists(),
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
