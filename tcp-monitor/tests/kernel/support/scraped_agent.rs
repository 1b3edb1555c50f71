//! An agent that watches a namespace from the host's, so that its scrapes are no connections of the
//! watched one.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::support::{
    agent::{agent_path, await_attached},
    child_process::ChildProcess,
    line_reader::LineReader,
    namespace::Namespace,
    scrape::{Samples, samples_from},
};

/// A running agent that is attached.
pub(crate) struct ScrapedAgent {
    pub(crate) process: ChildProcess,
    pub(crate) messages: LineReader<String>,
    address: SocketAddr,
}

impl ScrapedAgent {
    /// Starts an agent that watches `namespace`.
    pub(crate) fn start(namespace: &Namespace, arguments: &str, stdout: Stdio) -> Result<Self> {
        let mut command = Command::new(agent_path());
        command.args(["--netns", namespace.name(), "--listen", "127.0.0.1:0"]);
        command.args(arguments.split_whitespace());
        let mut process =
            ChildProcess::spawn(command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()))?;
        let messages = LineReader::read(process.stderr()?, str::to_owned);
        await_attached(&process, &messages)?;
        let address = messages
            .so_far()
            .iter()
            .find_map(|line| Some(line.split_once("http://")?.1.split_once('/')?.0.to_owned()))
            .context("the agent does not print the address of its metrics")?;
        Ok(Self { process, messages, address: address.parse()? })
    }

    pub(crate) fn samples(&self) -> Result<Samples> {
        samples_from(self.address)
    }

    pub(crate) fn stop(mut self) -> Result<Vec<String>> {
        self.process.signal(Signal::INT)?;
        let status = self.process.wait()?;
        let messages = self.messages.to_end()?;
        ensure!(status.success(), "the agent ended with {status}: {messages:#?}");
        Ok(messages)
    }
}
