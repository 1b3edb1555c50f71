//! The kernel programs as a source: loading, attaching, reading records and counters.
//!
//! [`start`] checks privileges, learns the kernel's layout from its BTF, loads and attaches the
//! programs, and returns a [`KernelSource`]. From then on there are two ways out, which never mix:
//! [`Counters`], read at each scrape, and records, which a [`RecordReader`] hands on in order.

mod btf;
mod classifier;
mod counters;
pub mod decode;
mod error;
mod interfaces;
mod load;
mod order;
mod privilege;
mod programs;
mod release;
mod requests;
mod ring;
mod rtnetlink;
mod slots;
mod stop;
mod types;
mod watch;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    mem,
    os::fd::OwnedFd,
    sync::Arc,
};

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray, RingBuf},
    sys::{Stats, enable_stats},
};
use aya_log::EbpfLogger;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tcp_monitor_common::{
    abi::{
        layout::Settings,
        maps::{map, program},
    },
    counters::RecordCounters,
};

pub use self::{
    btf::BtfError,
    counters::{CounterError, Counters},
    error::KernelError,
    interfaces::InterfaceTable,
    load::OBJECT,
    privilege::MissingPrivilege,
    ring::{Batch, ReadError, RecordReader},
    watch::InterfaceSelection,
};
use self::{
    classifier::Mode,
    load::{Load, loaded_programs, take},
    privilege::{Enter, Intent},
    release::Release,
    requests::Requests,
    slots::Slots,
    stop::StopSignal,
    watch::{Plan, Scope, Watcher},
};
use crate::{
    netns::{Netns, NetnsSelection},
    ports::{PortSet, ephemeral_ports},
};

/// What the kernel programs are to watch.
#[derive(Clone, Debug)]
pub struct Options {
    /// The ports to watch; all if empty.
    pub ports: PortSet,
    /// The network namespaces to watch.
    pub netns: NetnsSelection,
    /// The interfaces to watch for segments.
    pub interfaces: InterfaceSelection,
    /// Bytes of the ring buffer: a power of two of at least 4096.
    pub ring_size: u32,
    /// Records are wanted; without them there are only counters.
    pub records: bool,
    /// The kernel is to measure runs and run time of programs, which costs some 20 ns a run.
    pub bpf_stats: bool,
    /// How many ports have counters of their own; the rest is counted together.
    pub max_ports: u16,
    /// Service ports in use, which have them from the start if all ports are watched; the first are
    /// preferred.
    pub used_ports: Vec<u16>,
    /// The programs log to the [`log`] crate.
    pub log: bool,
    /// Attach to interfaces by clsact filters even if the kernel can do better.
    pub force_clsact: bool,
}

/// The running kernel programs. They are detached when this is dropped.
pub struct KernelSource {
    /// Keeps the programs loaded, until the source stops.
    programs: Programs,
    reader: Option<RecordReader>,
    counters: Arc<Counters>,
    interfaces: Arc<InterfaceTable>,
    release: String,
    stop: StopSignal,
}

/// Who keeps the kernel programs loaded.
enum Programs {
    /// The thread that attaches them to interfaces.
    Watched(Watcher),
    /// There are none on interfaces.
    Kept(Ebpf),
    /// They are unloaded.
    Gone,
}

/// What the programs are attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// How many tracepoints.
    pub tracepoints: usize,
    /// The names of the interfaces, each once, sorted.
    pub interfaces: Vec<String>,
    /// In how many network namespaces they are.
    pub namespaces: usize,
    /// The kernel's release, `uname -r`.
    pub release: String,
}

/// Loads the kernel programs and attaches them.
///
/// # Errors
/// See [`KernelError`]; then nothing is left attached.
pub fn start(options: &Options) -> Result<KernelSource, KernelError> {
    if !options.ring_size.is_power_of_two() || options.ring_size < MIN_RING_SIZE {
        return Err(KernelError::RingSize(options.ring_size));
    }
    if !privilege::is_in_initial_user_namespace() {
        return Err(KernelError::UserNamespace);
    }
    raise_file_limit();
    let (release, release_text) = Release::running();
    let watched = Watched::choose(options, release)?;
    let layout = btf::kernel_layout(release)?;
    log::debug!("{layout:?}");
    let slots = Slots::new(&options.ports, options.max_ports, ephemeral_ports(), &options.used_ports);
    let settings = Settings {
        netns: watched.sockets,
        records: options.records.into(),
        ring_size: options.ring_size,
        slots: slots.count.into(),
        seed: random_seed(),
    };
    let load = Load {
        layout,
        settings,
        slots: &slots,
        ring_size: options.ring_size,
        log: options.log,
        release: &release_text,
    };
    let mut ebpf = load.object()?;
    load.programs(&mut ebpf, watched.interfaces.is_some())?;
    load.attach_tracepoints(&mut ebpf)?;
    give_back_memory();

    let stop = StopSignal::new().map_err(KernelError::system("make an eventfd"))?;
    let records: Arc<PerCpuArray<MapData, RecordCounters>> = Arc::new(take(&mut ebpf, map::RECORD_COUNTERS)?);
    let ring = take::<RingBuf<MapData>>(&mut ebpf, map::RECORDS)?;
    let reader = RecordReader {
        epoll: ring::watch(&ring, &stop).map_err(KernelError::system("wait for the ring buffer"))?,
        ring,
        counters: Arc::clone(&records),
        logger: options.log.then(|| logger(&mut ebpf)).flatten(),
        _stop: stop.clone(),
    };
    let interfaces = Arc::new(InterfaceTable::new(take(&mut ebpf, map::INTERFACE_COUNTERS)?));
    let counters = Arc::new(Counters {
        slot_ports: take(&mut ebpf, map::SLOT_PORTS)?,
        ports: take(&mut ebpf, map::PORT_COUNTERS)?,
        requests: Requests::new(
            take(&mut ebpf, map::HALF_OPEN)?,
            take(&mut ebpf, map::CLOSED_LISTENERS)?,
            take(&mut ebpf, map::PENDING_SEGMENTS)?,
        ),
        records,
        tables: take(&mut ebpf, map::TABLE_COUNTERS)?,
        interfaces: Arc::clone(&interfaces),
        programs: loaded_programs(&ebpf),
        others: slots.others,
        reasons_known: layout.send_reset_has_reason != 0,
        bpf_stats: if options.bpf_stats { measure_runs() } else { None },
    });
    let programs = match watched.interfaces {
        Some(plan) => Programs::Watched(Watcher::start(ebpf, plan, Arc::clone(&interfaces))?),
        None => Programs::Kept(ebpf),
    };
    Ok(KernelSource { programs, reader: Some(reader), counters, interfaces, release: release_text, stop })
}

