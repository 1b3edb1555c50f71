//! Every RST that ends a full socket.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcp_monitor_common::{
    TcpState,
    counters::PHASES,
    record::{Kind, SocketRecord, UNKNOWN_REASON},
    rules::reset::{ResetPhase, may_be_late_data},
};

use crate::{
    acks::Awaited,
    instruction::{add, element},
    kernel::KernelPtr,
    ports,
    records::{self, Room},
    resets,
    socket::{FullSocket, Socket, namespace_wanted},
    turn::{Tracepoint, Turn},
};

/// In place of an acknowledgement number.
const LATE_DATA: u32 = 1;

#[btf_tracepoint(function = "tcp_receive_reset")]
pub(crate) fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    receive_reset(&ctx, Turn::first(&ctx, Tracepoint::TcpReceiveReset))
}

#[btf_tracepoint(function = "tcp_receive_reset")]
pub(crate) fn tcp_receive_reset_second(ctx: BtfTracePointContext) -> i32 {
    receive_reset(&ctx, Turn::second(&ctx, Tracepoint::TcpReceiveReset))
}

#[inline(always)]
fn receive_reset(ctx: &BtfTracePointContext, turn: Turn<'_>) -> i32 {
    reset(turn, Socket(KernelPtr::new(ctx.arg::<*const u8>(0))));
    0
}

#[inline(always)]
fn reset(turn: Turn<'_>, sock: Socket) -> Option<()> {
    let full = FullSocket::of(sock)?;
    let local_port = full.local_port();
    let watched = ports::watched(local_port, sock.remote_port())?;
    let netns = sock.netns();
    if !namespace_wanted(netns) || !turn.is_ours() {
        return None;
    }
    let state = TcpState::from_kernel(sock.state())?;
    // Then only a RST that a classifier saw come in counts.
    if may_be_late_data(state) && full.receive_shut_down() && sock.path_back(local_port).take(0) == 0 {
        // The end that resets is this one.
        sock.path(local_port).expect(LATE_DATA, Awaited::Rst);
        return None;
    }
    resets::is_claimed(sock.path(local_port));
    let role = full.role();
    let phase = ResetPhase::of_socket_in(state);
    if let Some(counters) = watched.counters(Some(role)) {
        // SAFETY: the map's own value.
        unsafe { add(element::<_, 7, PHASES>(&raw mut (*counters).resets_received, phase as usize), 1) };
    }
    if !records::wanted() {
        return None;
    }
    let mut entry = records::reserve::<SocketRecord>(Kind::Reset, Room::Whole)?;
    let record = records::fields(&mut entry);
    full.describe(record, Kind::Reset, netns);
    record.old_state = state as u8;
    record.new_state = state as u8;
    record.role = role as u8;
    record.reason = UNKNOWN_REASON;
    record.phase = phase as u8;
    records::submit(entry);
    Some(())
}

/// Whether the socket, which goes to CLOSE with ECONNRESET, was reset by this end because data came too late. To be asked once.
#[inline(always)]
pub(crate) fn was_late_data(sock: Socket, local_port: u16) -> bool {
    sock.path(local_port).take(LATE_DATA) != 0
}
