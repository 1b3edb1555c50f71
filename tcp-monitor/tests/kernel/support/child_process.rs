//! A child process that does not outlive the trial which started it.

use std::{
    fs,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    param::clock_ticks_per_second,
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

use crate::support::deadline::STALLED;

/// A running child; killed and reaped when dropped.
pub(crate) struct ChildProcess {
    name: String,
    child: Child,
}

impl ChildProcess {
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let name = format!("{command:?}");
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn stdin(&mut self) -> Result<ChildStdin> {
        self.child.stdin.take().context("stdin is not piped, or was taken")
    }

    pub(crate) fn stdout(&mut self) -> Result<ChildStdout> {
        self.child.stdout.take().context("stdout is not piped, or was taken")
    }

    pub(crate) fn stderr(&mut self) -> Result<ChildStderr> {
        self.child.stderr.take().context("stderr is not piped, or was taken")
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for the child to exit by itself.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())?;
        let timeout = Timespec::try_from(STALLED)?;
        let ready = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))?;
        ensure!(ready == 1, "{} did not end within {STALLED:?}", self.name);
        Ok(self.child.wait()?)
    }

    /// User and system time that it has used so far, in steps of 10 ms.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The name may have blanks in it.
        let (_, fields) = stat.rsplit_once(") ").context("not a stat")?;
        let ticks = |field: usize| -> Result<u64> {
            Ok(fields.split(' ').nth(field - 3).context("a short stat")?.parse()?)
        };
        // proc_pid_stat(5): utime and stime.
        Ok(Duration::from_millis((ticks(14)? + ticks(15)?) * 1000 / clock_ticks_per_second()))
    }

    /// Sends SIGKILL and waits for the exit.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait()?;
        Ok(())
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs a command to its end and returns what it printed; its failure is an error that shows
/// stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    ensure!(
        output.status.success(),
        "{name}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
