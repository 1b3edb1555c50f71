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
    counters::{CLOSINGS, ClosedBy, FAILURES, PortCounters, STATES},
    record::{Kind, Role, SocketRecord},
    transition::{Circumstances, Outcome, outcome},
};

use crate::{
    half_open,
    instruction::{add, element},
    kernel::KernelPtr,
    lifetime, ports,
    records::{self, Cause},
    socket::{FullSocket, Socket, is_tcp, name_process, namespace_wanted},
    tcp_receive_reset::was_late_data,
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
    let at = Circumstances { role, sk_err: full.error(), peer_closed: full.peer_closed() };
    let outcome = match outcome(old, new, at) {
        Outcome::Closed(ClosedBy::RemoteReset) if was_late_data(sock, local_port) => {
            Outcome::Closed(ClosedBy::LocalReset)
        }
        outcome => outcome,
    };
    let syn_arrived = follow_request(sock, role, old, new);
    if let Some(counters) = watched.counters(Some(role)) {
        // SAFETY: the map's own value.
        unsafe {
            count(counters, full, role, (old, new), outcome);
            lifetime::count(counters, sock, role, (old, new), outcome, syn_arrived.ok());
            if syn_arrived == Err(Unknown::SynCookie) {
                add(&raw mut (*counters).syn_cookies[1], 1);
            }
        }
    } else {
        debug!(turn.ctx(), "port {}: no counters, its slot is out of range", local_port);
    }
    if matches!(new, TcpState::Close) {
        remember_closed(sock, local_port, old);
    }
    if !records::wanted() {
        return None;
    }
    let mut entry = records::reserve::<SocketRecord>(Kind::State, Cause::Socket)?;
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

/// What becomes of the half-open request that a child was. Returns when its SYN came in.
#[inline(always)]
fn follow_request(sock: Socket, role: Role, old: TcpState, new: TcpState) -> Result<u64, Unknown> {
    match (role, old) {
        (Role::Server, TcpState::Listen) if matches!(new, TcpState::SynRecv) => {
            half_open::child_is_born();
            Err(Unknown::NotYet)
        }
        (Role::Server, TcpState::SynRecv) => match sock.known_cookie() {
            // The classifier gives one to every request whose SYN-ACK it sees.
            0 => Err(Unknown::SynCookie),
            cookie => half_open::complete(cookie).ok_or(Unknown::NotSeen),
        },
        (Role::Server | Role::Client, _) => Err(Unknown::NotYet),
    }
}

/// Why it is not known when the SYN of a connection came in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    /// The handshake does not end here.
    NotYet,
    /// Nothing was kept of it.
    SynCookie,
    /// It passed no interface that is watched.
    NotSeen,
}

/// # Safety
///
/// `counters` must point into a map value.
#[inline(always)]
unsafe fn count(
    counters: *mut PortCounters,
    full: FullSocket,
    role: Role,
    (old, new): (TcpState, TcpState),
    outcome: Outcome,
) {
    // CLOSE may mean "handed to a TIME_WAIT minisocket", which the tracepoint does not report.
    let to = if matches!(outcome, Outcome::Waits(_)) { TcpState::TimeWait } else { new };
    // SAFETY: by the caller's word.
    unsafe {
        let row = element::<_, 15, STATES>(&raw mut (*counters).transitions, old as usize);
        add(element::<_, 15, STATES>(row, to as usize), 1);
        match outcome {
            Outcome::Established => {
                add(element::<_, 1, 2>(&raw mut (*counters).handshakes, role as usize), 1);
            }
            Outcome::HandshakeFailed(reason) => {
                let reasons = element::<_, 1, 2>(&raw mut (*counters).handshake_failures, role as usize);
                add(element::<_, 15, FAILURES>(reasons, reason as usize), 1);
            }
            Outcome::Closed(closed_by) | Outcome::Waits(closed_by) => {
                let fin_acked = match old {
                    TcpState::FinWait2 => true,
                    TcpState::Closing | TcpState::LastAck => full.error() == 0 && full.all_acked(),
                    TcpState::Established
                    | TcpState::SynSent
                    | TcpState::SynRecv
                    | TcpState::FinWait1
                    | TcpState::TimeWait
                    | TcpState::Close
                    | TcpState::CloseWait
                    | TcpState::Listen
                    | TcpState::NewSynRecv => false,
                };
                count_closed(counters, full, role, closed_by, fin_acked);
            }
            Outcome::AwaitsFin => count_closed(counters, full, role, ClosedBy::Local, true),
            Outcome::Continues | Outcome::ListenerClosed => {}
        }
    }
}

/// # Safety
///
/// `counters` must point into a map value.
#[inline(always)]
unsafe fn count_closed(
    counters: *mut PortCounters,
    full: FullSocket,
    role: Role,
    closed_by: ClosedBy,
    fin_acked: bool,
) {
    // SAFETY: by the caller's word.
    unsafe {
        let ways = element::<_, 1, 2>(&raw mut (*counters).closed, role as usize);
        add(element::<_, 7, CLOSINGS>(ways, closed_by as usize), 1);
        add(&raw mut (*counters).bytes[0], full.payload_acked(role, fin_acked));
        add(&raw mut (*counters).bytes[1], full.payload_received());
    }
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