/// Gives the memory back that it took to read the kernel's types. What is kept lies behind it, so
/// that it would not be given back by itself.
fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

impl KernelSource {
    /// What reads the records; `None` from the second call on. [`Self::stop`] ends its
    /// [`run`](RecordReader::run).
    pub fn reader(&mut self) -> Option<RecordReader> {
        self.reader.take()
    }

    /// The counters. They can still be read after the stop.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// The names of interfaces.
    #[must_use]
    pub fn interfaces(&self) -> Arc<InterfaceTable> {
        Arc::clone(&self.interfaces)
    }

    /// What the programs are attached to now.
    #[must_use]
    pub fn attached(&self) -> Attached {
        Attached {
            tracepoints: program::TRACEPOINTS.len(),
            interfaces: self.interfaces.names(),
            namespaces: self.interfaces.namespaces(),
            release: self.release.clone(),
        }
    }

    /// Detaches all programs. The reader then hands on what is left and ends.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for KernelSource {
    fn drop(&mut self) {
        match mem::replace(&mut self.programs, Programs::Gone) {
            Programs::Watched(watcher) => drop(watcher),
            Programs::Kept(ebpf) => drop(ebpf),
            Programs::Gone => {}
        }
        // Only now can no record follow.
        self.stop.signal();
    }
}

/// What is watched, as far as privileges allow.
struct Watched {
    /// The network namespace whose sockets are watched; 0 for all.
    sockets: u32,
    /// The interfaces, if any are.
    interfaces: Option<Plan>,
}

impl Watched {
    fn choose(options: &Options, release: Release) -> Result<Self, KernelError> {
        let only = match &options.interfaces {
            InterfaceSelection::All => Some(None),
            InterfaceSelection::Only(names) => Some(Some(names.iter().cloned().collect())),
            InterfaceSelection::None => None,
        };
        let granted = privilege::check(Intent {
            classifiers: only.is_some(),
            enter: match (&options.netns, &options.interfaces) {
                (NetnsSelection::OwnOnly, _) => Enter::Never,
                (NetnsSelection::All, InterfaceSelection::Only(_)) => Enter::Never,
                (NetnsSelection::All, InterfaceSelection::All | InterfaceSelection::None) => {
                    Enter::IfPossible
                }
                (NetnsSelection::Named(_), _) => Enter::Must,
            },
            release,
        })?;
        let own = || Netns::own().map_err(KernelError::system("open the network namespace"));
        let (sockets, scope) = match (&options.netns, &only) {
            (NetnsSelection::Named(name), _) => {
                let path = Netns::path(name);
                let netns = Netns::open(&path).map_err(|cause| KernelError::Netns {
                    name: name.clone(),
                    path,
                    cause,
                })?;
                (netns.inum, Scope::One(netns))
            }
            (NetnsSelection::OwnOnly, _) => {
                let netns = own()?;
                (netns.inum, Scope::One(netns))
            }
            // Interfaces are named as they are called here.
            (NetnsSelection::All, Some(Some(_)) | None) => (0, Scope::One(own()?)),
            (NetnsSelection::All, Some(None)) if granted.enter => {
                if !granted.inspect {
                    log::warn!(
                        "CAP_SYS_PTRACE is missing: network namespaces that only other users' processes are in \
                         are not watched for segments"
                    );
                }
                (0, Scope::Everywhere)
            }
            (NetnsSelection::All, Some(None)) => {
                log::warn!(
                    "CAP_SYS_ADMIN is missing: other network namespaces cannot be entered, only this one is watched"
                );
                let netns = own()?;
                (netns.inum, Scope::One(netns))
            }
        };
        let mode = if options.force_clsact || !release.has_tcx() { Mode::Clsact } else { Mode::Tcx };
        Ok(Self { sockets, interfaces: only.map(|only| Plan { scope, only, mode }) })
    }
}

/// Every network namespace and every interface takes some descriptors, and the usual soft limit of
/// 1024 is for select(2).
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let limit = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::debug!("the limit of open files stays as it is: {error}");
    }
}

fn logger(ebpf: &mut Ebpf) -> Option<EbpfLogger<&'static dyn log::Log>> {
    EbpfLogger::init(ebpf)
        .inspect_err(|error| log::warn!("the kernel programs' log cannot be read: {error}"))
        .ok()
}

fn measure_runs() -> Option<OwnedFd> {
    enable_stats(Stats::RunTime)
        .inspect_err(|error| log::warn!("the kernel does not measure the cost of programs: {error}"))
        .ok()
}

/// From the keys of a hash map, which are the system's randomness.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

const MIN_RING_SIZE: u32 = 4096;
