//! What the machine and its processes have used: time of CPUs, memory.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::param::clock_ticks_per_second;

/// The time of all CPUs, from a moment on.
pub(crate) struct Cpus {
    begun: Instant,
    unused: Duration,
}

impl Cpus {
    pub(crate) fn now() -> Result<Self> {
        Ok(Self { begun: Instant::now(), unused: unused()? })
    }

    /// Time that was used since then, by whatever ran, interrupts included.
    pub(crate) fn used(&self) -> Result<Duration> {
        let all = self.begun.elapsed() * u32::try_from(thread::available_parallelism()?.get())?;
        Ok(all.saturating_sub(unused()?.saturating_sub(self.unused)))
    }
}

/// Waits for a moment in which nothing else runs, such as the removal of the namespaces of the run
/// before.
///
/// # Errors
/// If the machine stays busy.
pub(crate) fn await_idle() -> Result<()> {
    let begun = Instant::now();
    loop {
        let cpus = Cpus::now()?;
        thread::sleep(OBSERVED);
        let used = cpus.used()?.as_secs_f64() / OBSERVED.as_secs_f64();
        if used < MOST_USED {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            let load = fs::read_to_string("/proc/loadavg")?;
            bail!(
                "the machine is busy: {used:.2} CPUs are in use, load average {}; a measurement would not \
                 mean anything. End what runs, or add --force",
                load.trim()
            );
        }
    }
}

/// Time that a process has computed so far.
pub(crate) fn process_time(pid: u32) -> Result<Duration> {
    let mut clock = 0;
    // SAFETY: it writes the clock's id and nothing else.
    let error = unsafe { libc::clock_getcpuclockid(libc::pid_t::try_from(pid)?, &raw mut clock) };
    ensure!(error == 0, "process {pid} has no clock");
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes the time and nothing else.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    ensure!(result == 0, "cannot read the clock of process {pid}");
    Ok(Duration::new(u64::try_from(time.tv_sec)?, u32::try_from(time.tv_nsec)?))
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    Ok(resident.context("no VmRSS")?.parse::<u64>()? * 1024)
}

/// Time in which the CPUs were idle, waited for input, or belonged to another virtual machine
/// (proc_stat(5)).
fn unused() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields: Vec<u64> =
        stat.lines().next().context("no cpu")?.split_whitespace().flat_map(str::parse).collect();
    let [_user, _nice, _system, idle, iowait, _irq, _softirq, steal, ..] = fields[..] else {
        bail!("/proc/stat is too short");
    };
    Ok(Duration::from_millis((idle + iowait + steal) * 1000 / clock_ticks_per_second()))
}

/// How long the machine is observed before a run.
const OBSERVED: Duration = Duration::from_millis(200);
/// CPUs that may be in use meanwhile.
const MOST_USED: f64 = 0.1;
const PATIENCE: Duration = Duration::from_secs(15);
