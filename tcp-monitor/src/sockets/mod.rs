//! The existing sockets, as the kernel lists them (sock_diag(7)): for gauges, for connections
//! opened before monitoring started, and for sockets stuck in CLOSE_WAIT.
//!
//! A thread dumps them every few seconds, and when a scrape asks, but for no more than one percent
//! of the time.

mod census;
mod close_wait;
pub mod owners;
mod request;
mod row;
mod service;
mod socket;
mod watch;

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use self::watch::Watch;
use crate::counts::{EntriesAndExits, PortSockets};
use crate::lifecycle::{PresentSocket, StuckSocket};
use crate::netns::NetnsSelection;
use crate::ports::PortSet;

/// Which sockets to dump, and when one is stuck.
#[derive(Clone, Debug)]
pub struct Options {
    /// The network namespaces.
    pub netns: NetnsSelection,
    /// The watched ports; all if empty.
    pub ports: PortSet,
    /// How long a socket may be in CLOSE_WAIT before it counts as stuck.
    pub stuck_after: Duration,
}

/// The thread that dumps sockets. It ends when this is dropped.
pub struct SocketDiag {
    requests: Sender<Request>,
    latest: Arc<Latest>,
}

/// The latest dump; `None` if the kernel does not list sockets.
type Latest = Mutex<Option<Dump>>;

/// The existing sockets, as of one dump.
#[derive(Clone, Debug)]
pub struct Dump {
    ended: Instant,
    /// By service port.
    pub sockets: Arc<SocketsByPort>,
    /// The counters as of before the dump; `None` if no function reads them.
    pub counted_before: Option<Arc<EntriesAndExits>>,
}

/// Reads the counters, if they can be read.
pub type ReadCounters = Box<dyn Fn() -> Option<EntriesAndExits> + Send>;

/// Sockets by service port.
pub type SocketsByPort = HashMap<u16, PortSockets>;

/// What the thread is asked for, and where it answers.
enum Request {
    /// A dump now, and the connections in it.
    Existing(Sender<Vec<PresentSocket>>),
    /// A dump, unless it would take too much time.
    Fresh(Sender<()>),
    /// From now on the counters are read before each dump.
    ReadBeforeDumps(ReadCounters),
}

impl SocketDiag {
    /// Begins to dump sockets. Those that are stuck are sent to `stuck`.
    ///
    /// # Errors
    /// If no thread can be started, or the own network namespace cannot be opened.
    pub fn start(options: Options, stuck: SyncSender<StuckSocket>) -> io::Result<Self> {
        let (requests, received) = mpsc::channel();
        let latest = Arc::new(Latest::default());
        let watch = Watch::new(options, Arc::clone(&latest), stuck)?;
        thread::Builder::new().name("sockets".to_owned()).spawn(move || watch.run(&received))?;
        Ok(Self { requests, latest })
    }

    /// The ports that sockets serve or connect to: first those that are listened on, each in
    /// ascending order.
    #[must_use]
    pub fn service_ports(&self) -> Vec<u16> {
        let fresh = self.ask(Request::Fresh).and_then(|answer| answer.recv().ok());
        let Some(dump) = fresh.and_then(|()| self.latest()) else { return Vec::new() };
        let mut ports: Vec<_> =
            dump.sockets.iter().map(|(port, sockets)| (sockets.accept_queue.is_none(), *port)).collect();
        ports.sort_unstable();
        ports.into_iter().map(|(_, port)| port).collect()
    }

    /// From now on `read` is called before each dump.
    pub fn read_before_dumps(&self, read: ReadCounters) {
        // If the thread has ended there are no dumps.
        let _ = self.requests.send(Request::ReadBeforeDumps(read));
    }

    /// The connections that exist now, but for half-open ones, in the order of time in which they
    /// were listed.
    #[must_use]
    pub fn existing(&self) -> Vec<PresentSocket> {
        self.ask(Request::Existing).and_then(|answer| answer.recv().ok()).unwrap_or_default()
    }

    /// The sockets: as of now if they can be dumped within a second, else as of the latest dump,
    /// but for the age of those in CLOSE_WAIT, which is that of now. `None` if the kernel does not
    /// list them.
    #[must_use]
    pub fn sockets(&self) -> Option<Dump> {
        if let Some(answer) = self.ask(Request::Fresh) {
            // If it takes longer, the latest dump is used.
            let _ = answer.recv_timeout(PATIENCE);
        }
        let mut dump = self.latest()?;
        let since = dump.ended.elapsed();
        for sockets in Arc::make_mut(&mut dump.sockets).values_mut() {
            if !sockets.close_wait_oldest.is_zero() {
                sockets.close_wait_oldest += since;
            }
        }
        Some(dump)
    }

    /// The latest dump, as it was then. `None` if the kernel does not list sockets.
    #[must_use]
    pub fn latest(&self) -> Option<Dump> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ask<T>(&self, request: impl FnOnce(Sender<T>) -> Request) -> Option<Receiver<T>> {
        let (reply, answer) = mpsc::channel();
        self.requests.send(request(reply)).ok().map(|()| answer)
    }
}

/// How long a scrape waits for a dump.
const PATIENCE: Duration = Duration::from_secs(1);
