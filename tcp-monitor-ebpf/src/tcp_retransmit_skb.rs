//! Every segment that a full socket sends again.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcp_monitor_common::{
    record::{Kind, SocketRecord},
    rules::control::flag::SYN,
};

use crate::{
    instruction::{add, element},
    kernel::{KernelPtr, layout},
    ports,
    records::{self, Room},
    socket::{FullSocket, Socket, namespace_wanted},
    turn::{Tracepoint, Turn},
};

#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub(crate) fn tcp_retransmit_skb(ctx: BtfTracePointContext) -> i32 {
    retransmit_skb(&ctx, Turn::first(&ctx, Tracepoint::TcpRetransmitSkb))
}

#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub(crate) fn tcp_retransmit_skb_second(ctx: BtfTracePointContext) -> i32 {
    retransmit_skb(&ctx, Turn::second(&ctx, Tracepoint::TcpRetransmitSkb))
}

#[inline(always)]
fn retransmit_skb(ctx: &BtfTracePointContext, turn: Turn<'_>) -> i32 {
    // Since 6.18 failed attempts are reported too. Older kernels have no third argument: the verifier drops the branch
    // before it looks at the load.
    if layout!(retransmit_skb_has_err) == 0 || ctx.arg::<i32>(2) == 0 {
        let sock = Socket(KernelPtr::new(ctx.arg::<*const u8>(0)));
        retransmit(turn, sock, KernelPtr::new(ctx.arg::<*const u8>(1)));
    }
    0
}

#[inline(always)]
fn retransmit(turn: Turn<'_>, sock: Socket, skb: KernelPtr) -> Option<()> {
    let watched = ports::watched(sock.local_port(), sock.remote_port())?;
    let netns = sock.netns();
    if !namespace_wanted(netns) || !turn.is_ours() {
        return None;
    }
    let full = FullSocket::of(sock)?;
    let role = full.role();
    let tcp_flags = skb.load::<u8>(layout!(skb_tcp_flags));
    let segments = u16::from_ne_bytes([
        skb.load::<u8>(layout!(skb_gso_segs)),
        skb.load::<u8>(layout!(skb_gso_segs) + 1),
    ]);
    if let Some(counters) = watched.counters(Some(role)) {
        // SAFETY: the map's own value.
        unsafe {
            if tcp_flags & SYN != 0 {
                add(element::<_, 1, 2>(&raw mut (*counters).syn_retransmits, role as usize), 1);
            } else {
                add(&raw mut (*counters).retransmits, u64::from(segments));
            }
        }
    }
    if !records::wanted() {
        return None;
    }
    let mut entry = records::reserve::<SocketRecord>(Kind::Retransmit, Room::Whole)?;
    let record = records::fields(&mut entry);
    full.describe(record, Kind::Retransmit, netns);
    record.old_state = sock.state();
    record.new_state = record.old_state;
    record.role = role as u8;
    record.tcp_flags = tcp_flags;
    record.segments = segments;
    records::submit(entry);
    Some(())
}
