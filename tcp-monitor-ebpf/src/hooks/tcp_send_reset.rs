//! Every RST this host sends. Kernels before 6.12 report only those of full sockets and give no
//! reason.

use aya_ebpf::programs::BtfTracePointContext;
use tcp_monitor_common::{
    TcpState,
    counters::{PHASES, RESET_REASON_UNKNOWN, RESET_REASONS},
    record::{Kind, ResetPhase, Role, SocketRecord, UNKNOWN_REASON, flags},
};

use crate::{
    kernel::{
        asm::{add, element},
        layout::layout,
        memory::{KernelPtr, read},
        nesting::Nesting,
        packet::Addresses,
        socket::{FullSocket, Socket, is_wanted_netns, start},
    },
    output::{
        ports::{self, Watched},
        ring::{self, FillLimit},
    },
    state::{fin_wait2_timewait, socket_times},
};

tracepoint!(tcp_send_reset, send_reset);

#[inline(always)]
fn send_reset(ctx: &BtfTracePointContext, nesting: Nesting<'_>) {
    let sock = KernelPtr::new(ctx.arg::<*const u8>(0));
    let skb = KernelPtr::new(ctx.arg::<*const u8>(1));
    // Older kernels have no third argument: the verifier drops the branch before it looks at the
    // load.
    let reason = if layout!(send_reset_has_reason) != 0 { ctx.arg::<u32>(2) as u8 } else { UNKNOWN_REASON };
    reset(nesting, sock, skb, reason);
}

#[inline(always)]
fn reset(nesting: Nesting<'_>, sock: KernelPtr, skb: KernelPtr, reason: u8) -> Option<()> {
    if sock.is_null() {
        return from_packet(nesting, skb, None, ResetPhase::NoSocket, reason);
    }
    let sock = Socket(sock);
    let state = TcpState::from_kernel(sock.state())?;
    match state {
        // The listener stands for many peers: this one is in the packet.
        TcpState::Listen => from_packet(nesting, skb, Some(sock), ResetPhase::Handshake, reason),
        TcpState::TimeWait => {
            // A timewait socket may be in FIN_WAIT2.
            let state = TcpState::from_kernel(sock.substate())?;
            if matches!(state, TcpState::FinWait2) {
                // The RST ends it.
                fin_wait2_timewait::end(
                    sock.path(sock.local_port()),
                    sock.timewait_ack_of_fin(),
                    TcpState::Close,
                );
            }
            from_socket(nesting, sock, None, state, ResetPhase::of_socket_in(state), reason)
        }
        TcpState::NewSynRecv => from_socket(nesting, sock, None, state, ResetPhase::Handshake, reason),
        TcpState::Established
        | TcpState::Close
        | TcpState::SynSent
        | TcpState::SynRecv
        | TcpState::FinWait1
        | TcpState::FinWait2
        | TcpState::CloseWait
        | TcpState::LastAck
        | TcpState::Closing => from_full(nesting, sock, state, reason),
    }
}

#[inline(always)]
fn from_full(nesting: Nesting<'_>, sock: Socket, state: TcpState, reason: u8) -> Option<()> {
    let full = FullSocket::of(sock)?;
    // An aborted socket is set to CLOSE first and its RST sent after.
    let state = if matches!(state, TcpState::Close) {
        let local_port = full.local_port();
        let before = socket_times::state_before_close(sock).unwrap_or(state);
        if matches!(before, TcpState::FinWait2) {
            // No timewait socket took over.
            fin_wait2_timewait::end(sock.path(local_port), full.ack_of_fin(), TcpState::Close);
        }
        before
    } else {
        state
    };
    from_socket(nesting, sock, Some(full), state, ResetPhase::of_socket_in(state), reason)
}

