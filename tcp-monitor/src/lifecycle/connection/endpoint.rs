//! One end of a connection: what its segments show of its numbers, and its socket, if the kernel
//! reports one.

use tcp_monitor_common::TcpState;
use tcp_monitor_common::transition::is_synchronized;

use super::check::Sent;
use super::socket::Socket;
use crate::lifecycle::time::Time;

/// What is known of one end.
#[derive(Debug, Default)]
pub(in crate::lifecycle) struct Endpoint {
    /// Its initial sequence number.
    pub(in crate::lifecycle) isn: Option<u32>,
    /// When its first SYN without ACK was seen.
    pub(in crate::lifecycle) syn_at: Option<Time>,
    /// What it sent that can be acknowledged.
    pub(in crate::lifecycle) sent: Sent,
    /// It sent a RST.
    pub(in crate::lifecycle) sent_rst: bool,
    /// It had a socket in this connection, which is closed.
    pub(in crate::lifecycle) is_closed: bool,
    /// Its socket, as the kernel reports it.
    pub(in crate::lifecycle) socket: Option<Box<Socket>>,
    /// The timewait socket in FIN_WAIT2 or TIME_WAIT that stands in for a socket. It outlives the
    /// addresses' next SYN, and may be of the connection before.
    pub(in crate::lifecycle) time_wait: Option<Box<Socket>>,
}

impl Endpoint {
    /// Discards what its segments showed.
    pub(super) fn discard_segments(&mut self) {
        (self.isn, self.syn_at, self.sent_rst) = (None, None, false);
        self.sent = Sent::default();
    }

    /// The state that the kernel has it in, if there is a socket.
    pub(in crate::lifecycle) fn reported_state(&self) -> Option<TcpState> {
        let socket = self.socket.as_ref().or(self.time_wait.as_ref())?;
        Some(socket.life.state()).filter(|state| *state != TcpState::Close)
    }

    /// It has a socket, or a timewait socket.
    pub(in crate::lifecycle) fn is_reported(&self) -> bool {
        self.socket.is_some() || self.time_wait.is_some()
    }

    /// It has a socket whose connection is established and not in TIME_WAIT.
    pub(in crate::lifecycle) fn is_living(&self) -> bool {
        self.reported_state().is_some_and(|state| is_synchronized(state) && state != TcpState::TimeWait)
    }
}
