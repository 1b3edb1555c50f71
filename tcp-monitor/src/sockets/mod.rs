//! The sockets that are there now, as the kernel lists them (sock_diag(7)): for gauges, for what was open before the
//! monitor, and for sockets that their process neglects.
//!
//! A thread looks at them every few seconds, and when a scrape asks, but for no more than one percent of the time.

mod close_wait;
pub mod owners;
mod request;
mod row;
mod service;
mod socket;
mod survey;
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

/// Which sockets to look at, and what for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The network namespaces.
    pub netns: NetnsSelection,
    /// The watched ports; all if empty.
    pub ports: PortSet,
    /// How long a socket may be in CLOSE_WAIT before it counts as stuck.
    pub stuck_after: Duration,
}

/// The thread that looks at sockets. It ends when this is dropped.
pub struct SocketDiag {
    requests: Sender<Request>,
    latest: Arc<Latest>,
}

/// What the latest look has shown; `None` if the kernel does not list sockets.
type Latest = Mutex<Option<Look>>;

/// The sockets there are, as they were listed.
#[derive(Clone, Debug)]
pub struct Look {
    ended: Instant,
    /// By service port.
    pub sockets: Arc<SocketsByPort>,
    /// What was counted before and after that; `None` if nobody counts.
    pub counted: Option<Arc<[EntriesAndExits; 2]>>,
}

/// Reads the counters, if they can be read.
pub type Count = Box<dyn Fn() -> Option<EntriesAndExits> + Send>;

/// Sockets by service port.
pub type SocketsByPort = HashMap<u16, PortSockets>;

/// What the thread is asked for, and who waits for it.
enum Request {
    /// A look now, and the connections that are there.
    Found(Sender<Vec<PresentSocket>>),
    /// A look, unless it would take too much time.
    Fresh(Sender<()>),
    /// From now on the counters are read before and after each look.
    Count(Count),
}

impl SocketDiag {
    /// Begins to look at sockets. Of each that is stuck, `stuck` hears.
    ///
    /// # Errors
    /// If there is no thread to be had, or no network namespace to return to.
    pub fn start(options: Options, stuck: SyncSender<StuckSocket>) -> io::Result<Self> {
        let (requests, received) = mpsc::channel();
        let latest = Arc::new(Latest::default());
        let watch = Watch::new(options, Arc::clone(&latest), stuck)?;
        thread::Builder::new().name("sockets".to_owned()).spawn(move || watch.run(&received))?;
        Ok(Self { requests, latest })
    }

    /// The ports that sockets serve or connect to: first those that are listened on, each in ascending order.
    #[must_use]
    pub fn service_ports(&self) -> Vec<u16> {
        let looked = self.ask(Request::Fresh).and_then(|answer| answer.recv().ok());
        let Some(look) = looked.and_then(|()| self.latest()) else { return Vec::new() };
        let mut ports: Vec<_> =
            look.sockets.iter().map(|(port, sockets)| (sockets.accept_queue.is_none(), *port)).collect();
        ports.sort_unstable();
        ports.into_iter().map(|(_, port)| port).collect()
    }

    /// From now on `count` is called before and after each look.
    pub fn count(&self, count: Count) {
        // If the thread has ended there are no looks.
        let _ = self.requests.send(Request::Count(count));
    }

    /// The connections that are there now, but for half-open requests, in the order of time in which they were looked at.
    #[must_use]
    pub fn found(&self) -> Vec<PresentSocket> {
        self.ask(Request::Found).and_then(|answer| answer.recv().ok()).unwrap_or_default()
    }

    /// The sockets: of now if that is known within a second, else of a while ago, but for their age, which is that of now.
    /// `None` if the kernel does not list them.
    #[must_use]
    pub fn sockets(&self) -> Option<Look> {
        if let Some(answer) = self.ask(Request::Fresh) {
            // After that time the latest there is will do.
            let _ = answer.recv_timeout(PATIENCE);
        }
        let mut look = self.latest()?;
        let since = look.ended.elapsed();
        for sockets in Arc::make_mut(&mut look.sockets).values_mut() {
            if !sockets.close_wait_oldest.is_zero() {
                sockets.close_wait_oldest += since;
            }
        }
        Some(look)
    }

    /// What the latest look has shown, as it was then. `None` if the kernel does not list sockets.
    #[must_use]
    pub fn latest(&self) -> Option<Look> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ask<T>(&self, request: impl FnOnce(Sender<T>) -> Request) -> Option<Receiver<T>> {
        let (reply, answer) = mpsc::channel();
        self.requests.send(request(reply)).ok().map(|()| answer)
    }
}

/// How long a scrape waits for a look.
const PATIENCE: Duration = Duration::from_secs(1);
