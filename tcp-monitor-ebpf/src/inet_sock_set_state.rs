//! Every state transition of a TCP socket, before it takes effect.

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::Array,
    programs::BtfTracePointContext,
};
use tcp_monitor_common::{
    TcpState,
    abi::config::{CLOSED_WORDS, ClosedTable},
    counters::{CLOSINGS, ClosedBy, FAILURES, PortCounters, STATES},
    record::{Kind, Role, SocketRecord},
    rules::{payload::is_fin_acked, role::role_in_transition},
    transition::{Outcome, TransitionContext, outcome},
};

use crate::{
    half_open::{self, SYN_COOKIE},
    instruction::{add, element},
    kernel::KernelPtr,
    lifetime::{self, Effect},
    orphans,
    ports::{self, counters_of},
    records::{self, Room},
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
    // A record gives the socket a cookie if it has none.
    let cookie = sock.known_cookie();
    // The record first: the verifier follows each way through the counting to the end of the program.
    if records::wanted() {
        record(full, role, netns, old, new);
    }
    if matches!(old, TcpState::Listen) && matches!(new, TcpState::Close) {
        half_open::listener_closes(sock.0);
    }
    if matches!(new, TcpState::Close) {
        remember_closed(sock, local_port, old);
    }
    let mut meaning = Meaning::of(outcome(
        old,
        new,
        TransitionContext { role, sk_err: full.error(), peer_closed: full.peer_closed() },
    ));
    if meaning.is_closed_by(ClosedBy::RemoteReset) && was_late_data(sock, local_port) {
        meaning.detail = ClosedBy::LocalReset as u8;
    }
    let slot = watched.slot(Some(role));
    let counters = counters_of(slot)?;
    if matches!(meaning.effect, Effect::HandsOver) {
        orphans::begin(sock.path(local_port), full.ack_of_fin(), slot, lifetime::since(sock));
    }
    let syn_arrived = follow_request(cookie, local_port, role, old, new);
    // SAFETY: the map's own value.
    unsafe {
        if syn_arrived == SYN_COOKIE {
            add(&raw mut (*counters).syn_cookies[1], 1);
        }
        count(counters, full, role, (old, new), meaning);
        lifetime::count(counters, sock, role, (old, new), meaning.effect, syn_arrived);
    }
    Some(())
}

#[inline(always)]
fn record(full: FullSocket, role: Role, netns: u32, old: TcpState, new: TcpState) -> Option<()> {
    let mut entry = records::reserve::<SocketRecord>(Kind::State, Room::Most)?;
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
    match role_in_transition(old, new) {
        Some(role) => role,
        // A passive open has no file descriptor before accept(); a simultaneous open, or fast open, has.
        None if matches!(old, TcpState::SynRecv) && full.is_orphan() => Role::Server,
        None => full.role(),
    }
}

/// What becomes of the half-open request that a child was. Returns when its SYN came in, 0 if that is not known, or at its birth
/// [`SYN_COOKIE`] of one that brought a cookie back. A number only: the compiler reads what lies in an `Option` before it knows that there is something, and kernels
/// before 6.3 refuse that.
#[inline(always)]
fn follow_request(cookie: u64, local_port: u16, role: Role, old: TcpState, new: TcpState) -> u64 {
    match (role, old) {
        (Role::Server, TcpState::Listen) if matches!(new, TcpState::SynRecv) => {
            half_open::child_is_born(local_port)
        }
        (Role::Server, TcpState::SynRecv) => half_open::complete(cookie),
        (Role::Server | Role::Client, _) => 0,
    }
}

/// What a transition means, in numbers: an [`Outcome`] without places that hold nothing, which the compiler reads all the same and
/// the verifier refuses.
#[derive(Clone, Copy)]
struct Meaning {
    effect: Effect,
    /// A `HandshakeFailure` or a `ClosedBy`; else 0.
    detail: u8,
}

impl Meaning {
    #[inline(always)]
    fn of(outcome: Outcome) -> Self {
        let (effect, detail) = match outcome {
            Outcome::Continues | Outcome::ListenerClosed => (Effect::None, 0),
            Outcome::Established => (Effect::Establishes, 0),
            Outcome::HandshakeFailed(reason) => (Effect::Fails, reason as u8),
            Outcome::Closed(closed_by) => (Effect::Closes, closed_by as u8),
            Outcome::EntersTimeWait(closed_by) => (Effect::Waits, closed_by as u8),
            Outcome::EntersFinWait2Timewait => (Effect::HandsOver, ClosedBy::Local as u8),
        };
        Self { effect, detail }
    }

    #[inline(always)]
    fn is_closed_by(&self, closed_by: ClosedBy) -> bool {
        matches!(self.effect, Effect::Closes) && self.detail == closed_by as u8
    }
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
    meaning: Meaning,
) {
    // CLOSE may mean "handed to a TIME_WAIT minisocket", which the tracepoint does not report.
    let to = if matches!(meaning.effect, Effect::Waits) { TcpState::TimeWait } else { new };
    // SAFETY: by the caller's word.
    unsafe {
        // A connection that is handed over stays in its state.
        if !matches!(meaning.effect, Effect::HandsOver) {
            let row = element::<_, 15, STATES>(&raw mut (*counters).transitions, old as usize);
            add(element::<_, 15, STATES>(row, to as usize), 1);
        }
        match meaning.effect {
            Effect::Establishes => {
                add(element::<_, 1, 2>(&raw mut (*counters).handshakes, role as usize), 1);
            }
            Effect::Fails => {
                let reasons = element::<_, 1, 2>(&raw mut (*counters).handshake_failures, role as usize);
                add(element::<_, 15, FAILURES>(reasons, meaning.detail.into()), 1);
            }
            Effect::Closes | Effect::Waits | Effect::HandsOver => {
                let fin_acked = is_fin_acked(old, full.error(), full.all_acked());
                count_closed(counters, full, role, meaning.detail, fin_acked);
            }
            Effect::Opens | Effect::None => {}
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
    closed_by: u8,
    fin_acked: bool,
) {
    // SAFETY: by the caller's word.
    unsafe {
        let ways = element::<_, 1, 2>(&raw mut (*counters).closed, role as usize);
        add(element::<_, 7, CLOSINGS>(ways, closed_by.into()), 1);
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
