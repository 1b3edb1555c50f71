//! A census of the sockets: a dump of every watched network namespace, counted by service port.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use tcp_monitor_common::TcpState;

use super::close_wait::CloseWait;
use super::request::Wanted;
use super::row::{Kind, Row};
use super::service::{Listeners, Service, ServicePorts};
use super::socket::{SockDiag, TimedRow};
use crate::counts::{AcceptQueue, PortSockets};
use crate::lifecycle::Time;
use crate::lifecycle::input::{Presence, PresentSocket};
use crate::netlink::DUMP_ATTEMPTS;
use crate::netns::{NamespaceSwitcher, Netns, NetnsSelection, discover};

/// Dumps the sockets of network namespaces. It lives on a thread that does nothing else.
pub(super) struct SocketLister {
    switcher: NamespaceSwitcher,
    selection: NetnsSelection,
    ports: ServicePorts,
}

/// The sockets of all namespaces, or of one.
#[derive(Debug, Default)]
pub(super) struct SocketCensus {
    /// By service port.
    pub(super) ports: HashMap<u16, PortSockets>,
    pub(super) close_waits: Vec<CloseWait>,
    /// Connections, but for half-open ones; empty if they were not asked for.
    pub(super) existing: Vec<PresentSocket>,
}

impl SocketLister {
    pub(super) fn new(selection: NetnsSelection, ports: ServicePorts) -> io::Result<Self> {
        Ok(Self { switcher: NamespaceSwitcher::new()?, selection, ports })
    }

    /// Dumps all sockets now. Namespaces whose sockets cannot be listed are left out.
    ///
    /// # Errors
    /// If those of none can.
    pub(super) fn list(&self, want_existing: bool) -> io::Result<SocketCensus> {
        let mut census = SocketCensus::default();
        let mut seen = HashSet::new();
        let mut outcome = Err(io::Error::from(io::ErrorKind::NotFound));
        for path in self.namespaces() {
            let listed = Netns::open(&path).and_then(|netns| {
                let is_new = seen.insert(netns.inum);
                if is_new { self.list_one(&netns, want_existing, &mut census).map(Some) } else { Ok(None) }
            });
            match listed {
                Ok(Some(())) => outcome = Ok(()),
                Ok(None) => {}
                Err(error) => {
                    log::debug!("the sockets of {} cannot be listed: {error}", path.display());
                    if outcome.is_err() {
                        outcome = Err(error);
                    }
                }
            }
        }
        outcome.map(|()| census)
    }

    /// Where to find the namespaces. They are not kept open: that would keep those of containers
    /// that have ended.
    fn namespaces(&self) -> Vec<PathBuf> {
        match &self.selection {
            NetnsSelection::All => match discover() {
                Ok(found) => found.into_values().chain([Netns::own_path()]).collect(),
                Err(error) => {
                    log::debug!("other network namespaces cannot be found: {error}");
                    vec![Netns::own_path()]
                }
            },
            NetnsSelection::OwnOnly => vec![Netns::own_path()],
            NetnsSelection::Named(name) => vec![Netns::path(name)],
        }
    }

    fn list_one(&self, netns: &Netns, want_existing: bool, census: &mut SocketCensus) -> io::Result<()> {
        // Each dump costs a walk over the sockets of all namespaces.
        let open = || if has_sockets() { SockDiag::open().map(Some) } else { Ok(None) };
        let Some(diag) = self.switcher.run_in(netns, open)?? else { return Ok(()) };
        let watched = &self.ports.watched;
        for _ in 0..DUMP_ATTEMPTS {
            let mut view = NetnsCensus::new(netns.inum, &self.ports, want_existing);
            let mut consistent =
                diag.dump(Wanted::LISTENERS, watched, |timed| view.add_listener(&timed.row))?;
            consistent &= diag.dump(Wanted::OTHERS, watched, |timed| view.add(&timed))?;
            if view.has_close_wait {
                consistent &=
                    diag.dump(Wanted::CLOSE_WAIT, watched, |timed| view.add_close_wait(&timed.row))?;
            }
            if consistent {
                census.add(view.census);
                return Ok(());
            }
        }
        Err(io::Error::other("sockets change faster than they can be listed"))
    }
}

impl SocketCensus {
    fn add(&mut self, more: Self) {
        for (port, sockets) in more.ports {
            self.ports.entry(port).or_default().add(&sockets);
        }
        self.close_waits.extend(more.close_waits);
        self.close_waits.truncate(MAX_CLOSE_WAITS);
        self.existing.extend(more.existing);
        self.existing.truncate(MAX_EXISTING);
    }
}

