//! The TCP states, as the kernel numbers them and RFC 9293 names them.

/// A TCP state, with the kernel's number (`include/net/tcp_states.h`).
///
/// RFC 9293 has eleven states. The kernel adds `NEW_SYN_RECV`, the half-open request socket that
/// stands for SYN_RECEIVED until the handshake is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum TcpState {
    /// Connected: data flows both ways.
    Established = 1,
    /// Active open: a SYN was sent.
    SynSent = 2,
    /// A SYN was received and answered (RFC 9293: SYN-RECEIVED).
    SynRecv = 3,
    /// Closed here first: our FIN is not acknowledged yet.
    FinWait1 = 4,
    /// Our FIN is acknowledged; the peer has not closed.
    FinWait2 = 5,
    /// Both sides closed; waiting for stray segments to die.
    TimeWait = 6,
    /// No connection.
    Close = 7,
    /// The peer closed; the application here has not.
    CloseWait = 8,
    /// Closed here second: our FIN is not acknowledged yet.
    LastAck = 9,
    /// Passive open: waiting for SYNs.
    Listen = 10,
    /// Both sides closed at once; our FIN is not acknowledged yet.
    Closing = 11,
    /// A half-open request socket of the kernel.
    NewSynRecv = 12,
}

impl TcpState {
    /// Every state, in the kernel's order.
    pub const ALL: [Self; 12] = [
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
        Self::NewSynRecv,
    ];

    /// The state the kernel numbers `number`, or `None` for a number that is no TCP state.
    #[must_use]
    pub const fn from_kernel(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynRecv,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            12 => Self::NewSynRecv,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::TcpState;

    #[test]
    fn kernel_numbers_and_states_map_both_ways() {
        for state in TcpState::ALL {
            assert_eq!(TcpState::from_kernel(state as u8), Some(state));
        }
        assert_eq!(TcpState::from_kernel(0), None);
        assert_eq!(TcpState::from_kernel(13), None);
    }
}
