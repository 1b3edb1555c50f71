//! A monitor that is a process, and what it writes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::Signal;

use crate::site::Site;
use crate::support::child_process::ChildProcess;
use crate::support::deadline::{Deadline, poll_until};
use crate::traffic;

/// A monitor that is a process. It writes to memory, so that no reader takes time from the traffic.
pub(crate) struct Process {
    pub(crate) child: ChildProcess,
    output: File,
    messages: File,
    /// Where the output of the measured traffic begins.
    begin: u64,
}

impl Process {
    pub(crate) fn spawn(mut command: Command) -> Result<Self> {
        let output = File::from(memfd_create("output", MemfdFlags::CLOEXEC)?);
        let messages = File::from(memfd_create("messages", MemfdFlags::CLOEXEC)?);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(messages.try_clone()?);
        Ok(Self { child: ChildProcess::spawn(&mut command)?, output, messages, begin: 0 })
    }

    pub(crate) fn await_message(&self, beginning: &str) -> Result<()> {
        let is_there = |messages: &String| messages.lines().any(|line| line.starts_with(beginning));
        poll_until(&format!("{beginning:?}"), || self.messages(), is_there).map(drop)
    }

    /// Makes connections until one is reported.
    pub(crate) fn await_report(&self, site: &Site, listener: &TcpListener) -> Result<()> {
        let deadline = Deadline::new();
        // The first line may be a header.
        while self.lines()? < 2 {
            deadline.check().with_context(|| self.messages().unwrap_or_default())?;
            traffic::probe(site, listener)?;
        }
        Ok(())
    }

    pub(crate) fn discard_output(&mut self) -> Result<()> {
        self.begin = self.output.metadata()?.len();
        Ok(())
    }

    pub(crate) fn end(&mut self) -> Result<ExitStatus> {
        self.child.signal(Signal::INT)?;
        self.child.wait()
    }

    /// The output of the measured traffic.
    ///
    /// It is opened anew: the file's own position is where the process writes.
    pub(crate) fn output(&self) -> Result<impl BufRead> {
        let mut output = reopen(&self.output)?;
        output.seek(SeekFrom::Start(self.begin))?;
        Ok(BufReader::with_capacity(1 << 20, output))
    }

    pub(crate) fn lines(&self) -> Result<u64> {
        let mut output = self.output()?;
        let mut lines = 0;
        loop {
            let buffer = output.fill_buf()?;
            if buffer.is_empty() {
                return Ok(lines);
            }
            lines += buffer.iter().filter(|byte| **byte == b'\n').count() as u64;
            let length = buffer.len();
            output.consume(length);
        }
    }

    pub(crate) fn messages(&self) -> Result<String> {
        let mut messages = String::new();
        reopen(&self.messages)?.read_to_string(&mut messages)?;
        Ok(messages)
    }
}

fn reopen(file: &File) -> Result<File> {
    Ok(File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?)
}
