//! Stuck sockets: what was found of one.

use std::net::SocketAddr;
use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Role;

use crate::lifecycle::input::Process;

/// A connection that the peer has closed, and the process here has not, for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Local address.
    pub local: SocketAddr,
    /// Remote address.
    pub remote: SocketAddr,
    /// Which end the socket is.
    pub role: Role,
    /// The state it is in.
    pub state: TcpState,
    /// For how long, at least.
    pub age: Duration,
    /// Bytes received that the process has not read.
    pub unread_bytes: u32,
    /// A process that holds the socket, or the listener if it is not accepted.
    pub process: Option<Process>,
    /// What the process does not do.
    pub reason: StuckReason,
}

/// What a process does not do with a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StuckReason {
    /// Take the connection from the accept queue.
    Accept,
    /// Read what was received, or that the peer has closed.
    Read,
    /// Close the socket: it has read to the end.
    Close,
}

impl StuckReason {
    /// The cause, in a sentence without a period.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Accept => "it waits in the accept queue: the process does not call accept()",
            Self::Read => {
                "the process does not read to the end, where it would learn that the peer has closed"
            }
            Self::Close => "the process has read to the end and does not call close()",
        }
    }
}
