//! The addresses of a connection in little memory.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// An IP address and a port. IPv4 is kept as the IPv6 address that it maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    ip: Ipv6Addr,
    port: u16,
}

/// The unordered pair of a connection's addresses, as a network namespace has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tuple {
    pub(super) netns: u32,
    low: Address,
    high: Address,
}

impl Address {
    /// The same host without a port.
    pub(super) const fn host(self) -> Self {
        Self { ip: self.ip, port: 0 }
    }
}

impl Tuple {
    /// The tuple of two addresses, and the index of the end that has `this`.
    pub(super) fn of(netns: u32, this: SocketAddr, other: SocketAddr) -> (Self, usize) {
        let (this, other) = (Address::from(this), Address::from(other));
        let tuple = Self { netns, low: this.min(other), high: this.max(other) };
        (tuple, usize::from(this > other))
    }

    /// Local and remote address of an end, by its index.
    pub(super) fn addresses(&self, end: usize) -> (SocketAddr, SocketAddr) {
        let (low, high) = (self.low.into(), self.high.into());
        if end == 0 { (low, high) } else { (high, low) }
    }

    /// The index of the end that the one with this index sends to: itself, if a socket connects to
    /// itself.
    pub(super) fn peer_of(&self, end: usize) -> usize {
        if self.low == self.high { end } else { 1 - end }
    }

    /// Whether both ports are known.
    pub(super) const fn is_complete(&self) -> bool {
        self.low.port != 0 && self.high.port != 0
    }

    /// Whether these are the addresses of `other`, in whatever namespace.
    pub(super) fn has_addresses_of(&self, other: &Self) -> bool {
        (self.low, self.high) == (other.low, other.high)
    }

    /// The same addresses in another network namespace.
    pub(super) const fn in_netns(&self, netns: u32) -> Self {
        Self { netns, ..*self }
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
    use super::{Address, SocketAddr, Tuple};

    #[test]
    fn an_address_stays_what_it_is() {
        for text in ["192.0.2.1:443", "0.0.0.0:0", "[2001:db8::1]:443", "[::]:0", "[::c000:201]:443"] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(SocketAddr::from(Address::from(address)), address);
        }
    }

    #[test]
    fn both_ends_have_one_tuple() {
        let [a, b] = [1, 2].map(|host| SocketAddr::from(([10, 0, 0, host], 80)));
        let ((tuple, of_a), (same, of_b)) = (Tuple::of(7, a, b), Tuple::of(7, b, a));
        assert_eq!((tuple, of_a, of_b), (same, 0, 1));
        assert_eq!((tuple.addresses(of_a), tuple.addresses(of_b)), ((a, b), (b, a)));
        assert_eq!((tuple.peer_of(0), Tuple::of(7, a, a).0.peer_of(0)), (1, 0));
        assert!(tuple.has_addresses_of(&tuple.in_netns(8)) && tuple != tuple.in_netns(8));
    }
}
