//! Every SYN-ACK that a half-open request retransmits.

use aya_ebpf::programs::BtfTracePointContext;
use tcp_monitor_common::{
    TcpState,
    record::{Kind, Role, SocketRecord, flags},
    rules::control::flag::{ACK, SYN},
};

use crate::{
    kernel::{
        asm::add,
        memory::KernelPtr,
        nesting::Nesting,
        socket::{Socket, is_wanted_netns},
    },
    output::{
        ports,
        ring::{self, FillLimit},
    },
    state::half_open,
};

tracepoint!(tcp_retransmit_synack, retransmit_synack);

#[inline(always)]
fn retransmit_synack(ctx: &BtfTracePointContext, nesting: Nesting<'_>) {
    let listener = Socket(KernelPtr::new(ctx.arg::<*const u8>(0)));
    retransmit(nesting, listener, Socket(KernelPtr::new(ctx.arg::<*const u8>(1))));
}

#[inline(always)]
fn retransmit(nesting: Nesting<'_>, listener: Socket, request: Socket) -> Option<()> {
    let local_port = request.local_port();
    let watched = ports::watched(local_port, request.remote_port())?;
    let netns = listener.netns();
    if !is_wanted_netns(netns) || !nesting.should_handle() {
        return None;
    }
    if let Some(counters) = watched.counters(Some(Role::Server)) {
        // SAFETY: the map's own value; the role is within the array.
        unsafe { add(&raw mut (*counters).syn_retransmits[Role::Server as usize], 1) };
    }
    half_open::syn_ack_retransmitted(request.known_cookie(), request.0);
    if !ring::wanted() {
        return None;
    }
    let mut entry = ring::reserve::<SocketRecord>(Kind::Retransmit, FillLimit::Half)?;
    let record = ring::fields(&mut entry);
    request.describe(record, Kind::Retransmit, netns);
    record.local_port = local_port;
    record.old_state = TcpState::NewSynRecv as u8;
    record.new_state = TcpState::NewSynRecv as u8;
    record.role = Role::Server as u8;
    record.flags |= flags::SYN_ACK;
    record.tcp_flags = SYN | ACK;
    record.segments = 1;
    ring::submit(entry);
    Some(())
}
