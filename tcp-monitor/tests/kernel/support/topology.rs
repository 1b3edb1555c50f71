//! The networks on which the same traffic is made: loopback or a veth pair; IPv4, IPv6 or IPv4 in
//! IPv6 sockets.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::support::{deadline::Deadline, namespace::Namespace};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    LoopbackV4,
    LoopbackV6,
    LoopbackMapped,
    VethV4,
    VethV6,
}

impl Topology {
    pub(crate) const ALL: [Self; 5] =
        [Self::LoopbackV4, Self::LoopbackV6, Self::LoopbackMapped, Self::VethV4, Self::VethV6];

    /// Part of the name of a trial.
    pub(crate) fn phrase(self) -> &'static str {
        match self {
            Self::LoopbackV4 => "on IPv4 loopback",
            Self::LoopbackV6 => "on IPv6 loopback",
            Self::LoopbackMapped => "between IPv6 sockets over IPv4",
            Self::VethV4 => "between two namespaces over IPv4",
            Self::VethV6 => "between two namespaces over IPv6",
        }
    }

    /// Part of the name of a capture. Of several topologies with equal packets, one is recorded.
    pub(crate) fn file(self) -> Option<&'static str> {
        match self {
            Self::LoopbackV4 => Some("v4"),
            Self::VethV6 => Some("v6"),
            Self::LoopbackV6 | Self::LoopbackMapped | Self::VethV4 => None,
        }
    }
}

/// A client's and a server's namespace, which may be the same.
pub(crate) struct Network {
    pub(crate) client: Arc<Namespace>,
    pub(crate) server: Arc<Namespace>,
    /// The interface in the client's namespace that packets of both directions pass.
    pub(crate) interface: &'static str,
    /// An IPv4 address that is reached through `interface`.
    pub(crate) address_behind: Ipv4Addr,
    listen: IpAddr,
    connect: IpAddr,
}

impl Network {
    pub(crate) fn new(topology: Topology) -> Result<Self> {
        match topology {
            Topology::LoopbackV4 => Self::loopback(Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()),
            Topology::LoopbackV6 => Self::loopback(Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
            Topology::LoopbackMapped => {
                Self::loopback(Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.to_ipv6_mapped().into())
            }
            Topology::VethV4 => Self::veth(VETH_V4.into()),
            Topology::VethV6 => Self::veth(VETH_V6.into()),
        }
    }

    pub(crate) fn listen_address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.listen, port)
    }

    pub(crate) fn connect_address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.connect, port)
    }

    /// Waits for the end of all traffic on both sides.
    pub(crate) fn await_no_traffic(&self, port: u16) -> Result<()> {
        self.client.await_no_traffic(port)?;
        self.server.await_no_traffic(port)
    }

    fn loopback(listen: IpAddr, connect: IpAddr) -> Result<Self> {
        let namespace = Arc::new(Namespace::new()?);
        Ok(Self {
            client: Arc::clone(&namespace),
            server: namespace,
            interface: "lo",
            address_behind: Ipv4Addr::LOCALHOST,
            listen,
            connect,
        })
    }

    fn veth(server_address: IpAddr) -> Result<Self> {
        let (client, server) = (Arc::new(Namespace::new()?), Arc::new(Namespace::new()?));
        let (near, far) = ("veth-client", "veth-server");
        client.ip(&format!("link add {near} type veth peer name {far} netns {}", server.name()))?;
        for (namespace, name, host) in [(&client, near, 1), (&server, far, 2)] {
            namespace.ip(&format!("addr add 192.0.2.{host}/24 dev {name}"))?;
            namespace.ip(&format!("addr add 2001:db8::{host}/64 dev {name} nodad"))?;
        }
        client.ip(&format!("link set {near} up"))?;
        server.ip(&format!("link set {far} up"))?;
        for address in [VETH_V4.into(), VETH_V6.into()] {
            await_path(&client, &server, address)?;
        }
        Ok(Self {
            client,
            server,
            interface: near,
            address_behind: VETH_V4,
            listen: server_address,
            connect: server_address,
        })
    }
}

/// Waits until a datagram arrives. A link that is up may still drop packets, and an address may not
/// be usable yet: then the first neighbour solicitation is lost, and the next is sent a second
/// later.
fn await_path(client: &Namespace, server: &Namespace, address: IpAddr) -> Result<()> {
    let inbox = server.enter(|| Ok(UdpSocket::bind((address, 0))?))?;
    inbox.set_read_timeout(Some(Duration::from_millis(20)))?;
    let unspecified =
        if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let outbox = client.enter(|| Ok(UdpSocket::bind((unspecified, 0))?))?;
    let deadline = Deadline::new();
    loop {
        // It may fail while there is no path.
        let sent = outbox.send_to(&[0], inbox.local_addr()?);
        if inbox.recv(&mut [0]).is_ok() {
            return Ok(());
        }
        deadline.check().with_context(|| format!("waited for a path to {address}: {sent:?}"))?;
    }
}

/// The server's end; the addresses of RFC 5737 and RFC 3849 for documentation.
const VETH_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const VETH_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
