//! The sockets of one network namespace, from the kernel (sock_diag(7)).

use std::io;

use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::request::{SOCK_DIAG_BY_FAMILY, Wanted, request};
use super::row::{AF_INET, AF_INET6, Row};
use crate::clock;
use crate::lifecycle::Time;
use crate::netlink::{BUFFER, Requests};
use crate::ports::PortSet;

/// A netlink socket that lists the TCP sockets of its network namespace.
pub(super) struct SockDiag(Requests);

/// A row, and a time before which it was not read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    pub(super) not_before: Time,
    pub(super) row: Row,
}

impl SockDiag {
    /// Opens one in the namespace that the calling thread is in.
    pub(super) fn open() -> io::Result<Self> {
        Requests::open(NETLINK_SOCK_DIAG).map(Self)
    }

    /// Lists the `wanted` sockets of both address families, those with neither port in `ports` possibly left out. `false`
    /// if the kernel says that it may not be all.
    ///
    /// # Errors
    /// If the kernel cannot tell: it may lack the module `tcp_diag`.
    pub(super) fn dump(
        &self,
        wanted: Wanted,
        ports: &PortSet,
        mut each: impl FnMut(Sight),
    ) -> io::Result<bool> {
        let mut whole = true;
        let mut buffer = Vec::with_capacity(BUFFER);
        for family in [AF_INET, AF_INET6] {
            // The kernel makes the first part of the answer when it is asked, and each other when the one before is taken.
            let mut not_before = clock::now();
            self.0.send(&request(wanted, family, ports))?;
            loop {
                let taken = clock::now();
                let part = self.0.receive(&mut buffer, &mut |kind, payload| {
                    if kind == SOCK_DIAG_BY_FAMILY
                        && let Some(row) = Row::parse(payload)
                    {
                        each(Sight { not_before, row });
                    }
                })?;
                not_before = taken;
                whole &= part.whole;
                if part.last {
                    break;
                }
            }
        }
        Ok(whole)
    }
}
