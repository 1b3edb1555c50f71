//! Runs of kernel programs that this machine skips, so that no agent can report the event.
//!
//! The kernels of some sandboxes run no tracing program while a thread of process 1 is the current
//! task. What a softirq does to sockets while it interrupts that thread is then not reported. The
//! kernel's own event tracer shows how often that happened.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process,
    sync::LazyLock,
};

use anyhow::Result;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Records events while process 1 is the current task, as long as the suite runs.
struct Tracer {
    /// tracefs, not mounted in any directory.
    _tracefs: OwnedFd,
    /// An instance of the tracer.
    instance: PathBuf,
}

/// `None` where there is no such tracer.
static TRACER: LazyLock<Option<Tracer>> = LazyLock::new(|| Tracer::start().ok());

/// How many program runs may have been skipped so far: as many as there were events while process 1
/// was the current task.
pub(crate) fn count() -> usize {
    TRACER.as_ref().and_then(|tracer| tracer.events().ok()).unwrap_or(0)
}

/// Removes the tracer instance; to be called at the end of the suite.
pub(crate) fn remove_tracer() {
    if let Some(tracer) = TRACER.as_ref() {
        let _ = fs::remove_dir(&tracer.instance);
    }
}

impl Tracer {
    fn start() -> Result<Self> {
        let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let tracefs = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let instances = PathBuf::from(format!("/proc/self/fd/{}/instances", tracefs.as_raw_fd()));
        remove_left_over(&instances);
        let instance = instances.join(format!("{PREFIX}{}", process::id()));
        fs::create_dir(&instance)?;
        let tracer = Self { _tracefs: tracefs, instance };
        let threads: Vec<_> = fs::read_dir("/proc/1/task")?
            .filter_map(|thread| thread.ok()?.file_name().into_string().ok())
            .collect();
        fs::write(tracer.instance.join("set_event_pid"), threads.join(" "))?;
        for event in EVENTS {
            fs::write(tracer.instance.join("events").join(event).join("enable"), "1")?;
        }
        Ok(tracer)
    }

    /// How many events were recorded, those included that the tracer has overwritten since.
    fn events(&self) -> Result<usize> {
        let mut events = 0;
        for cpu in fs::read_dir(self.instance.join("per_cpu"))? {
            let statistics = fs::read_to_string(cpu?.path().join("stats"))?;
            for (name, value) in statistics.lines().filter_map(|line| line.split_once(':')) {
                if matches!(name, "entries" | "overrun") {
                    events += value.trim().parse::<usize>()?;
                }
            }
        }
        Ok(events)
    }
}

/// Removes what killed runs of the suite left: each instance costs every event some time.
fn remove_left_over(instances: &Path) {
    for instance in fs::read_dir(instances).into_iter().flatten().flatten() {
        let name = instance.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = fs::remove_dir(instance.path());
        }
    }
}

/// Begins the names of instances; the number of the process follows.
const PREFIX: &str = "tcpmon-";
/// The tracepoints that the agent attaches to.
const EVENTS: [&str; 5] = [
    "sock/inet_sock_set_state",
    "tcp/tcp_send_reset",
    "tcp/tcp_receive_reset",
    "tcp/tcp_retransmit_skb",
    "tcp/tcp_retransmit_synack",
];
