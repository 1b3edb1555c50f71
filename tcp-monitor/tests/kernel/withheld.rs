//! What a machine hides from every tracing program, so that no agent can know of it.
//!
//! The kernels of some sandboxes run no tracing program while a thread of the first process is the current one. What sockets
//! do in a softirq that interrupts it then passes unseen. The kernel's own tracer shows that it happened.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    process,
    sync::LazyLock,
};

use anyhow::Result;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Events while the first process is the current one, as long as the suite runs.
struct Witness {
    /// tracefs, mounted nowhere.
    _tracefs: OwnedFd,
    /// An instance of the tracer.
    instance: PathBuf,
}

/// `None` where there is no such tracer.
static WITNESS: LazyLock<Option<Witness>> = LazyLock::new(|| Witness::start().ok());

/// How many events may have been withheld so far: as many as happened while the first process was the current one.
pub(crate) fn events() -> usize {
    WITNESS.as_ref().and_then(|witness| witness.events().ok()).unwrap_or(0)
}

/// To be called at the end of the suite.
pub(crate) fn forget() {
    if let Some(witness) = WITNESS.as_ref() {
        let _ = fs::remove_dir(&witness.instance);
    }
}

impl Witness {
    fn start() -> Result<Self> {
        let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let tracefs = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let instance =
            format!("/proc/self/fd/{}/instances/tcpmon-{}", tracefs.as_raw_fd(), process::id()).into();
        fs::create_dir(&instance)?;
        let witness = Self { _tracefs: tracefs, instance };
        let threads: Vec<_> = fs::read_dir("/proc/1/task")?
            .filter_map(|thread| thread.ok()?.file_name().into_string().ok())
            .collect();
        fs::write(witness.instance.join("set_event_pid"), threads.join(" "))?;
        for event in EVENTS {
            fs::write(witness.instance.join("events").join(event).join("enable"), "1")?;
        }
        Ok(witness)
    }

    fn events(&self) -> Result<usize> {
        let trace = fs::read_to_string(self.instance.join("trace"))?;
        Ok(trace.lines().filter(|line| !line.starts_with('#')).count())
    }
}

/// Those to which the agent attaches.
const EVENTS: [&str; 5] = [
    "sock/inet_sock_set_state",
    "tcp/tcp_send_reset",
    "tcp/tcp_receive_reset",
    "tcp/tcp_retransmit_skb",
    "tcp/tcp_retransmit_synack",
];
