//! The thread that dumps sockets: when, what it publishes, and which sockets it reports as stuck.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tcp_monitor_common::TcpState;

use super::census::SocketLister;
use super::close_wait::{Aged, CloseWaits};
use super::service::ServicePorts;
use super::{Dump, Latest, Options, ReadCounters, Request, SocketsByPort};
use crate::clock;
use crate::counts::UNKNOWN_PROCESS;
use crate::lifecycle::event::{Stuck, StuckReason};
use crate::lifecycle::input::Process;
use crate::lifecycle::{PresentSocket, StuckSocket};
use crate::ports::ephemeral_ports;
use crate::sockets::owners::Owners;

/// The state of the thread.
pub(super) struct Watch {
    lister: SocketLister,
    latest: Arc<Latest>,
    stuck: SyncSender<StuckSocket>,
    stuck_after: Duration,
    /// Reads the counters before each dump.
    read_counters: Option<ReadCounters>,
    close_waits: CloseWaits,
    owners: Owners,
    names: Names,
    /// Another dump before this would take more than one percent.
    next_allowed: Instant,
    /// Then there is one though none is requested.
    next_due: Instant,
    /// How often in a row it failed.
    failures: u32,
}

impl Watch {
    pub(super) fn new(
        options: Options,
        latest: Arc<Latest>,
        stuck: SyncSender<StuckSocket>,
    ) -> io::Result<Self> {
        let Options { netns, ports: watched, stuck_after } = options;
        let ports = ServicePorts { watched, ephemeral: ephemeral_ports() };
        let now = Instant::now();
        Ok(Self {
            lister: SocketLister::new(netns, ports)?,
            latest,
            stuck,
            stuck_after,
            read_counters: None,
            close_waits: CloseWaits::default(),
            owners: Owners::default(),
            names: Names::default(),
            next_allowed: now,
            next_due: now,
            failures: 0,
        })
    }

    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        loop {
            // Sending fails if the answer is not awaited any more.
            match requests.recv_timeout(self.next_due.saturating_duration_since(Instant::now())) {
                Ok(Request::Existing(reply)) => {
                    let existing = self.dump(true);
                    let _ = reply.send(existing);
                }
                Ok(Request::ReadBeforeDumps(read)) => self.read_counters = Some(read),
                Ok(Request::Fresh(reply)) => {
                    if self.next_allowed <= Instant::now() {
                        self.dump(false);
                    }
                    let _ = reply.send(());
                }
                Err(RecvTimeoutError::Timeout) => drop(self.dump(false)),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Dumps the sockets, publishes them and reports those that are stuck. Returns the connections,
    /// if they are wanted.
    fn dump(&mut self, want_existing: bool) -> Vec<PresentSocket> {
        let begin = clock::thread_cpu_time();
        let counted_before = self.read_counters.as_ref().and_then(|read| read()).map(Arc::new);
        let (dump, existing) = match self.lister.list(want_existing) {
            Ok(mut census) => {
                self.failures = 0;
                let ended = Instant::now();
                let aged = self.close_waits.age(census.close_waits, ended, self.stuck_after);
                self.judge(&aged, &mut census.ports);
                (Some(Dump { ended, sockets: Arc::new(census.ports), counted_before }), census.existing)
            }
            Err(error) => {
                self.report_failure(&error);
                (None, Vec::new())
            }
        };
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = dump;
        let end = Instant::now();
        let rest = clock::thread_cpu_time().saturating_sub(begin) * REST;
        self.next_allowed = end + rest;
        // Long enough for a scrape to ask first.
        self.next_due = end + (2 * rest).max((self.stuck_after / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
        existing
    }

    /// Adds the age of those in CLOSE_WAIT, and those that are stuck in it by the process that
    /// holds them.
    fn judge(&mut self, aged: &[Aged], sockets: &mut SocketsByPort) {
        for Aged { socket, age } in aged {
            let sockets = sockets.entry(socket.service.port).or_default();
            sockets.close_wait_oldest = sockets.close_wait_oldest.max(*age);
        }
        let stuck: Vec<_> = aged.iter().filter(|aged| aged.age >= self.stuck_after).collect();
        let inodes: HashSet<u32> =
            stuck.iter().map(|aged| aged.socket.inode).filter(|inode| *inode != 0).collect();
        let owners = self.owners.find(&inodes);
        for aged in stuck {
            let process = owners.get(&aged.socket.inode).copied();
            let name = self.names.label(process);
            let sockets = sockets.entry(aged.socket.service.port).or_default();
            *sockets.close_wait_stuck.entry(name).or_default() += 1;
            // The reader may be slow, or there may be none: then it is reported later, or never.
            if self.close_waits.is_due(aged) && self.stuck.try_send(event(aged, process)).is_ok() {
                self.close_waits.reported(aged);
            }
        }
    }

    fn report_failure(&mut self, error: &io::Error) {
        self.failures = self.failures.saturating_add(1);
        // The first dump is made before the kernel source has checked its requirements.
        if self.failures == 2 {
            log::warn!(
                "the kernel does not list its sockets: {error}; there are no gauges of sockets, and connections open before \
                 are not followed: if the kernel module tcp_diag is there, `modprobe tcp_diag` loads it"
            );
        }
    }
}

fn event(Aged { socket, age }: &Aged, process: Option<Process>) -> StuckSocket {
    let reason = match socket.receive_queue {
        _ if !socket.accepted => StuckReason::Accept,
        0 => StuckReason::Close,
        _ => StuckReason::Read,
    };
    let (netns, cookie) = socket.id;
    let stuck = Stuck {
        local: socket.local,
        remote: socket.remote,
        role: socket.service.role,
        state: TcpState::CloseWait,
        age: *age,
        // The peer's FIN is not read either.
        unread_bytes: socket.receive_queue.saturating_sub(1),
        process,
        reason,
    };
    StuckSocket { time: clock::now(), netns, cookie, stuck }
}

/// The values of the label `process`.
#[derive(Debug, Default)]
struct Names(BTreeSet<String>);

impl Names {
    fn label(&mut self, process: Option<Process>) -> String {
        let Some(process) = process else { return UNKNOWN_PROCESS.to_owned() };
        let name = process.comm.to_text().into_owned();
        if self.0.len() < MAX_NAMES {
            self.0.insert(name.clone());
        }
        if self.0.contains(&name) { name } else { "other".to_owned() }
    }
}

/// After a dump there is none for so many times as long as it took: one percent of a CPU.
const REST: u32 = 100;
/// The time between dumps that are not requested: a quarter of the time after which a socket is
/// stuck, within these limits.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Command names in labels.
const MAX_NAMES: usize = 64;

#[cfg(test)]
mod tests {
    use super::{Names, Process};
    use crate::lifecycle::input::Comm;

    #[test]
    fn after_64_command_names_others_are_other() {
        let mut names = Names::default();
        let mut label = |name: u8| {
            let comm = Comm([b'a' + name / 10, b'0' + name % 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            names.label(Some(Process { pid: 1, comm }))
        };
        for name in 0..64 {
            assert_ne!(label(name), "other");
        }
        assert_eq!(label(64), "other");
        assert_eq!(label(63), "g3", "a name that is known stays");
        assert_eq!(names.label(None), "unknown");
    }
}
