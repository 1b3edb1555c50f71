//! Every RST that ends a full socket.

use aya_ebpf::programs::BtfTracePointContext;
use tcp_monitor_common::{
    TcpState,
    counters::PHASES,
    record::{Kind, SocketRecord, UNKNOWN_REASON},
    rules::reset::{ResetPhase, may_be_late_data},
};

use crate::{
    kernel::{
        asm::{add, element},
        memory::KernelPtr,
        nesting::Nesting,
        socket::{FullSocket, Socket, is_wanted_netns},
    },
    output::{
        ports,
        ring::{self, FillLimit},
    },
    state::{acks::ANY, late_data, pending_segments, socket_times},
};

tracepoint!(tcp_receive_reset, receive_reset);

#[inline(always)]
fn receive_reset(ctx: &BtfTracePointContext, nesting: Nesting<'_>) {
    reset(nesting, Socket(KernelPtr::new(ctx.arg::<*const u8>(0))));
}

#[inline(always)]
fn reset(nesting: Nesting<'_>, sock: Socket) -> Option<()> {
    let full = FullSocket::of(sock)?;
    let local_port = full.local_port();
    let watched = ports::watched(local_port, sock.remote_port())?;
    let netns = sock.netns();
    if !is_wanted_netns(netns) || !nesting.should_handle() {
        return None;
    }
    let state = TcpState::from_kernel(sock.state())?;
    // Then only a RST that a classifier saw counts.
    if may_be_late_data(state) && full.receive_shut_down() && sock.path_back(local_port).consume(0, ANY) == 0
    {
        // This end resets.
        late_data::store(sock.path(local_port));
        return None;
    }
    pending_segments::cancel_rst(sock.path(local_port));
    let role = socket_times::role(full);
    let phase = ResetPhase::of_socket_in(state);
    if let Some(counters) = watched.counters(Some(role)) {
        // SAFETY: the map's own value.
        unsafe { add(element::<_, 7, PHASES>(&raw mut (*counters).resets_received, phase as usize), 1) };
    }
    if !ring::wanted() {
        return None;
    }
    let mut entry = ring::reserve::<SocketRecord>(Kind::Reset, FillLimit::Whole)?;
    let record = ring::fields(&mut entry);
    full.describe(record, Kind::Reset, netns);
    record.old_state = state as u8;
    record.new_state = state as u8;
    record.role = role as u8;
    record.reason = UNKNOWN_REASON;
    record.phase = phase as u8;
    ring::submit(entry);
    Some(())
}
