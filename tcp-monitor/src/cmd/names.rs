//! The names of interfaces and network namespaces of a running monitor.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::kernel::InterfaceTable;
use crate::lifecycle::Time;
use crate::netns::{Netns, NetnsSelection, named_namespaces};
use crate::output::Names;

/// Names, as they are now.
pub(super) struct LiveNames {
    interfaces: Arc<InterfaceTable>,
    /// `None` if only one network namespace is watched.
    namespaces: Option<RefCell<Namespaces>>,
}

/// Network namespaces by inode.
struct Namespaces {
    /// That of this process.
    own: u32,
    /// There is, or was, more than this one.
    are_several: bool,
    names: HashMap<u32, String>,
    read_at: Option<Time>,
}

impl LiveNames {
    pub(super) fn new(interfaces: Arc<InterfaceTable>, watched: &NetnsSelection) -> Self {
        let namespaces = match watched {
            NetnsSelection::All => Some(RefCell::new(Namespaces {
                own: Netns::own().map_or(0, |netns| netns.inum),
                are_several: false,
                names: HashMap::new(),
                read_at: None,
            })),
            NetnsSelection::OwnOnly | NetnsSelection::Named(_) => None,
        };
        Self { interfaces, namespaces }
    }
}

impl Names for LiveNames {
    fn interface(&self, netns: u32, ifindex: u32) -> Option<String> {
        self.interfaces.interface_name(netns, ifindex)
    }

    fn netns(&self, netns: u32) -> Option<String> {
        let mut namespaces = self.namespaces.as_ref()?.borrow_mut();
        namespaces.name(netns, clock::now(), &self.interfaces)
    }
}

impl Namespaces {
    fn name(&mut self, netns: u32, now: Time, interfaces: &InterfaceTable) -> Option<String> {
        self.are_several |= netns != self.own;
        if self.read_at.is_none_or(|read_at| now.since(read_at) >= PAUSE) {
            self.read_at = Some(now);
            self.are_several |= interfaces.namespaces() > 1;
            if self.are_several {
                // A deleted namespace keeps its name for its last events.
                if self.names.len() > MAX_NAMES {
                    self.names.clear();
                }
                self.names.extend(named_namespaces());
            }
        }
        self.are_several.then(|| self.names.get(&netns).cloned().unwrap_or_else(|| netns.to_string()))
    }
}

/// How often names are read.
const PAUSE: Duration = Duration::from_secs(1);
/// More names than that are those of deleted namespaces.
const MAX_NAMES: usize = 4096;
