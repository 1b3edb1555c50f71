//! The sockets of one network namespace, from the kernel (sock_diag(7)).

use std::io;

use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::request::{SOCK_DIAG_BY_FAMILY, Wanted, request};
use super::row::{AF_INET, AF_INET6, Row};
use crate::clock;
use crate::lifecycle::Time;
use crate::netlink::{BUFFER, NetlinkSocket};
use crate::ports::PortSet;

/// A netlink socket that lists the TCP sockets of its network namespace.
pub(super) struct SockDiag(NetlinkSocket);

/// A row, and a time before which it was not read.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimedRow {
    pub(super) not_before: Time,
    pub(super) row: Row,
}

impl SockDiag {
    /// Opens one in the namespace that the calling thread is in.
    pub(super) fn open() -> io::Result<Self> {
        NetlinkSocket::open(NETLINK_SOCK_DIAG).map(Self)
    }

    /// Dumps the `wanted` sockets of both address families; those with neither port in `ports` may
    /// be left out. `false` if the kernel reports that the dump may be inconsistent.
    ///
    /// # Errors
    /// If the kernel cannot list sockets: it may lack the module `tcp_diag`.
    pub(super) fn dump(
        &self,
        wanted: Wanted,
        ports: &PortSet,
        mut each: impl FnMut(TimedRow),
    ) -> io::Result<bool> {
        let mut consistent = true;
        let mut buffer = Vec::with_capacity(BUFFER);
        for family in [AF_INET, AF_INET6] {
            // The kernel makes the first part of the answer at the request, and each other when the
            // one before is received.
            let mut not_before = clock::now();
            self.0.send(&request(wanted, family, ports))?;
            loop {
                let received = clock::now();
                let part = self.0.receive(&mut buffer, &mut |kind, payload| {
                    if kind == SOCK_DIAG_BY_FAMILY
                        && let Some(row) = Row::parse(payload)
                    {
                        each(TimedRow { not_before, row });
                    }
                })?;
                not_before = received;
                consistent &= part.consistent;
                if part.last {
                    break;
                }
            }
        }
        Ok(consistent)
    }
}
