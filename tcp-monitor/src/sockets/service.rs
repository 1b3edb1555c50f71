//! Which end of its connection a socket is, and which of its ports is the service's.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use tcp_monitor_common::record::Role;

use super::row::{Kind, Row};
use crate::ports::PortSet;

/// Finds service ports, by the rules of the kernel programs.
#[derive(Clone, Debug)]
pub(super) struct ServicePorts {
    /// The watched ports; all if empty.
    pub(super) watched: PortSet,
    /// Ports that sockets get when they connect.
    pub(super) ephemeral: RangeInclusive<u16>,
}

/// The listeners of one network namespace: the inode number of one for each port.
pub(super) type Listeners = HashMap<u16, u32>;

/// The service port of a socket, and its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) port: u16,
    pub(super) role: Role,
}

impl ServicePorts {
    /// `None` if neither port of the socket is watched.
    pub(super) fn of(&self, row: &Row, listeners: &Listeners) -> Option<Service> {
        let (local, remote) = (row.local.port(), row.remote.port());
        let role = self.role(row, listeners);
        let watches = |port| self.watched.is_empty() || self.watched.contains(port);
        let port = match (watches(local), watches(remote) && remote != 0) {
            (false, false) => return None,
            (true, false) => local,
            (false, true) => remote,
            (true, true) => match role {
                Role::Server => local,
                Role::Client => remote,
            },
        };
        Some(Service { port, role })
    }

    fn role(&self, row: &Row, listeners: &Listeners) -> Role {
        match row.kind {
            Kind::Listener | Kind::Request => return Role::Server,
            Kind::Full | Kind::TimeWait => {}
        }
        let (local, remote) = (row.local.port(), row.remote.port());
        // Its listener is gone: the port numbers decide.
        let looks_accepted = !self.ephemeral.contains(&local) && self.ephemeral.contains(&remote);
        if listeners.contains_key(&local) || looks_accepted { Role::Server } else { Role::Client }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use tcp_monitor_common::TcpState;
    use tcp_monitor_common::record::Role::{Client, Server};

    use super::{Kind, Listeners, Row, ServicePorts};

    fn row(local: u16, remote: u16) -> Row {
        Row {
            kind: Kind::Full,
            state: TcpState::Established,
            local: SocketAddr::from(([127, 0, 0, 1], local)),
            remote: SocketAddr::from(([127, 0, 0, 1], remote)),
            cookie: 1,
            expires: Duration::ZERO,
            receive_queue: 0,
            send_queue: 0,
            inode: 7,
            last_ack: None,
        }
    }

    fn ports(watched: &str) -> ServicePorts {
        let watched = if watched.is_empty() { Default::default() } else { watched.parse().expect("ports") };
        ServicePorts { watched, ephemeral: 32768..=60999 }
    }

    #[test]
    fn the_service_port_is_the_servers() {
        let listeners = Listeners::from([(80, 1), (40000, 2)]);
        for (watched, local, remote, expected) in [
            // A listener has the local port.
            ("", 80, 50000, Some((80, Server))),
            ("", 40000, 50000, Some((40000, Server))),
            ("", 50000, 80, Some((80, Client))),
            // There is no listener, or none any more.
            ("", 22, 50000, Some((22, Server))),
            ("", 50000, 443, Some((443, Client))),
            ("", 700, 443, Some((443, Client))),
            // One port is watched, or both.
            ("50000", 80, 50000, Some((50000, Server))),
            ("80", 50000, 80, Some((80, Client))),
            ("80,50000", 80, 50000, Some((80, Server))),
            ("80,50000", 50000, 80, Some((80, Client))),
            ("81", 80, 50000, None),
        ] {
            let service = ports(watched).of(&row(local, remote), &listeners);
            let found = service.map(|service| (service.port, service.role));
            assert_eq!(found, expected, "--port {watched:?}: {local} to {remote}");
        }
    }

    #[test]
    fn a_listener_serves_its_own_port() {
        let listener = Row { kind: Kind::Listener, ..row(50000, 0) };
        for (watched, expected) in [("", Some(50000)), ("50000", Some(50000)), ("1-10", None)] {
            let service = ports(watched).of(&listener, &Listeners::new());
            assert_eq!(service.map(|service| service.port), expected, "{watched:?}");
        }
    }
}
