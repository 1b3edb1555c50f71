//! The state of a socket before CLOSE: the kernel sets an aborted socket to CLOSE and then sends
//! its RST.

use aya_ebpf::{macros::map, maps::Array};
use tcp_monitor_common::{
    TcpState,
    abi::maps::{LAST_STATE_WORDS, LastStateTable},
};

use crate::kernel::socket::Socket;

#[map]
static LAST_STATES: Array<LastStateTable> = Array::with_max_entries(1, 0);

/// Low bits of a word, which hold the state.
const STATE_BITS: u64 = 0xf;

/// Stores the state in which a socket was before CLOSE.
#[inline(always)]
pub(crate) fn store(sock: Socket, local_port: u16, old: TcpState) {
    let hash = sock.path(local_port).hash();
    if let Some(word) = word_of(hash) {
        // SAFETY: the map's own value.
        unsafe { *word = hash & !STATE_BITS | old as u64 };
    }
}

/// The state in which a socket was before CLOSE, if it is there since recently.
#[inline(always)]
pub(crate) fn before_close(sock: Socket, local_port: u16) -> Option<TcpState> {
    let hash = sock.path(local_port).hash();
    // SAFETY: the map's own value.
    let word = unsafe { *word_of(hash)? };
    if word & !STATE_BITS == hash & !STATE_BITS {
        TcpState::from_kernel((word & STATE_BITS) as u8)
    } else {
        None
    }
}

#[inline(always)]
fn word_of(hash: u64) -> Option<*mut u64> {
    let table = LAST_STATES.get_ptr_mut(0)?;
    // SAFETY: the map's own value; the index is masked to lie within it.
    Some(unsafe {
        (&raw mut (*table).words).cast::<u64>().add((hash >> 32) as usize & (LAST_STATE_WORDS - 1))
    })
}
