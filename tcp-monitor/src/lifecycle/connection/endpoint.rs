//! One end of a connection: its life, what its segments show of its numbers, and its socket, if
//! the kernel reports one.

use tcp_monitor_common::TcpState;
use tcp_monitor_common::transition::is_synchronized;

use super::check::Sent;
use super::life::{Life, Source};
use super::socket::Socket;
use super::time_wait::TimeWait;
use crate::lifecycle::time::Time;

/// What is known of one end.
#[derive(Debug, Default)]
pub(in crate::lifecycle) struct Endpoint {
    /// Its states, whether the kernel reports them or they are inferred from segments.
    pub(in crate::lifecycle) life: Life,
    /// When its first SYN without ACK was seen.
    pub(in crate::lifecycle) syn_at: Option<Time>,
    /// What it sent that can be acknowledged.
    pub(in crate::lifecycle) sent: Sent,
    /// It sent a RST.
    pub(in crate::lifecycle) sent_rst: bool,
    /// What the kernel reports of its socket besides the states.
    pub(in crate::lifecycle) socket: Option<Box<Socket>>,
    /// The timewait socket in FIN_WAIT2 or TIME_WAIT that stands in for a socket. It outlives the
    /// addresses' next SYN, and may be of the connection before.
    pub(in crate::lifecycle) time_wait: Option<Box<TimeWait>>,
}

impl Endpoint {
    /// Discards what its segments showed.
    pub(super) fn discard_segments(&mut self) {
        (self.sent, self.syn_at, self.sent_rst) = (Sent::default(), None, false);
    }

    /// Its socket is closed, and followed no more.
    pub(in crate::lifecycle) fn close(&mut self) {
        self.life = Life::closed(self.life.of(), self.life.role);
    }

    /// Nothing is known of its states any more.
    pub(in crate::lifecycle) fn forget_life(&mut self) {
        self.life = Life::default();
    }

    /// It had a socket in this connection, which is closed.
    pub(in crate::lifecycle) fn is_closed(&self) -> bool {
        self.socket.is_none() && self.life.source == Source::Kernel && self.life.state() == TcpState::Close
    }

    /// The state that the kernel has it in, if there is a socket.
    pub(in crate::lifecycle) fn reported_state(&self) -> Option<TcpState> {
        let of_socket = self.socket.as_ref().map(|_| &self.life);
        let life = of_socket.or(self.time_wait.as_ref().map(|time_wait| &time_wait.life))?;
        Some(life.state()).filter(|state| *state != TcpState::Close)
    }

    /// It has a socket, or a timewait socket.
    pub(in crate::lifecycle) fn is_reported(&self) -> bool {
        self.socket.is_some() || self.time_wait.is_some()
    }

    /// It has a socket whose connection is established and not in TIME_WAIT.
    pub(in crate::lifecycle) fn is_living(&self) -> bool {
        self.reported_state().is_some_and(|state| is_synchronized(state) && state != TcpState::TimeWait)
    }

    /// Its states are inferred, and it is established and not in TIME_WAIT.
    pub(super) fn is_inferred_open(&self) -> bool {
        let state = self.life.state();
        !self.life.is_reported_by_kernel() && is_synchronized(state) && state != TcpState::TimeWait
    }
}
