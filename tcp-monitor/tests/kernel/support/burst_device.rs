//! A device from which the kernel receives many packets at once, as from network hardware, so that
//! it processes them in lists: the classifier sees all packets of a list before TCP sees the first.
//!
//! A kernel thread polls the device on one CPU. While a thread of higher priority occupies that
//! CPU, packets that it writes queue up; then one poll receives all of them.

use std::{
    fs, process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context, Result, anyhow};
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

use crate::support::{
    child_process::output, deadline::poll_until, namespace::Namespace, outside_host::OutsideNetwork,
    priority, trial::lacking_file, tun::polled_tun,
};

/// Outside hosts whose packets arrive in bursts.
pub(crate) struct BurstDevice {
    pub(crate) outside: OutsideNetwork,
    /// Where the device is polled.
    cpu: usize,
}

impl BurstDevice {
    pub(crate) fn new(namespace: &Namespace) -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        // The kernel truncates names of threads, and no other device may have the same name.
        let device = format!("n{}x{}", process::id(), MADE.fetch_add(1, Ordering::Relaxed) % 10);
        let outside = OutsideNetwork::behind(polled_tun(namespace, &device)?, &device, namespace)?;
        // sysfs as `ip netns exec` mounts it shows the namespace's devices.
        let threaded = format!("echo 1 > /sys/class/net/{device}/threaded");
        output(namespace.command("sh").args(["-c", &threaded]))?;
        let cpus = sched_getaffinity(None)?;
        let cpu = (0..CpuSet::MAX_CPU).rev().find(|cpu| cpus.is_set(*cpu)).context("no CPU")?;
        sched_setaffinity(Some(poller(&device)?), &only(cpu)).context("the poller stays where it is")?;
        Ok(Self { outside, cpu })
    }

    /// Sends packets so that all of them arrive at once. They are processed when the call returns,
    /// or shortly after.
    pub(crate) fn send(&self, packets: &[Vec<u8>]) -> Result<()> {
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                sched_setaffinity(None, &only(self.cpu))?;
                priority::raise().context("no priority")?;
                packets.iter().for_each(|packet| self.outside.send(packet));
                anyhow::Ok(())
            });
            sender.join().map_err(|_| anyhow!("the sender panicked"))?
        })
    }
}

/// Why this machine cannot make lists, or `None` if it can.
pub(crate) fn lacking_for_packet_lists() -> Option<String> {
    let files = ["/dev/net/tun", "/sys/class/net/lo/threaded", LIST_LEN];
    files.into_iter().find_map(lacking_file).or_else(lacking_len).or_else(|| {
        // Not on a thread that does something else afterwards.
        match thread::spawn(priority::raise).join() {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("needs SCHED_FIFO: {error}")),
            Err(_) => Some("needs a thread".to_owned()),
        }
    })
}

fn lacking_len() -> Option<String> {
    let is_long_enough = list_len().is_ok_and(|len| (2..=LONGEST).contains(&len));
    (!is_long_enough).then(|| format!("needs a {LIST_LEN} of 2 to {LONGEST}"))
}

/// The greatest number of packets in a list.
pub(crate) fn list_len() -> Result<usize> {
    Ok(fs::read_to_string(LIST_LEN)?.trim().parse()?)
}

/// The thread that polls a device.
fn poller(device: &str) -> Result<Pid> {
    let name = format!("napi/{device}");
    let find = || {
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // It may have ended meanwhile.
            let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if comm.starts_with(&name) {
                return Ok(Some(pid));
            }
        }
        Ok(None)
    };
    let pid = poll_until(&format!("the thread {name}"), find, Option::is_some)?;
    pid.and_then(Pid::from_raw).context("a pid of 0")
}

fn only(cpu: usize) -> CpuSet {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    cpus
}

const LIST_LEN: &str = "/proc/sys/net/core/gro_normal_batch";
/// The default, for which the kernel programs are made.
const LONGEST: usize = 8;
