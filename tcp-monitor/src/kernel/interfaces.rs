//! The watched interfaces: their names and their counters.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use aya::{
    maps::{MapData, MapError, PerCpuHashMap, PerCpuValues},
    util::nr_cpus,
};
use tcp_monitor_common::{
    counters::{InterfaceCounters, InterfaceKey},
    words::Words,
};

/// Names and counters of the watched interfaces.
pub struct InterfaceTable(RwLock<Table>);

struct Table {
    counters: PerCpuHashMap<MapData, InterfaceKey, InterfaceCounters>,
    names: HashMap<InterfaceKey, String>,
    /// What interfaces that went had counted, by name, while another of that name is left: the sum
    /// must not fall.
    gone: HashMap<String, InterfaceCounters>,
    /// Names of interfaces that went a moment ago, newest last: their last records are still on the
    /// way.
    last_names: VecDeque<(InterfaceKey, String)>,
}

impl InterfaceTable {
    pub(super) fn new(counters: PerCpuHashMap<MapData, InterfaceKey, InterfaceCounters>) -> Self {
        Self(RwLock::new(Table {
            counters,
            names: HashMap::new(),
            gone: HashMap::new(),
            last_names: VecDeque::new(),
        }))
    }

    /// The name of the interface with index `ifindex` in the network namespace with inode number
    /// `netns`, if it is watched or was until lately.
    #[must_use]
    pub fn interface_name(&self, netns: u32, ifindex: u32) -> Option<String> {
        let key = InterfaceKey { netns, ifindex };
        let table = self.read();
        let last = || table.last_names.iter().rev().find(|(last, _)| *last == key).map(|(_, name)| name);
        table.names.get(&key).or_else(last).cloned()
    }

    /// The names of the watched interfaces, each once, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.read().names.values().cloned().collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// In how many network namespaces they are.
    #[must_use]
    pub fn namespaces(&self) -> usize {
        self.read().names.keys().map(|key| key.netns).collect::<HashSet<_>>().len()
    }

    /// Adds an interface, or renames it. Its counters are there from then on.
    pub(super) fn insert(&self, key: InterfaceKey, name: &str) -> Result<(), MapError> {
        let mut table = self.write();
        if !table.names.contains_key(&key) {
            let cpus = nr_cpus().map_err(|(_, error)| error)?;
            let zero = PerCpuValues::try_from(vec![InterfaceCounters::default(); cpus])?;
            table.counters.insert(key, zero, 0)?;
        }
        let before = table.names.insert(key, name.to_owned());
        if let Some(before) = before {
            table.forget_unused(&before);
        }
        Ok(())
    }

    /// Removes an interface and its counters.
    pub(super) fn remove(&self, key: InterfaceKey) {
        let mut table = self.write();
        let counted = table.sum(key).ok().flatten();
        // It is gone already if the kernel program was never attached.
        let _ = table.counters.remove(&key);
        let Some(name) = table.names.remove(&key) else { return };
        if let Some(counted) = counted {
            table.gone.entry(name.clone()).or_default().add(&counted);
        }
        table.forget_unused(&name);
        table.last_names.push_back((key, name));
        if table.last_names.len() > LAST_NAMES {
            table.last_names.pop_front();
        }
    }

    /// The counters by interface name, added up over namespaces.
    pub(super) fn totals(&self) -> Result<BTreeMap<String, InterfaceCounters>, MapError> {
        let table = self.read();
        let mut totals = BTreeMap::<String, InterfaceCounters>::new();
        for (key, name) in &table.names {
            if let Some(counted) = table.sum(*key)? {
                totals.entry(name.clone()).or_default().add(&counted);
            }
        }
        for (name, counted) in &table.gone {
            totals.entry(name.clone()).or_default().add(counted);
        }
        Ok(totals)
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The counters of one interface, or `None` if the kernel has none.
    fn sum(&self, key: InterfaceKey) -> Result<Option<InterfaceCounters>, MapError> {
        let values = match self.counters.get(&key, 0) {
            Ok(values) => values,
            Err(MapError::KeyNotFound) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut total = InterfaceCounters::default();
        for value in values.iter() {
            total.add(value);
        }
        Ok(Some(total))
    }

    /// Removes what interfaces called `name` had counted once none is left: the series ends, and
    /// memory is bounded.
    fn forget_unused(&mut self, name: &str) {
        if !self.names.values().any(|other| other == name) {
            self.gone.remove(name);
        }
    }
}

impl fmt::Debug for InterfaceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InterfaceTable").field(&self.read().names).finish()
    }
}

/// How many names of interfaces that went are kept.
const LAST_NAMES: usize = 64;
