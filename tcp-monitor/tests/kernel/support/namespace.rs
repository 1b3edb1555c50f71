//! Network namespaces that exist as long as a trial.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::{fd::AsFd, unix::fs::MetadataExt},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::{child_process::output, deadline::poll_until, socket_table::SocketRow};

/// A network namespace of its own, with `lo` up; removed when dropped.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new() -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-{}", process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        output(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The inode, by which the agent's events name it.
    pub(crate) fn inode(&self) -> Result<u64> {
        Ok(fs::metadata(path(&self.name))?.ino())
    }

    /// Runs `ip` on this namespace.
    pub(crate) fn ip(&self, arguments: &str) -> Result<String> {
        output(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()))
    }

    /// Changes a setting: a file in `/proc/sys`.
    pub(crate) fn set(&self, setting: &str, value: &str) -> Result<()> {
        // /proc/sys/net is that of the thread which opens it.
        self.enter(|| {
            let path = format!("/proc/sys/{setting}");
            fs::write(&path, value).with_context(|| format!("cannot set {path} to {value}"))
        })
    }

    /// A command that will run in this namespace, with the pid of the child that is spawned.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `work` on a thread that is in this namespace.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into(&self.name)?;
                work()
            });
            inside.join().map_err(|_| anyhow!("the thread in namespace {} panicked", self.name))?
        })
    }

    /// The sockets that have `port` at either end, listeners left out, as `ss` shows them.
    pub(crate) fn sockets(&self, port: u16) -> Result<Vec<SocketRow>> {
        Ok(self.all_sockets()?.into_iter().filter(|row| row.is_of(port) && row.state != "listen").collect())
    }

    /// Everything that `ss` shows.
    pub(crate) fn all_sockets(&self) -> Result<Vec<SocketRow>> {
        let table = output(self.command("ss").args(["-tanH"]))?;
        table.lines().map(SocketRow::parse).collect()
    }

    /// Waits until `reached` holds of the sockets of a port.
    pub(crate) fn await_sockets(
        &self,
        port: u16,
        what: &str,
        reached: impl Fn(&[SocketRow]) -> bool,
    ) -> Result<Vec<SocketRow>> {
        poll_until(&format!("{what} in {}", self.name), || self.sockets(port), |rows| reached(rows))
    }

    /// The same of all sockets.
    pub(crate) fn await_all(
        &self,
        what: &str,
        reached: impl Fn(&[SocketRow]) -> bool,
    ) -> Result<Vec<SocketRow>> {
        poll_until(&format!("{what} in {}", self.name), || self.all_sockets(), |rows| reached(rows))
    }

    /// Waits for a socket in `state` (as in metrics: `fin_wait2`).
    pub(crate) fn await_state(&self, port: u16, state: &str) -> Result<()> {
        self.await_sockets(port, state, |rows| rows.iter().any(|row| row.state == state))?;
        Ok(())
    }

    /// Waits for the end of all traffic: no socket is left but those in TIME_WAIT.
    pub(crate) fn await_no_traffic(&self, port: u16) -> Result<()> {
        self.await_sockets(port, "the end of every connection", |rows| {
            rows.iter().all(|row| row.state == "time_wait")
        })?;
        Ok(())
    }

    /// The kernel's TCP counters of this namespace: `/proc/net/snmp` and `/proc/net/netstat`.
    pub(crate) fn tcp_counters(&self) -> Result<BTreeMap<String, u64>> {
        // /proc/net is the main thread's namespace; thread-self is this one's.
        self.enter(|| {
            let mut counters = BTreeMap::new();
            for table in ["snmp", "netstat"] {
                let text = fs::read_to_string(format!("/proc/thread-self/net/{table}"))?;
                let lines: Vec<&str> = text.lines().collect();
                for pair in lines.chunks_exact(2).filter(|pair| pair[0].starts_with("Tcp")) {
                    let cells = pair[0].split_whitespace().zip(pair[1].split_whitespace());
                    // MaxConn is -1: it is no counter.
                    counters.extend(
                        cells.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))),
                    );
                }
            }
            Ok(counters)
        })
    }
}

/// Removes the namespaces of runs of the suite that were killed.
pub(crate) fn remove_abandoned() {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return };
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let run = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if run.is_some_and(|pid| fs::exists(format!("/proc/{pid}")).is_ok_and(|runs| !runs)) {
            let _ = output(Command::new("ip").args(["netns", "del", &name]));
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = output(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

/// Moves the calling thread into a named namespace.
pub(crate) fn move_into(name: &str) -> Result<()> {
    let path = path(name);
    let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("cannot enter {path}"))
}

fn path(name: &str) -> String {
    format!("{DIRECTORY}/{name}")
}

/// Where `ip netns` keeps namespaces.
const DIRECTORY: &str = "/run/netns";
/// Begins their names; the process id of the run and a number follow.
const PREFIX: &str = "tcpmon-";
