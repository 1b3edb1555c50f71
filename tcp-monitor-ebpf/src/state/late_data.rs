//! Sockets that data reset which came too late, between the report of a RST and that of CLOSE.

use super::acks::{ANY, Awaited};
use crate::kernel::{path::Path, socket::Socket};

/// In place of an acknowledgment number.
const LATE_DATA: u32 = 1;

/// Late data resets the socket that sends on `path`.
#[inline(always)]
pub(crate) fn store(path: Path) {
    path.expect(LATE_DATA, Awaited::Rst);
}

/// Whether late data reset the socket, which enters CLOSE with ECONNRESET. Call it once.
#[inline(always)]
pub(crate) fn consume(sock: Socket, local_port: u16) -> bool {
    sock.path(local_port).consume(LATE_DATA, ANY) != 0
}
