//! A timewait socket: what the kernel keeps of a socket whose connection is over or about to be
//! (kernel: `tcp_timewait_sock`).

use tcp_monitor_common::TcpState;

use super::life::Life;
use super::socket::Socket;

/// A timewait socket, whose life goes on from that of the socket.
#[derive(Debug)]
pub(in crate::lifecycle) struct TimeWait {
    pub(in crate::lifecycle) life: Life,
    pub(in crate::lifecycle) socket: Box<Socket>,
    /// The next sequence number expected: the only one with which the peer's FIN or RST counts.
    rcv_nxt: Option<u32>,
}

impl TimeWait {
    /// A timewait socket takes over from a socket.
    pub(in crate::lifecycle) fn of(life: Life, socket: Box<Socket>) -> Self {
        Self { life, rcv_nxt: socket.rcv_nxt(), socket }
    }

    /// The peer's FIN was received.
    pub(in crate::lifecycle) fn pass_fin(&mut self) {
        self.rcv_nxt = self.rcv_nxt.map(|next| next.wrapping_add(1));
    }

    /// Whether a segment of the peer that begins at `seq` continues what was received.
    pub(in crate::lifecycle) fn accepts(&self, seq: u32) -> bool {
        self.rcv_nxt.is_none_or(|next| next == seq)
    }

    /// Whether the peer's FIN at `seq` is the one awaited.
    pub(in crate::lifecycle) fn awaits_fin(&self, seq: u32) -> bool {
        self.life.state() == TcpState::FinWait2 && self.accepts(seq)
    }

    /// It is from a dump, and nothing was reported of it since.
    pub(in crate::lifecycle) fn is_from_dump(&self) -> bool {
        self.socket.is_from_dump()
    }
}
