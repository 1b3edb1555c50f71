//! Attaches the two classifiers to an interface and detaches them: by TCX links, or on a clsact
//! qdisc before 6.6.

use std::{io, mem};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError},
    },
};
use tcp_monitor_common::abi::maps::program;

use super::error::{is_transient, os_error as system_number, with_causes};

/// Both classifiers, loaded, and how to attach them. Keeps all kernel programs loaded.
pub(super) struct Classifiers {
    ebpf: Ebpf,
    mode: Mode,
}

/// How classifiers are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Links that vanish with the process (6.6 and later).
    Tcx,
    /// Filters on a clsact qdisc, which stay after a crash.
    Clsact,
}

/// The classifiers on one interface. Detached when dropped, which must happen in the interface's
/// namespace.
pub(super) struct Attachment {
    links: Vec<SchedClassifierLink>,
    mode: Mode,
    /// The clsact qdisc was made for these classifiers.
    pub(super) made_qdisc: bool,
}

/// Why classifiers were not attached.
pub(super) enum AttachError {
    /// The interface is not there any more.
    Gone,
    /// They are attached already: the interface came from another namespace, where they are not
    /// detached yet.
    Already,
    /// Nothing is wrong with the interface: it may work when there are more descriptors or there is
    /// more memory.
    NotNow(String),
    /// Anything else.
    Refused(String),
}

impl Classifiers {
    pub(super) fn new(ebpf: Ebpf, mode: Mode) -> Self {
        Self { ebpf, mode }
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// Attaches both classifiers to an interface of the namespace that the thread is in.
    pub(super) fn attach(&mut self, interface: &str) -> Result<Attachment, AttachError> {
        let created = match self.mode {
            Mode::Tcx => false,
            Mode::Clsact => add_clsact(interface)?,
        };
        let mut attachment = Attachment { links: Vec::new(), mode: self.mode, made_qdisc: created };
        for (name, direction) in DIRECTIONS {
            attachment.links.push(self.attach_one(interface, name, direction)?);
        }
        Ok(attachment)
    }

    fn attach_one(
        &mut self,
        interface: &str,
        name: &'static str,
        direction: TcAttachType,
    ) -> Result<SchedClassifierLink, AttachError> {
        let program: &mut SchedClassifier = self
            .ebpf
            .program_mut(name)
            .ok_or_else(|| AttachError::Refused(format!("there is no program {name}")))?
            .try_into()
            .map_err(classify)?;
        let options = match self.mode {
            // First: a later program may drop or redirect the packet, and an earlier one would hide
            // it.
            Mode::Tcx => TcAttachOptions::TcxOrder(LinkOrder::first()),
            // Without a priority the kernel chooses one before all others.
            Mode::Clsact => TcAttachOptions::Netlink(NlOptions::default()),
        };
        let link = program.attach_with_options(interface, direction, options).map_err(classify)?;
        program.take_link(link).map_err(classify)
    }
}

impl Attachment {
    /// Gives up the classifiers of an interface that is gone, and its filters with it. Nothing is
    /// left to detach: a filter's place may by now be that of another interface.
    pub(super) fn forget(mut self) {
        match self.mode {
            Mode::Tcx => {}
            Mode::Clsact => self.links.drain(..).for_each(mem::forget),
        }
    }
}

/// Removes the filters that runs which were killed left on the interface; whether there were any.
///
/// They are known by the programs' names only, so no other agent may be running here.
pub(super) fn remove_stale(interface: &str) -> bool {
    // An error is that there are none; any other shows again when attaching.
    DIRECTIONS
        .map(|(name, direction)| tc::qdisc_detach_program(interface, direction, name).is_ok())
        .contains(&true)
}

/// Whether the qdisc was not there before.
fn add_clsact(interface: &str) -> Result<bool, AttachError> {
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => Ok(true),
        Err(error) if os_error(&error) == Some(EEXIST) => Ok(false),
        Err(error) => Err(classify(error.into())),
    }
}

fn classify(error: ProgramError) -> AttachError {
    let number = system_number(&error).or(if let ProgramError::SyscallError(error) = &error {
        error.io_error.raw_os_error()
    } else if let ProgramError::TcError(error) = &error {
        os_error(error)
    } else if let ProgramError::NetlinkError(error) = &error {
        error.raw_os_error()
    } else {
        None
    });
    match number {
        Some(ENODEV | ENXIO) => AttachError::Gone,
        // What the C library says if it has no descriptor left.
        Some(ENOENT) => {
            AttachError::NotNow("no file descriptor is left to look up the interface with".to_owned())
        }
        Some(number) if is_transient(number) => AttachError::NotNow(with_causes(&error)),
        Some(EEXIST) => AttachError::Already,
        Some(_) | None => AttachError::Refused(with_causes(&error)),
    }
}

fn os_error(error: &TcError) -> Option<i32> {
    match error {
        TcError::NetlinkError(error) => error.raw_os_error(),
        TcError::IoError(error) => io::Error::raw_os_error(error),
        TcError::NulError(_)
        | TcError::AlreadyAttached
        | TcError::InvalidTcxAttach(_)
        | TcError::InvalidLinkOperation => None,
    }
}

const DIRECTIONS: [(&str, TcAttachType); 2] =
    [(program::INGRESS, TcAttachType::Ingress), (program::EGRESS, TcAttachType::Egress)];

/// errno(3), the same on every architecture that has eBPF.
const ENOENT: i32 = 2;
const ENXIO: i32 = 6;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
