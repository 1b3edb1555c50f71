//! The namespaces of one run.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;

use crate::options;
use crate::support::namespace::Namespace;
use crate::support::topology::{Network, Topology};

/// A client's and a server's namespace, with room for the sockets in TIME_WAIT that a run leaves.
/// They are removed when it is dropped.
pub(crate) struct Site {
    network: Network,
    /// The interface of the server's namespace that all packets pass.
    pub(crate) interface: &'static str,
    /// The server's addresses are this one and those that follow.
    first_address: Ipv4Addr,
}

impl Site {
    pub(crate) fn new(network: options::Network) -> Result<Self> {
        let site = match network {
            options::Network::Loopback => Self {
                network: Network::new(Topology::LoopbackV4)?,
                interface: "lo",
                first_address: Ipv4Addr::LOCALHOST,
            },
            options::Network::Veth => Self::veth()?,
        };
        for namespace in [site.client(), site.server()] {
            namespace.set("net/ipv4/tcp_max_tw_buckets", "1000000")?;
            namespace.set("net/ipv4/ip_local_port_range", "10240 65000")?;
        }
        Ok(site)
    }

    pub(crate) fn client(&self) -> &Namespace {
        &self.network.client
    }

    pub(crate) fn server(&self) -> &Namespace {
        &self.network.server
    }

    /// Where the client connects to: one after the other of the server's addresses, so that no
    /// source port is used up.
    pub(crate) fn destination(&self, number: u64) -> SocketAddr {
        let address = self.first_address.to_bits() + (number % u64::from(ADDRESSES)) as u32;
        (Ipv4Addr::from_bits(address), PORT).into()
    }

    fn veth() -> Result<Self> {
        let network = Network::new(Topology::VethV4)?;
        network.server.ip("route add local 198.51.100.0/24 dev lo")?;
        network.client.ip("route add 198.51.100.0/24 via 192.0.2.2")?;
        Ok(Self { network, interface: "veth-server", first_address: Ipv4Addr::new(198, 51, 100, 1) })
    }
}

/// The service port.
pub(crate) const PORT: u16 = 8899;
const ADDRESSES: u32 = 250;
