//! Every state transition of a TCP socket, before it takes effect.

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::Array,
    programs::BtfTracePointContext,
};
use aya_log_ebpf::debug;
use tcp_monitor_common::{
    TcpState,
    config::{CLOSED_WORDS, ClosedTable},
    counters::{FAILURES, HandshakeFailure, PortCounters, STATES},
    record::{Kind, Role, SocketRecord},
};

use crate::{
    instruction::{add, element},
    kernel::KernelPtr,
    ports, records,
    socket::{FullSocket, Socket, is_tcp, name_process, namespace_wanted},
    turn::{Tracepoint, Turn},
};

#[map]
static CLOSED: Array<ClosedTable> = Array::with_max_entries(1, 0);

/// Low bits of a word, which hold the state.
const STATE_BITS: u64 = 0xf;

#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    set_state(&ctx, Turn::first(&ctx, Tracepoint::InetSockSetState))
}

#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn inet_sock_set_state_second(ctx: BtfTracePointContext) -> i32 {
    set_state(&ctx, Turn::second(&ctx, Tracepoint::InetSockSetState))
}

#[inline(always)]
fn set_state(ctx: &BtfTracePointContext, turn: Turn<'_>) -> i32 {
    let sock = Socket(KernelPtr::new(ctx.arg::<*const u8>(0)));
    let (old, new) = (ctx.arg::<i32>(1), ctx.arg::<i32>(2));
    if old != new
        && let (Some(old), Some(new)) = (state(old), state(new))
    {
        transition(turn, sock, old, new);
    }
    0
}

#[inline(always)]
fn transition(turn: Turn<'_>, sock: Socket, old: TcpState, new: TcpState) -> Option<()> {
    // On the way to CLOSE the kernel has already let go of the local port, and tcp_sock has to be asked.
    let local_port = match sock.local_port() {
        0 => FullSocket::of(sock)?.local_port(),
        port => port,
    };
    let watched = ports::watched(local_port, sock.remote_port())?;
    let netns = sock.netns();
    if !is_tcp(sock) || !namespace_wanted(netns) || !turn.is_ours() {
        return None;
    }
    let full = FullSocket::of(sock)?;
    let role = role(full, old, new);
    if let Some(counters) = watched.counters(Some(role)) {
        // SAFETY: the map's own value.
        unsafe { count(counters, full, role, old, new) };
    } else {
        debug!(turn.ctx(), "port {}: no counters, its slot is out of range", local_port);
    }
    if matches!(new, TcpState::Close) {
        remember_closed(sock, local_port, old);
    }
    if !records::wanted() {
        return None;
    }
    let mut entry = records::reserve::<SocketRecord>(Kind::State)?;
    let record = records::fields(&mut entry);
    full.describe(record, Kind::State, netns);
    record.old_state = old as u8;
    record.new_state = new as u8;
    record.role = role as u8;
    if full.caused_by_process(old, new) {
        name_process(record);
    }
    records::submit(entry);
    Some(())
}

#[inline(always)]
fn state(number: i32) -> Option<TcpState> {
    TcpState::from_kernel(number as u8)
}

/// Which end the socket is: what the transition says, else what the socket says.
#[inline(always)]
fn role(full: FullSocket, old: TcpState, new: TcpState) -> Role {
    if matches!(old, TcpState::SynSent) || matches!(new, TcpState::SynSent) {
        Role::Client
    } else if matches!(old, TcpState::Listen)
        || matches!(new, TcpState::Listen)
        // A passive open has no file descriptor before accept(); a simultaneous open, or fast open, has.
        || (matches!(old, TcpState::SynRecv) && full.is_orphan())
    {
        Role::Server
    } else {
        full.role()
    }
}

/// # Safety
///
/// `counters` must point into a map value.
#[inline(always)]
unsafe fn count(counters: *mut PortCounters, full: FullSocket, role: Role, old: TcpState, new: TcpState) {
    let to = if became_time_wait(full, old, new) { TcpState::TimeWait } else { new };
    // SAFETY: by the caller's word.
    unsafe {
        let row = element::<_, 15, STATES>(&raw mut (*counters).transitions, old as usize);
        add(element::<_, 15, STATES>(row, to as usize), 1);
        let connecting = matches!(old, TcpState::SynSent | TcpState::SynRecv);
        if connecting && matches!(new, TcpState::Established) {
            add(element::<_, 1, 2>(&raw mut (*counters).handshakes, role as usize), 1);
        }
        if connecting && matches!(new, TcpState::Close) {
            let reason = match role {
                Role::Server => HandshakeFailure::of_server(full.error()),
                Role::Client => HandshakeFailure::of_client(full.error()),
            };
            count_failure(counters, role, reason);
        }
    }
}

/// # Safety
///
/// `counters` must point into a map value.
#[inline(always)]
unsafe fn count_failure(counters: *mut PortCounters, role: Role, reason: HandshakeFailure) {
    // SAFETY: by the caller's word.
    unsafe {
        let reasons = element::<_, 1, 2>(&raw mut (*counters).handshake_failures, role as usize);
        add(element::<_, 15, FAILURES>(reasons, reason as usize), 1);
    }
}

/// Whether CLOSE means "handed to a TIME_WAIT minisocket", which the tracepoint does not report.
#[inline(always)]
fn became_time_wait(full: FullSocket, old: TcpState, new: TcpState) -> bool {
    matches!(new, TcpState::Close)
        && full.error() == 0
        && (matches!(old, TcpState::Closing) || (matches!(old, TcpState::FinWait2) && full.peer_closed()))
}

/// Notes from which state the socket went to CLOSE, for the RST the kernel may send next.
#[inline(always)]
fn remember_closed(sock: Socket, local_port: u16, old: TcpState) {
    let hash = sock.path(local_port).hash();
    if let Some(word) = closed_word(hash) {
        // SAFETY: the map's own value.
        unsafe { *word = hash & !STATE_BITS | old as u64 };
    }
}

/// The state from which the socket went to CLOSE, if it did so lately.
#[inline(always)]
pub(crate) fn state_before_close(sock: Socket, local_port: u16) -> Option<TcpState> {
    let hash = sock.path(local_port).hash();
    // SAFETY: the map's own value.
    let word = unsafe { *closed_word(hash)? };
    if word & !STATE_BITS == hash & !STATE_BITS {
        TcpState::from_kernel((word & STATE_BITS) as u8)
    } else {
        None
    }
}

#[inline(always)]
fn closed_word(hash: u64) -> Option<*mut u64> {
    let table = CLOSED.get_ptr_mut(0)?;
    // SAFETY: the map's own value; the index is masked to lie within it.
    Some(unsafe { (&raw mut (*table).words).cast::<u64>().add((hash >> 32) as usize & (CLOSED_WORDS - 1)) })
}
