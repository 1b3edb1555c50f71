//! Keeps the classifiers attached to every watched interface, as interfaces and network namespaces
//! come and go.
//!
//! One thread does nothing else: it moves between network namespaces, since an interface can be
//! attached to only from inside its own. Whatever changes, it compares what is there with what is
//! attached and makes up the difference. Detaching comes first: an interface that moves to another
//! namespace keeps its classifiers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    os::fd::AsFd,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya::Ebpf;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tcp_monitor_common::counters::InterfaceKey;

use super::{
    classifier::{AttachError, Attachment, Classifiers, Mode, remove_stale},
    error::{FILE_LIMIT, KernelError, is_transient, os_error, with_causes},
    interfaces::InterfaceTable,
    rtnetlink::{Interface, Rtnetlink},
    stop::StopSignal,
};
use crate::netns::{AgentLock, NamespaceSwitcher, Netns, discover};

/// Which interfaces are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceSelection {
    /// All, those to come included.
    All,
    /// Those of these names. They must be there at the start, in the process's own network
    /// namespace or the one that was named, and are looked for nowhere else.
    Only(Vec<String>),
    /// None: no segment is seen, only what sockets do.
    None,
}

/// What the thread is to do.
pub(super) struct Plan {
    pub(super) scope: Scope,
    /// Names of the interfaces to watch; all if `None`.
    pub(super) only: Option<BTreeSet<String>>,
    pub(super) mode: Mode,
}

/// Where interfaces are watched.
pub(super) enum Scope {
    /// In every network namespace that can be found.
    Everywhere,
    /// In this one only.
    One(Netns),
}

/// The running thread. It ends when this is dropped; then the programs are detached and unloaded.
pub(super) struct Watcher {
    stop: StopSignal,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Attaches to what is there now, then keeps watching in a thread of its own, which owns the
    /// programs.
    pub(super) fn start(ebpf: Ebpf, plan: Plan, table: Arc<InterfaceTable>) -> Result<Self, KernelError> {
        let stop = StopSignal::new().map_err(KernelError::system("make an eventfd"))?;
        let stopped = stop.clone();
        let (report, first_pass) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("interfaces".to_owned())
            .spawn(move || match Watch::start(ebpf, plan, table) {
                Ok(watch) => {
                    // An error means that the receiver is gone; the stop signal then follows.
                    let _ = report.send(Ok(()));
                    watch.run(&stopped);
                }
                Err(error) => drop(report.send(Err(error))),
            })
            .map_err(KernelError::system("start the thread that watches interfaces"))?;
        let watcher = Self { stop, thread: Some(thread) };
        match first_pass.recv() {
            Ok(result) => result.map(|()| watcher),
            Err(_) => Err(KernelError::system("watch interfaces")(io::Error::other("the thread has died"))),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.signal();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread that watches interfaces has died");
        }
    }
}

/// What the thread knows.
struct Watch {
    classifiers: Classifiers,
    table: Arc<InterfaceTable>,
    everywhere: bool,
    only: Option<BTreeSet<String>>,
    switcher: NamespaceSwitcher,
    namespaces: BTreeMap<u32, Watched>,
    attached: HashMap<InterfaceKey, Attached>,
    /// Interfaces that cannot be attached to: tried once, reported once.
    refused: HashSet<InterfaceKey>,
    /// Something failed in the last pass that may work in the next.
    unfinished: bool,
    /// It was reported that descriptors or memory ran out.
    shortage_reported: bool,
    limit_reported: bool,
}

/// A network namespace that is watched.
struct Watched {
    netns: Netns,
    rtnetlink: Rtnetlink,
    made_qdiscs: Made,
}

/// Which clsact qdiscs agents made, before this one: the last to go takes an unused one with it.
enum Made {
    /// Those of the interfaces with these indices, which agents that were killed left.
    On(HashSet<u32>),
    /// Any may be an agent's: another is running.
    Anywhere,
}

impl Made {
    fn contains(&self, ifindex: u32) -> bool {
        match self {
            Self::On(interfaces) => interfaces.contains(&ifindex),
            Self::Anywhere => true,
        }
    }
}

