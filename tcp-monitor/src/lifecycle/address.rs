//! The address of one end in little memory.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// An IP address and a port. IPv4 is kept as the IPv6 address that it maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    ip: Ipv6Addr,
    port: u16,
}

impl Address {
    pub(super) const fn port(self) -> u16 {
        self.port
    }

    /// The same host without a port.
    pub(super) const fn host(self) -> Self {
        Self { ip: self.ip, port: 0 }
    }
}

// Whole numbers are hashed and compared faster than bytes.
impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.ip.to_bits());
        state.write_u16(self.port);
    }
}

impl Ord for Address {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.ip.to_bits(), self.port).cmp(&(other.ip.to_bits(), other.port))
    }
}

impl PartialOrd for Address {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { ip, port: address.port() }
    }
}

impl From<Address> for SocketAddr {
    fn from(address: Address) -> Self {
        Self::new(address.ip.to_canonical(), address.port)
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, SocketAddr};

    #[test]
    fn an_address_stays_what_it_is() {
        for text in ["192.0.2.1:443", "0.0.0.0:0", "[2001:db8::1]:443", "[::]:0", "[::c000:201]:443"] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(SocketAddr::from(Address::from(address)), address);
        }
    }
}
