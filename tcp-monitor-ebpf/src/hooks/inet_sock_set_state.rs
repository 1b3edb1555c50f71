//! Every state transition of a TCP socket, before it takes effect.

use aya_ebpf::programs::BtfTracePointContext;
use tcp_monitor_common::{
    TcpState,
    counters::{CLOSINGS, ClosedBy, FAILURES, PortCounters, STATES},
    record::{Kind, Role, SocketRecord},
    rules::{payload::is_fin_acked, role::role_in_transition},
    transition::{Outcome, TransitionContext, outcome},
};

use crate::{
    kernel::{
        asm::{add, element},
        memory::KernelPtr,
        nesting::Nesting,
        now,
        socket::{FullSocket, Socket, is_tcp, name_process},
    },
    output::{
        log,
        ports::{self, Watched, counters_of},
        ring::{self, FillLimit},
    },
    state::{
        fin_wait2_timewait, half_open, late_data,
        socket_times::{self, Effect, Entry},
    },
};

tracepoint!(inet_sock_set_state, set_state);

#[inline(always)]
fn set_state(ctx: &BtfTracePointContext, nesting: Nesting<'_>) {
    let sock = Socket(KernelPtr::new(ctx.arg::<*const u8>(0)));
    let (old, new) = (ctx.arg::<i32>(1), ctx.arg::<i32>(2));
    if old == new {
        return;
    }
    let (Some(old_state), Some(new_state)) = (state(old), state(new)) else {
        log::unknown_state(old, new);
        return;
    };
    transition(nesting, sock, old_state, new_state);
}

#[inline(always)]
fn transition(nesting: Nesting<'_>, sock: Socket, old: TcpState, new: TcpState) -> Option<()> {
    // On the way to CLOSE the kernel has already released the local port: tcp_sock still has it.
    let local_port = match sock.local_port() {
        0 => FullSocket::of(sock)?.local_port(),
        port => port,
    };
    let watched = ports::watched(local_port, sock.remote_port())?;
    if !is_tcp(sock) || !sock.is_in_wanted_netns() || !nesting.should_handle() {
        return None;
    }
    let full = FullSocket::of(sock)?;
    if matches!(old, TcpState::Listen) || matches!(new, TcpState::Listen) {
        return listener_transition(watched, full, local_port, old, new);
    }
    let now = now();
    let entry = socket_times::entry(sock, now)?;
    let role = role(full, entry, old, new);
    // A record gives the socket a cookie if it has none.
    let cookie = sock.known_cookie();
    // The record first: the verifier follows each way through the counting to the end of the
    // program.
    if ring::wanted() {
        record(full, role, old, new);
    }
    let mut meaning = Meaning::of(outcome(
        old,
        new,
        TransitionContext { role, sk_err: full.error(), peer_closed: full.peer_closed() },
    ));
    if meaning.is_closed_by(ClosedBy::RemoteReset) && late_data::consume(sock, local_port) {
        meaning.detail = ClosedBy::LocalReset as u8;
    }
    let slot = watched.slot(Some(role));
    let counters = counters_of(slot)?;
    if matches!(meaning.effect, Effect::EntersFinWait2Timewait) {
        fin_wait2_timewait::begin(sock.path(local_port), full.ack_of_fin(), slot, entry.since(), now);
    }
    // When its SYN was received, if that is known.
    let syn_at = match (role, old) {
        (Role::Server, TcpState::SynRecv) => half_open::complete(cookie),
        (Role::Server | Role::Client, _) => 0,
    };
    // SAFETY: the map's own value.
    unsafe {
        count(counters, full, role, (old, new), meaning);
        entry.count(counters, role, (old, new), meaning.effect, syn_at, now);
    }
    Some(())
}

/// A listener begins, creates a child socket, or closes.
#[inline(always)]
fn listener_transition(
    watched: Watched,
    full: FullSocket,
    local_port: u16,
    old: TcpState,
    new: TcpState,
) -> Option<()> {
    if ring::wanted() {
        record(full, Role::Server, old, new);
    }
    if matches!(old, TcpState::Listen) && matches!(new, TcpState::Close) {
        half_open::listener_closed(full.common().0);
    }
    let counters = watched.counters(Some(Role::Server))?;
    // SAFETY: the map's own value.
    unsafe {
        if matches!(new, TcpState::SynRecv) && half_open::child_created(local_port) {
            add(&raw mut (*counters).syn_cookies[1], 1);
        }
        count_transition(counters, old, new);
    }
    Some(())
}

#[inline(always)]
fn record(full: FullSocket, role: Role, old: TcpState, new: TcpState) -> Option<()> {
    let mut entry = ring::reserve::<SocketRecord>(Kind::State, FillLimit::Most)?;
    let record = ring::fields(&mut entry);
    full.describe(record, Kind::State, full.common().netns());
    record.old_state = old as u8;
    record.new_state = new as u8;
    record.role = role as u8;
    if full.caused_by_process(old, new) {
        name_process(record);
    }
    ring::submit(entry);
    Some(())
}

#[inline(always)]
fn state(number: i32) -> Option<TcpState> {
    TcpState::from_kernel(number as u8)
}

/// Which end the socket is: what the transition proves, else what the socket shows.
#[inline(always)]
fn role(full: FullSocket, entry: Entry, old: TcpState, new: TcpState) -> Role {
    match role_in_transition(old, new) {
        Some(role) => role,
        // A passive open has no file descriptor before accept(); a simultaneous open, or fast open,
        // has.
        None if matches!(old, TcpState::SynRecv) && full.is_orphan() => Role::Server,
        None => entry.role(full),
    }
}

/// What a transition means, in numbers: an [`Outcome`] without fields that hold nothing, which the
/// compiler reads all the same and the verifier refuses.
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
            Outcome::EntersTimeWait(closed_by) => (Effect::EntersTimeWait, closed_by as u8),
            Outcome::EntersFinWait2Timewait => (Effect::EntersFinWait2Timewait, ClosedBy::Local as u8),
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
    // The tracepoint reports CLOSE where a timewait socket takes over, and no TIME_WAIT.
    let to = if matches!(meaning.effect, Effect::EntersTimeWait) { TcpState::TimeWait } else { new };
    // SAFETY: by the caller's word.
    unsafe {
        // The connection stays in FIN_WAIT2.
        if !matches!(meaning.effect, Effect::EntersFinWait2Timewait) {
            count_transition(counters, old, to);
        }
        match meaning.effect {
            Effect::Establishes => {
                add(element::<_, 1, 2>(&raw mut (*counters).handshakes, role as usize), 1);
            }
            Effect::Fails => {
                let reasons = element::<_, 1, 2>(&raw mut (*counters).handshake_failures, role as usize);
                add(element::<_, 15, FAILURES>(reasons, meaning.detail.into()), 1);
            }
            Effect::Closes | Effect::EntersTimeWait | Effect::EntersFinWait2Timewait => {
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
unsafe fn count_transition(counters: *mut PortCounters, from: TcpState, to: TcpState) {
    // SAFETY: by the caller's word.
    unsafe {
        let row = element::<_, 15, STATES>(&raw mut (*counters).transitions, from as usize);
        add(element::<_, 15, STATES>(row, to as usize), 1);
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