#[inline(always)]
fn from_socket(
    nesting: Nesting<'_>,
    sock: Socket,
    full: Option<FullSocket>,
    state: TcpState,
    phase: ResetPhase,
    reason: u8,
) -> Option<()> {
    let local_port = full.map_or_else(|| sock.local_port(), FullSocket::local_port);
    let watched = ports::watched(local_port, sock.remote_port())?;
    let netns = sock.netns();
    if !is_wanted_netns(netns) || !nesting.should_handle() {
        return None;
    }
    let role = full.map(socket_times::role);
    count(watched, role, phase, reason);
    if !ring::wanted() {
        return None;
    }
    let limit = if full.is_some() { FillLimit::Whole } else { FillLimit::Half };
    let mut entry = ring::reserve::<SocketRecord>(Kind::Reset, limit)?;
    let record = ring::fields(&mut entry);
    match full {
        Some(full) => full.describe(record, Kind::Reset, netns),
        None => sock.describe(record, Kind::Reset, netns),
    }
    record.local_port = local_port;
    record.old_state = state as u8;
    record.new_state = state as u8;
    record.role = role.unwrap_or(Role::Server) as u8;
    record.reason = reason;
    record.phase = phase as u8;
    record.flags |= flags::SENT;
    ring::submit(entry);
    Some(())
}

/// A RST that answers a packet for which there is no socket, or only a listener.
#[inline(always)]
fn from_packet(
    nesting: Nesting<'_>,
    skb: KernelPtr,
    listener: Option<Socket>,
    phase: ResetPhase,
    reason: u8,
) -> Option<()> {
    if skb.is_null() {
        return None;
    }
    let head = skb.load::<u64>(layout!(skb_head)) as *const u8;
    let transport = head.wrapping_add(usize::from(skb.load::<u16>(layout!(skb_transport_header))));
    let network = head.wrapping_add(usize::from(skb.load::<u16>(layout!(skb_network_header))));
    let [source, destination] = read::<[u16; 2]>(transport);
    // The packet's destination is this host's end.
    let (local_port, remote_port) = (u16::from_be(destination), u16::from_be(source));
    let watched = ports::watched(local_port, remote_port)?;
    let netns = match listener {
        Some(listener) => listener.netns(),
        None => skb.follow(layout!(skb_dev)).follow(layout!(dev_net)).load::<u32>(layout!(net_inum)),
    };
    if !is_wanted_netns(netns) || !nesting.should_handle() {
        return None;
    }
    count(watched, listener.map(|_| Role::Server), phase, reason);
    if !ring::wanted() {
        return None;
    }
    let addresses = addresses(network);
    let mut entry = ring::reserve::<SocketRecord>(Kind::Reset, FillLimit::Half)?;
    let record = ring::fields(&mut entry);
    start(&mut record.header, Kind::Reset, netns, addresses.ip_version);
    record.local_port = local_port;
    record.remote_port = remote_port;
    record.role = Role::Server as u8;
    record.reason = reason;
    record.phase = phase as u8;
    record.flags = flags::SENT;
    addresses.store(&mut record.local_addr, &mut record.remote_addr);
    ring::submit(entry);
    Some(())
}

#[inline(always)]
fn count(watched: Watched, role: Option<Role>, phase: ResetPhase, reason: u8) {
    let reason = (reason as usize).min(RESET_REASON_UNKNOWN);
    if let Some(counters) = watched.counters(role) {
        // SAFETY: the map's own value.
        unsafe {
            let reasons = element::<_, 7, PHASES>(&raw mut (*counters).resets_sent, phase as usize);
            add(element::<_, 31, RESET_REASONS>(reasons, reason), 1);
        }
    }
}

/// The receiver and the sender of a packet, as local and remote.
#[inline(always)]
fn addresses(network: *const u8) -> Addresses {
    const V4_SOURCE: usize = 12;
    const V6_SOURCE: usize = 8;
    if read::<u8>(network) >> 4 == 4 {
        let [source, destination] = read::<[u32; 2]>(network.wrapping_add(V4_SOURCE));
        Addresses { local: [destination, 0, 0, 0], remote: [source, 0, 0, 0], ip_version: 4 }
    } else {
        let [remote, local] = read::<[[u32; 4]; 2]>(network.wrapping_add(V6_SOURCE));
        Addresses { local, remote, ip_version: 6 }
    }
}
