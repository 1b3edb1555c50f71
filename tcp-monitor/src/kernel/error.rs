//! Why the kernel programs could not be put to work, and the exit code that says so.

use std::{error::Error, fmt, io, iter, path::PathBuf};

use aya::{EbpfError, maps::MapError};
use thiserror::Error as Explained;

use super::{btf::BtfError, privilege::MissingPrivilege};

/// Why [`start`](super::start) failed. Each message holds its cause, which therefore is no
/// `source`.
#[derive(Debug, Explained)]
pub enum KernelError {
    /// A capability is missing.
    #[error(transparent)]
    Privilege(#[from] MissingPrivilege),
    /// The kernel does not have what the programs rely on, or does not say.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The kernel makes ring buffers only of certain sizes.
    #[error("a ring buffer of {0} bytes is not possible: choose a power of two of at least 4096")]
    RingSize(u32),
    /// No network namespace has that name.
    #[error(
        "network namespace `{name}` cannot be opened: {}: {cause}; `ip netns list` shows those that have a name",
        path.display()
    )]
    Netns {
        /// What the operator wrote.
        name: String,
        /// Where it was looked for.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// No interface has that name.
    #[error("there is no interface `{name}` here; there are: {}", known.join(", "))]
    Interface {
        /// What the operator wrote.
        name: String,
        /// The interfaces of the namespace.
        known: Vec<String>,
    },
    /// The process is in a user namespace of its own, whose capabilities do not count for eBPF.
    #[error(
        "capabilities of the initial user namespace are needed, and this process is in another one \
         (a rootless container, `unshare --user`): start it outside"
    )]
    UserNamespace,
    /// The process, or the system, has no file descriptor left.
    #[error("cannot {action}: {cause}; {FILE_LIMIT}")]
    FileLimit {
        /// What was tried.
        action: String,
        /// The system's reason.
        cause: io::Error,
    },
    /// The object with the kernel programs could not be loaded.
    #[error("the kernel programs cannot be loaded: {}", with_causes(.0))]
    Object(EbpfError),
    /// A map is missing, or could not be filled.
    #[error("map {map} cannot be set up: {}", with_causes(.cause))]
    Map {
        /// The map's name.
        map: &'static str,
        /// aya's reason.
        cause: MapError,
    },
    /// A map or program is missing in the object.
    #[error(
        "the object with the kernel programs has no {0}: it does not belong to this tcp-monitor; build both again"
    )]
    Incomplete(&'static str),
    /// The kernel does not take a program, or does not attach it.
    #[error("kernel {release} does not {step} program `{program}`: {cause}{log}")]
    Program {
        /// The program's name.
        program: String,
        /// `load` or `attach`.
        step: &'static str,
        /// `uname -r`.
        release: String,
        /// The system's reason, and what to do.
        cause: String,
        /// The verifier's last lines, each on its own line, or nothing.
        log: String,
        /// The kernel said EPERM.
        forbidden: bool,
    },
    /// A classifier could not be attached to any interface, or not to one that was asked for.
    #[error("segments on interface `{interface}` cannot be seen: {cause}; use --interface to choose others")]
    Classifier {
        /// The interface's name.
        interface: String,
        /// The system's reason.
        cause: String,
    },
    /// Anything else that the system refused.
    #[error("cannot {action}: {cause}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        cause: io::Error,
    },
}

impl KernelError {
    /// The process's exit code: 3 for a missing privilege, 4 for a kernel that is not supported,
    /// else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Privilege(_) | Self::UserNamespace | Self::Program { forbidden: true, .. } => 3,
            Self::Btf(_) | Self::Program { forbidden: false, .. } => 4,
            Self::RingSize(_)
            | Self::Netns { .. }
            | Self::Interface { .. }
            | Self::FileLimit { .. }
            | Self::Object(_)
            | Self::Map { .. }
            | Self::Incomplete(_)
            | Self::Classifier { .. }
            | Self::System { .. } => 1,
        }
    }

    pub(super) fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::file_limit(&action, &cause).unwrap_or(Self::System { action, cause })
    }

    /// The error to report instead of `error` if that comes from a lack of file descriptors.
    pub(super) fn file_limit(
        action: &(impl fmt::Display + ?Sized),
        error: &(dyn Error + 'static),
    ) -> Option<Self> {
        let number = os_error(error).filter(|number| [EMFILE, ENFILE].contains(number))?;
        let cause = io::Error::from_raw_os_error(number);
        Some(Self::FileLimit { action: action.to_string(), cause })
    }
}

/// The number of the system's error among an error and those that caused it.
pub(super) fn os_error(error: &(dyn Error + 'static)) -> Option<i32> {
    iter::successors(Some(error), |&error| error.source()).find_map(|error| {
        // aya shows this one as if it were the system's error itself, and so not as its source.
        if let Some(MapError::IoError(error)) = error.downcast_ref() {
            return error.raw_os_error();
        }
        error.downcast_ref::<io::Error>()?.raw_os_error()
    })
}

/// Whether what failed with this number may work a moment later, when there are more descriptors or
/// there is more memory.
pub(super) fn is_transient(number: i32) -> bool {
    [EAGAIN, ENOMEM, ENFILE, EMFILE].contains(&number)
}

/// An error with the errors that caused it, each at most once.
pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// What to do when descriptors run out.
pub(super) const FILE_LIMIT: &str =
    "raise the limit of open files (`ulimit -n`; LimitNOFILE= in a systemd unit)";
/// errno(3), the same on every architecture that has eBPF.
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

#[cfg(test)]
mod tests {
    use std::io;

    use aya::{EbpfError, maps::MapError};

    use super::{EMFILE, KernelError};

    #[test]
    fn a_lack_of_descriptors_is_found_below_other_errors_and_is_no_unsupported_kernel() {
        let lack = || io::Error::from_raw_os_error(EMFILE);
        let create = MapError::CreateError { name: "PORTS".to_owned(), io_error: lack() };
        for error in [create, MapError::IoError(lack())] {
            let error =
                KernelError::file_limit("load", &EbpfError::MapError(error)).expect("EMFILE is there");
            assert_eq!(error.exit_code(), 1);
            assert!(error.to_string().contains("`ulimit -n`"), "{error}");
        }
        assert!(KernelError::file_limit("load", &MapError::KeyNotFound).is_none());
    }
}
