//! Every SYN-ACK that a half-open request sends again.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcp_monitor_common::{
    TcpState,
    record::{Kind, Role, SocketRecord, flags},
    rules::control::flag::{ACK, SYN},
};

use crate::{
    half_open,
    instruction::add,
    kernel::KernelPtr,
    ports,
    records::{self, Room},
    socket::{Socket, namespace_wanted},
    turn::{Tracepoint, Turn},
};

#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub(crate) fn tcp_retransmit_synack(ctx: BtfTracePointContext) -> i32 {
    retransmit_synack(&ctx, Turn::first(&ctx, Tracepoint::TcpRetransmitSynack))
}

#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub(crate) fn tcp_retransmit_synack_second(ctx: BtfTracePointContext) -> i32 {
    retransmit_synack(&ctx, Turn::second(&ctx, Tracepoint::TcpRetransmitSynack))
}

#[inline(always)]
fn retransmit_synack(ctx: &BtfTracePointContext, turn: Turn<'_>) -> i32 {
    let listener = Socket(KernelPtr::new(ctx.arg::<*const u8>(0)));
    retransmit(turn, listener, Socket(KernelPtr::new(ctx.arg::<*const u8>(1))));
    0
}

#[inline(always)]
fn retransmit(turn: Turn<'_>, listener: Socket, request: Socket) -> Option<()> {
    let local_port = request.local_port();
    let watched = ports::watched(local_port, request.remote_port())?;
    let netns = listener.netns();
    if !namespace_wanted(netns) || !turn.is_ours() {
        return None;
    }
    if let Some(counters) = watched.counters(Some(Role::Server)) {
        // SAFETY: the map's own value; the role is within the array.
        unsafe { add(&raw mut (*counters).syn_retransmits[Role::Server as usize], 1) };
    }
    half_open::syn_ack_sent_again(request.known_cookie(), request.0);
    if !records::wanted() {
        return None;
    }
    let mut entry = records::reserve::<SocketRecord>(Kind::Retransmit, Room::Half)?;
    let record = records::fields(&mut entry);
    request.describe(record, Kind::Retransmit, netns);
    record.local_port = local_port;
    record.old_state = TcpState::NewSynRecv as u8;
    record.new_state = TcpState::NewSynRecv as u8;
    record.role = Role::Server as u8;
    record.flags |= flags::SYN_ACK;
    record.tcp_flags = SYN | ACK;
    record.segments = 1;
    records::submit(entry);
    Some(())
}