/// An interface that is watched.
struct Attached {
    name: String,
    attachment: Attachment,
}

/// Why an interface is not watched.
enum Refusal {
    /// The next pass tries again.
    NotNow(String),
    /// It is not tried again.
    Never(String),
}

impl Refusal {
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let cause = with_causes(error);
        if os_error(error).is_some_and(is_transient) { Self::NotNow(cause) } else { Self::Never(cause) }
    }
}

impl Watch {
    fn start(ebpf: Ebpf, plan: Plan, table: Arc<InterfaceTable>) -> Result<Self, KernelError> {
        let failed = KernelError::system("open the network namespace");
        let switcher = NamespaceSwitcher::new().map_err(failed)?;
        let mut watch = Self {
            classifiers: Classifiers::new(ebpf, plan.mode),
            table,
            everywhere: matches!(plan.scope, Scope::Everywhere),
            only: plan.only,
            switcher,
            namespaces: BTreeMap::new(),
            attached: HashMap::new(),
            refused: HashSet::new(),
            unfinished: false,
            shortage_reported: false,
            limit_reported: false,
        };
        let first = match plan.scope {
            Scope::Everywhere => Netns::own().map_err(KernelError::system("open the network namespace"))?,
            Scope::One(netns) => netns,
        };
        let inum = first.inum;
        watch.add_namespace(first).map_err(KernelError::system("enter the network namespace"))?;
        watch.check_names(inum)?;
        let refusals = watch.pass();
        match refusals.into_iter().next() {
            Some((interface, cause)) if watch.only.is_some() || watch.attached.is_empty() => {
                Err(KernelError::Classifier { interface, cause })
            }
            Some(_) | None => Ok(watch),
        }
    }

    /// Every interface that was asked for must be there.
    fn check_names(&self, inum: u32) -> Result<(), KernelError> {
        let (Some(only), Some(watched)) = (&self.only, self.namespaces.get(&inum)) else { return Ok(()) };
        let interfaces =
            watched.rtnetlink.interfaces().map_err(KernelError::system("list the interfaces"))?;
        let known: Vec<String> = interfaces.into_iter().map(|interface| interface.name).collect();
        match only.iter().find(|name| !known.contains(name)) {
            Some(name) => Err(KernelError::Interface { name: name.clone(), known }),
            None => Ok(()),
        }
    }

    fn run(mut self, stop: &StopSignal) {
        let mut rest = Duration::ZERO;
        // After a pass it rests for as long as that took: a storm of changes costs at most half a
        // CPU.
        while !is_ready(&[stop.as_fd()], Some(rest)) {
            let timeout = (self.may_end_without_event() || self.unfinished).then_some(RESCAN_INTERVAL);
            let mut sources = vec![stop.as_fd()];
            sources.extend(self.namespaces.values().map(|watched| watched.rtnetlink.events()));
            is_ready(&sources, timeout);
            if is_ready(&[stop.as_fd()], Some(Duration::ZERO)) {
                return;
            }
            let begin = Instant::now();
            self.pass();
            rest = begin.elapsed();
        }
    }

    /// Whether namespaces can appear or fall out of use without a change of a watched interface.
    fn may_end_without_event(&self) -> bool {
        self.everywhere || self.namespaces.keys().any(|inum| *inum != self.switcher.home())
    }

    /// Makes up the difference between what is there and what is attached. Returns each interface
    /// that was found not to take classifiers, with the cause.
    fn pass(&mut self) -> Vec<(String, String)> {
        self.unfinished = false;
        if self.may_end_without_event() {
            self.update_namespaces();
        }
        let present = self.list();
        self.drop_vanished(&present);
        let mut refusals = Vec::new();
        for (key, name) in present.into_iter().flat_map(|(netns, interfaces)| {
            interfaces
                .into_iter()
                .map(move |Interface { index, name }| (InterfaceKey { netns, ifindex: index }, name))
        }) {
            match self.attached.get_mut(&key) {
                Some(attached) if attached.name == name => {}
                // It stays watched under its new name, whatever that is.
                Some(attached) => match self.table.insert(key, &name) {
                    Ok(()) => attached.name = name,
                    Err(error) => log::warn!("interface {} is now {name}: {error}", attached.name),
                },
                None => {
                    let cause = match self.watch_interface(key, &name) {
                        Ok(()) => continue,
                        Err(Refusal::NotNow(cause)) => {
                            self.report_shortage(&format!("interface {name}"), &cause);
                            cause
                        }
                        Err(Refusal::Never(cause)) => {
                            log::warn!("segments on interface {name} cannot be seen: {cause}");
                            self.refused.insert(key);
                            cause
                        }
                    };
                    refusals.push((name, cause));
                }
            }
        }
        refusals
    }

