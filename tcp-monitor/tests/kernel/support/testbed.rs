//! What workloads and forged segments need: a server's and a client's namespace, and outside hosts
//! that reach the server.

use std::{
    cell::Cell,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Result;
use socket2::{Domain, Socket, Type};

use crate::{
    support::{
        namespace::{Namespace, move_into},
        outside_host::{INSIDE_V4, INSIDE_V6, OutsideNetwork},
        topology::{Network, Topology},
    },
    workload::worker::FIRST_PORT,
};

/// One of the two namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Server,
    Client,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Server, Self::Client];
}

/// Over which interface and IP version a client reaches a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    LoopbackV4,
    LoopbackV6,
    VethV4,
    VethV6,
}

impl Route {
    pub(crate) const ALL: [Self; 4] = [Self::LoopbackV4, Self::LoopbackV6, Self::VethV4, Self::VethV6];

    /// The side of the client; the server is always on [`Side::Server`].
    pub(crate) fn client_side(self) -> Side {
        match self {
            Self::LoopbackV4 | Self::LoopbackV6 => Side::Server,
            Self::VethV4 | Self::VethV6 => Side::Client,
        }
    }
}

/// Settings of the server's namespace for full queues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// `net.ipv4.tcp_syncookies`: 0, 1 or 2.
    pub(crate) syncookies: u8,
    /// `net.ipv4.tcp_abort_on_overflow`.
    pub(crate) abort_on_overflow: bool,
}

pub(crate) struct Testbed {
    network: Network,
    pub(crate) outside: OutsideNetwork,
    /// How many half-open connections a listener without SYN cookies accepts beyond its backlog:
    /// one since Linux 6.14 and the stable kernels of that time.
    pub(crate) spare_requests: usize,
}

impl Testbed {
    pub(crate) fn new() -> Result<Self> {
        let network = Network::new(Topology::VethV4)?;
        for namespace in [&network.server, &network.client] {
            for (setting, value) in SETTINGS {
                namespace.set(setting, value)?;
            }
            // Linux 6.5 and later; otherwise the first SYNs are retransmitted every second.
            let _ = namespace.set("net/ipv4/tcp_syn_linear_timeouts", "0");
        }
        let outside = OutsideNetwork::new(&network.server)?;
        let mut testbed = Self { network, outside, spare_requests: 0 };
        testbed.spare_requests = testbed.count_requests_at_backlog_0()?;
        Ok(testbed)
    }

    fn count_requests_at_backlog_0(&self) -> Result<usize> {
        self.apply(Settings { syncookies: 0, abort_on_overflow: false })?;
        let server = self.namespace(Side::Server);
        let _listener = server.enter(|| {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            listener.bind(&self.outside_address(false, FIRST_PORT).into())?;
            listener.listen(0)?;
            Ok(listener)
        })?;
        // A packet has been processed when the call that sends it returns.
        self.outside.new_host(self.outside_address(false, FIRST_PORT), 0).syn();
        Ok(server.sockets(FIRST_PORT)?.len())
    }

    pub(crate) fn namespace(&self, side: Side) -> &Namespace {
        match side {
            Side::Server => &self.network.server,
            Side::Client => &self.network.client,
        }
    }

    pub(crate) fn apply(&self, settings: Settings) -> Result<()> {
        let server = self.namespace(Side::Server);
        server.set("net/ipv4/tcp_syncookies", &settings.syncookies.to_string())?;
        server.set("net/ipv4/tcp_abort_on_overflow", &u8::from(settings.abort_on_overflow).to_string())
    }

    /// The address of a server's port on a route.
    pub(crate) fn address(&self, route: Route, port: u16) -> SocketAddr {
        let ip = match route {
            Route::LoopbackV4 => Ipv4Addr::LOCALHOST.into(),
            Route::LoopbackV6 => Ipv6Addr::LOCALHOST.into(),
            Route::VethV4 => SERVER_V4.into(),
            Route::VethV6 => SERVER_V6.into(),
        };
        SocketAddr::new(ip, port)
    }

    /// The address at which outside hosts reach a server's port.
    pub(crate) fn outside_address(&self, v6: bool, port: u16) -> SocketAddr {
        let ip: IpAddr = if v6 { INSIDE_V6.into() } else { INSIDE_V4.into() };
        SocketAddr::new(ip, port)
    }

    /// Moves the calling thread to this side, where it then opens sockets.
    pub(crate) fn move_to(&self, side: Side) -> Result<()> {
        let name = self.namespace(side).name();
        // Most sockets are opened where the last one was.
        let testbed: *const Self = self;
        if WHERE.get() != Some((testbed as usize, side)) {
            move_into(name)?;
            WHERE.set(Some((testbed as usize, side)));
        }
        Ok(())
    }
}

thread_local! {
    /// Testbed and side of this thread.
    static WHERE: Cell<Option<(usize, Side)>> = const { Cell::new(None) };
}

/// What each agent must have counted according to the connections that were made, by series.
#[derive(Default)]
pub(crate) struct ExpectedCounts(BTreeMap<(Side, String), u64>);

impl ExpectedCounts {
    pub(crate) fn add(&mut self, side: Side, metric: &str, labels: &[(&str, &str)], count: u64) {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        *self.0.entry((side, series(metric, &labels))).or_default() += count;
    }

    pub(crate) fn merge(&mut self, other: Self) {
        for (series, count) in other.0 {
            *self.0.entry(series).or_default() += count;
        }
    }

    /// Everything that one side is to have counted.
    pub(crate) fn of(&self, side: Side) -> BTreeMap<String, u64> {
        self.0.iter().filter(|((at, _), _)| *at == side).map(|((_, name), n)| (name.clone(), *n)).collect()
    }
}

/// The name of a series; equal for equal labels.
pub(crate) fn series<V: AsRef<str>>(metric: &str, labels: &BTreeMap<&str, V>) -> String {
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={}", value.as_ref())).collect();
    format!("{metric}{{{}}}", labels.join(","))
}

/// Short timeouts: connect() fails after two SYNs and three seconds, a half-open connection
/// likewise, and a FIN that is not acknowledged after less than a second. With the last setting
/// only the backlog of a listener limits its half-open connections.
const SETTINGS: [(&str, &str); 4] = [
    ("net/ipv4/tcp_syn_retries", "1"),
    ("net/ipv4/tcp_synack_retries", "1"),
    ("net/ipv4/tcp_orphan_retries", "1"),
    ("net/ipv4/tcp_max_syn_backlog", "4096"),
];
/// As in [`Topology::VethV4`] and [`Topology::VethV6`].
const SERVER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