/// The sockets of one namespace. Listeners are added first: they show which sockets were accepted.
struct NetnsCensus<'a> {
    netns: u32,
    ports: &'a ServicePorts,
    want_existing: bool,
    listeners: Listeners,
    has_close_wait: bool,
    census: SocketCensus,
}

impl<'a> NetnsCensus<'a> {
    fn new(netns: u32, ports: &'a ServicePorts, want_existing: bool) -> Self {
        let (listeners, census) = (Listeners::new(), SocketCensus::default());
        Self { netns, ports, want_existing, listeners, has_close_wait: false, census }
    }

    fn add_listener(&mut self, row: &Row) {
        let Some(service) = self.ports.of(row, &self.listeners) else { return };
        self.listeners.insert(service.port, row.inode);
        let sockets = self.census.ports.entry(service.port).or_default();
        sockets.count(TcpState::Listen);
        sockets.add_listener(AcceptQueue { length: row.receive_queue.into(), limit: row.send_queue.into() });
    }

    fn add(&mut self, TimedRow { not_before, row }: &TimedRow) {
        let Some(service) = self.ports.of(row, &self.listeners) else { return };
        let sockets = self.census.ports.entry(service.port).or_default();
        match row.kind {
            Kind::Request => {
                sockets.count(TcpState::SynRecv);
                sockets.half_open += 1;
            }
            Kind::Listener | Kind::Full | Kind::TimeWait => sockets.count(row.state),
        }
        self.has_close_wait |= row.state == TcpState::CloseWait;
        if self.want_existing && self.census.existing.len() < MAX_EXISTING {
            self.census.existing.extend(self.existing(*not_before, row, service));
        }
    }

    fn existing(&self, not_before: Time, row: &Row, service: Service) -> Option<PresentSocket> {
        let presence = match row.kind {
            Kind::Full => Presence::Socket(row.state),
            Kind::TimeWait => {
                Presence::Waiting { peer_closed: row.state == TcpState::TimeWait, left: row.expires }
            }
            // No record of the kernel programs refers to a request socket.
            Kind::Listener | Kind::Request => return None,
        };
        Some(PresentSocket {
            time: not_before,
            netns: self.netns,
            cookie: row.cookie,
            role: service.role,
            local: row.local,
            remote: row.remote,
            presence,
        })
    }

    fn add_close_wait(&mut self, row: &Row) {
        let Some(service) = self.ports.of(row, &self.listeners) else { return };
        if self.census.close_waits.len() >= MAX_CLOSE_WAITS {
            return;
        }
        let accepted = row.inode != 0;
        let listener = self.listeners.get(&row.local.port()).copied().unwrap_or(0);
        self.census.close_waits.push(CloseWait {
            id: (self.netns, row.cookie),
            service,
            local: row.local,
            remote: row.remote,
            receive_queue: row.receive_queue,
            inode: if accepted { row.inode } else { listener },
            accepted,
            last_ack: row.last_ack.unwrap_or_default(),
        });
    }
}

/// Whether there are TCP sockets in the namespace that the calling thread is in; request sockets
/// have a listener. `true` if the kernel does not say.
fn has_sockets() -> bool {
    let counted = |table, protocol| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok()?;
        sockets_in(&text, protocol)
    };
    // Without IPv6 there is no other table.
    counted("sockstat", "TCP:") != Some(0) || counted("sockstat6", "TCP6:").unwrap_or(0) != 0
}

/// Sockets of a protocol in a table of proc_net(5), TIME_WAIT included.
fn sockets_in(table: &str, protocol: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(protocol))?;
    let words: Vec<_> = line.split_whitespace().collect();
    let number = |name: &str| -> Option<u64> {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1)?.parse().ok()
    };
    Some(number("inuse")? + number("tw").unwrap_or(0))
}

/// Sockets in CLOSE_WAIT whose age is known; more are only counted.
const MAX_CLOSE_WAITS: usize = 1 << 16;
/// Sockets handed to the tracker; it follows no more.
const MAX_EXISTING: usize = 1 << 18;

#[cfg(test)]
mod tests {
    use super::sockets_in;

    #[test]
    fn sockets_are_counted_with_those_in_time_wait() {
        let table = "sockets: used 9\nTCP: inuse 3 orphan 1 tw 45 alloc 18 mem 0\nUDP: inuse 7 mem 1\n";
        assert_eq!(sockets_in(table, "TCP:"), Some(48));
        assert_eq!(sockets_in("TCP6: inuse 2\nUDP6: inuse 1\n", "TCP6:"), Some(2));
        assert_eq!(sockets_in("UDP: inuse 7 mem 1\n", "TCP:"), None);
        assert_eq!(sockets_in("TCP: used 7\n", "TCP:"), None);
    }
}