    /// Opens new namespaces and closes those that only this thread refers to.
    fn update_namespaces(&mut self) {
        let found = match discover() {
            Ok(found) => found,
            Err(error) => return self.report_shortage("network namespaces to come", &error.to_string()),
        };
        let home = self.switcher.home();
        let unused: Vec<u32> = self
            .namespaces
            .keys()
            .copied()
            .filter(|inum| *inum != home && !found.contains_key(inum))
            .collect();
        for inum in unused {
            self.drop_where(|key| key.netns == inum);
            self.namespaces.remove(&inum);
            log::debug!("network namespace {inum} is not in use any more");
        }
        if !self.everywhere {
            return;
        }
        for (inum, path) in found {
            if self.namespaces.contains_key(&inum) {
                continue;
            }
            let added = Netns::open(&path).and_then(|netns| {
                // By now the path may lead to another one, which the next pass then finds.
                if netns.inum == inum { self.add_namespace(netns) } else { Ok(()) }
            });
            if let Err(error) = added {
                if error.raw_os_error().is_some_and(is_transient) {
                    // The others would fail in the same way.
                    return self.report_shortage(&format!("network namespace {inum}"), &error.to_string());
                }
                log::debug!("network namespace {inum} ({}) cannot be entered: {error}", path.display());
            }
        }
    }

    /// Notes that `what` has to wait for a later pass, and reports it the first time.
    fn report_shortage(&mut self, what: &str, cause: &str) {
        self.unfinished = true;
        if !self.shortage_reported {
            self.shortage_reported = true;
            log::warn!(
                "segments on {what} cannot be seen now: {cause}; it is tried again, and not reported again: \
                 {FILE_LIMIT}, or choose one network namespace with --netns"
            );
        }
    }

    fn add_namespace(&mut self, netns: Netns) -> io::Result<()> {
        let rtnetlink = self.switcher.run_in(&netns, Rtnetlink::open)??;
        let made_qdiscs = self.tidy(&netns, &rtnetlink)?;
        self.namespaces.insert(netns.inum, Watched { netns, rtnetlink, made_qdiscs });
        Ok(())
    }

    /// Removes what agents that were killed left in a namespace, if no other is running there. Says
    /// of which interfaces an agent made the clsact qdisc.
    fn tidy(&self, netns: &Netns, rtnetlink: &Rtnetlink) -> io::Result<Made> {
        let lock = netns.try_lock();
        let made = match lock {
            AgentLock::Exclusive => {
                let interfaces = rtnetlink.interfaces()?;
                self.switcher.run_in(netns, || {
                    let stale = interfaces.into_iter().filter(|interface| remove_stale(&interface.name));
                    Made::On(stale.map(|interface| interface.index).collect())
                })?
            }
            AgentLock::NotHeld => Made::Anywhere,
        };
        match (self.classifiers.mode(), lock) {
            (Mode::Clsact, _) => netns.lock_shared(),
            // Links belong to their process: no lock is needed.
            (Mode::Tcx, AgentLock::Exclusive) => netns.unlock(),
            (Mode::Tcx, AgentLock::NotHeld) => return Ok(Made::On(HashSet::new())),
        }
        Ok(made)
    }

    /// The interfaces of each namespace, the namespaces that cannot be asked left out.
    fn list(&self) -> BTreeMap<u32, Vec<Interface>> {
        let mut present = BTreeMap::new();
        for (inum, watched) in &self.namespaces {
            // First: a change from here on causes an event, and is listed in the next pass if not
            // in this one.
            watched.rtnetlink.forget_events();
            match watched.rtnetlink.interfaces() {
                Ok(interfaces) => drop(present.insert(*inum, interfaces)),
                Err(error) => {
                    log::warn!("the interfaces of network namespace {inum} cannot be listed: {error}");
                }
            }
        }
        present
    }

