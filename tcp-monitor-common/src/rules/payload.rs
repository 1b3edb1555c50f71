//! Payload, from the kernel's counters of sequence space: SYN and FIN take one number each (RFC
//! 9293, section 3.4).

use crate::rules::control::flag;
use crate::rules::role::Role;
use crate::rules::state::TcpState;

/// Payload that the peer acknowledged, bytes, from `tcp_sock.bytes_acked`.
///
/// The counter grows with SND.UNA (kernel: `tcp_snd_una_update`). That passes our FIN, and our SYN
/// if this end opened the connection: a server's socket begins with its SYN-ACK acknowledged.
#[inline(always)]
#[must_use]
pub const fn payload_acked(bytes_acked: u64, role: Role, fin_acked: bool) -> u64 {
    let syn = matches!(role, Role::Client) as u64;
    bytes_acked.saturating_sub(syn + fin_acked as u64)
}

/// Payload received in order, bytes, from `tcp_sock.bytes_received`.
///
/// The counter grows with RCV.NXT (kernel: `tcp_rcv_nxt_update`) from after the peer's SYN on, and
/// past its FIN.
#[inline(always)]
#[must_use]
pub const fn payload_received(bytes_received: u64, fin_received: bool) -> u64 {
    bytes_received.saturating_sub(fin_received as u64)
}

/// Whether our FIN is acknowledged when a socket leaves `from` for CLOSE or TIME_WAIT.
///
/// FIN_WAIT2 begins with that acknowledgment (RFC 9293, section 3.6). CLOSING and LAST_ACK end with
/// it unless the socket has an error (`sk_err`). `all_acked`: SND.UNA equals SND.NXT.
#[inline(always)]
#[must_use]
pub const fn is_fin_acked(from: TcpState, sk_err: u32, all_acked: bool) -> bool {
    match from {
        TcpState::FinWait2 | TcpState::TimeWait => true,
        TcpState::Closing | TcpState::LastAck => sk_err == 0 && all_acked,
        TcpState::Established
        | TcpState::SynSent
        | TcpState::SynRecv
        | TcpState::FinWait1
        | TcpState::Close
        | TcpState::CloseWait
        | TcpState::Listen
        | TcpState::NewSynRecv => false,
    }
}

/// Sequence numbers that a segment takes: its payload, and one each for SYN and FIN. Wraps, as
/// sequence numbers do.
#[inline(always)]
#[must_use]
pub const fn sequence_space(payload_len: u32, flags: u8) -> u32 {
    let syn = (flags & flag::SYN != 0) as u32;
    let fin = (flags & flag::FIN != 0) as u32;
    payload_len.wrapping_add(syn).wrapping_add(fin)
}

#[cfg(test)]
mod tests {
    use super::flag::{ACK, FIN, RST, SYN};
    use super::{is_fin_acked, payload_acked, payload_received, sequence_space};
    use crate::rules::role::Role::{Client, Server};
    use crate::rules::state::TcpState::{self, Closing, FinWait2, LastAck, TimeWait};

    #[test]
    fn acknowledged_payload_is_without_syn_and_fin() {
        let table = [
            (10, Server, false, 10),
            (10, Server, true, 9),
            (10, Client, false, 9),
            (10, Client, true, 8),
            // Nothing was acknowledged before the connection ended.
            (0, Client, false, 0),
            (0, Client, true, 0),
        ];
        for (bytes_acked, role, fin_acked, payload) in table {
            assert_eq!(
                payload_acked(bytes_acked, role, fin_acked),
                payload,
                "{bytes_acked} {role:?} {fin_acked}"
            );
        }
    }

    #[test]
    fn received_payload_is_without_fin() {
        for (bytes_received, fin_received, payload) in [(10, false, 10), (10, true, 9), (0, true, 0)] {
            assert_eq!(payload_received(bytes_received, fin_received), payload);
        }
    }

    #[test]
    fn the_state_that_is_left_decides_whether_our_fin_is_acknowledged() {
        for from in TcpState::ALL {
            let always = [FinWait2, TimeWait].contains(&from);
            let at_the_end = always || [Closing, LastAck].contains(&from);
            let acked = |sk_err, all_acked| is_fin_acked(from, sk_err, all_acked);
            assert_eq!(acked(0, true), at_the_end, "{from:?}");
            assert_eq!([acked(0, false), acked(104, true), acked(104, false)], [always; 3], "{from:?}");
        }
    }

    #[test]
    fn syn_and_fin_take_one_sequence_number_each() {
        let table = [
            (0, ACK, 0),
            (7, ACK, 7),
            (0, SYN, 1),
            (7, SYN | ACK, 8),
            (0, FIN | ACK, 1),
            (7, SYN | FIN, 9),
            (0, RST | ACK, 0),
            (u32::MAX, FIN, 0),
        ];
        for (payload_len, flags, space) in table {
            assert_eq!(sequence_space(payload_len, flags), space, "{payload_len} {flags:#04x}");
        }
    }
}
