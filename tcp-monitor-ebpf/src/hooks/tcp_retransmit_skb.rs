//! Every segment that a full socket retransmits.

use aya_ebpf::programs::BtfTracePointContext;
use tcp_monitor_common::{
    record::{Kind, SocketRecord},
    rules::control::flag::SYN,
};

use crate::{
    kernel::{
        asm::{add, element},
        layout::layout,
        memory::KernelPtr,
        nesting::Nesting,
        socket::{FullSocket, Socket, is_wanted_netns},
    },
    output::{
        ports,
        ring::{self, FillLimit},
    },
    state::socket_times,
};

tracepoint!(tcp_retransmit_skb, retransmit_skb);

#[inline(always)]
fn retransmit_skb(ctx: &BtfTracePointContext, nesting: Nesting<'_>) {
    // Since 6.18 failed attempts are reported too. Older kernels have no third argument: the
    // verifier drops the branch before it looks at the load.
    if layout!(retransmit_skb_has_err) == 0 || ctx.arg::<i32>(2) == 0 {
        let sock = Socket(KernelPtr::new(ctx.arg::<*const u8>(0)));
        retransmit(nesting, sock, KernelPtr::new(ctx.arg::<*const u8>(1)));
    }
}

#[inline(always)]
fn retransmit(nesting: Nesting<'_>, sock: Socket, skb: KernelPtr) -> Option<()> {
    let watched = ports::watched(sock.local_port(), sock.remote_port())?;
    let netns = sock.netns();
    if !is_wanted_netns(netns) || !nesting.should_handle() {
        return None;
    }
    let full = FullSocket::of(sock)?;
    let role = socket_times::role(full);
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
    if !ring::wanted() {
        return None;
    }
    let mut entry = ring::reserve::<SocketRecord>(Kind::Retransmit, FillLimit::Whole)?;
    let record = ring::fields(&mut entry);
    full.describe(record, Kind::Retransmit, netns);
    record.old_state = sock.state();
    record.new_state = record.old_state;
    record.role = role as u8;
    record.tcp_flags = tcp_flags;
    record.segments = segments;
    ring::submit(entry);
    Some(())
}