    fn drop_vanished(&mut self, present: &BTreeMap<u32, Vec<Interface>>) {
        let exists = |key: &InterfaceKey| {
            present
                .get(&key.netns)
                .is_none_or(|interfaces| interfaces.iter().any(|interface| interface.index == key.ifindex))
        };
        self.refused.retain(exists);
        self.drop_where(|key| !exists(key));
    }

    fn drop_where(&mut self, gone: impl Fn(&InterfaceKey) -> bool) {
        for (key, attached) in self.attached.extract_if(|key, _| gone(key)) {
            attached.attachment.forget();
            self.table.remove(key);
        }
    }

    /// Attaches to an interface if it is to be watched.
    fn watch_interface(&mut self, key: InterfaceKey, name: &str) -> Result<(), Refusal> {
        let wanted =
            self.only.as_ref().is_none_or(|only| only.contains(name)) && !self.refused.contains(&key);
        let Some(watched) = self.namespaces.get(&key.netns).filter(|_| wanted) else { return Ok(()) };
        if self.attached.len() >= MAX_INTERFACES {
            if !self.limit_reported {
                self.limit_reported = true;
                log::warn!(
                    "there are more than {MAX_INTERFACES} interfaces; segments on the others are not seen: \
                     choose some with --interface or one network namespace with --netns"
                );
            }
            return Ok(());
        }
        // The counters must be there before the first segment is seen.
        self.table.insert(key, name).map_err(|error| Refusal::of(&error))?;
        let result =
            self.switcher.run_in(&watched.netns, || self.classifiers.attach(name)).unwrap_or_else(|error| {
                Err(match Refusal::of(&error) {
                    Refusal::NotNow(cause) => AttachError::NotNow(cause),
                    Refusal::Never(cause) => AttachError::Refused(cause),
                })
            });
        match result {
            Ok(attachment) => {
                self.attached.insert(key, Attached { name: name.to_owned(), attachment });
                return Ok(());
            }
            // In both cases it has changed since it was listed, so a further pass is due.
            Err(AttachError::Gone | AttachError::Already) => self.table.remove(key),
            Err(AttachError::NotNow(cause)) => {
                self.table.remove(key);
                return Err(Refusal::NotNow(cause));
            }
            Err(AttachError::Refused(cause)) => {
                self.table.remove(key);
                return Err(Refusal::Never(cause));
            }
        }
        Ok(())
    }

    fn detach_all(&mut self) {
        for (key, Attached { name, attachment }) in self.attached.drain() {
            let Some(watched) = self.namespaces.get(&key.netns) else { continue };
            let may_remove = attachment.made_qdisc || watched.made_qdiscs.contains(key.ifindex);
            let result = self.switcher.run_in(&watched.netns, || drop(attachment)).and_then(|()| {
                if may_remove { watched.rtnetlink.remove_unused_clsact(key.ifindex) } else { Ok(()) }
            });
            if let Err(error) = result {
                log::debug!("the clsact qdisc of interface {name} stays: {error}");
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.detach_all();
    }
}

/// Waits until one of `sources` is readable; whether one is. Without `timeout`, for ever.
fn is_ready(sources: &[std::os::fd::BorrowedFd<'_>], timeout: Option<Duration>) -> bool {
    let mut sources: Vec<PollFd<'_>> =
        sources.iter().map(|source| PollFd::from_borrowed_fd(*source, PollFlags::IN)).collect();
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    // Interrupted by a signal: as if the time were up.
    poll(&mut sources, timeout.as_ref()).is_ok_and(|ready| ready > 0)
}

/// How many interfaces are watched at most: each has two links and per-CPU counters.
const MAX_INTERFACES: usize = 512;
/// How often the thread looks for network namespaces that appeared or fell out of use.
const RESCAN_INTERVAL: Duration = Duration::from_secs(2);
