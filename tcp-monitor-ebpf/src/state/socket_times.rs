//! The times of sockets, and the durations that follow from them. They lie in a table by the
//! socket's address, in buckets of four without a lock: a lookup reads one or two cache lines. When
//! a bucket is full, one of its sockets is evicted, and its durations are not counted.

use core::mem::MaybeUninit;

use aya_ebpf::{macros::map, maps::Array};
use tcp_monitor_common::{
    TcpState,
    abi::maps::{
        SOCKET_TIMES_BUCKETS as BUCKETS, SOCKET_TIMES_WAYS as WAYS, SocketTimes, SocketTimesBucket,
        SocketTimesTable,
    },
    counters::{PortCounters, Scale, TIMED, Table, timed_state},
    record::Role,
};

use crate::{
    kernel::{
        asm::{element, low_half},
        socket::{FullSocket, Socket},
    },
    output::{counters::record_duration, evictions::count_eviction},
};

#[map]
static SOCKET_TIMES: Array<SocketTimesTable> = Array::with_max_entries(1, 0);

/// A transition, in numbers.
#[derive(Clone, Copy)]
#[repr(C)]
struct Transition {
    old: u8,
    role: u8,
    /// An [`Effect`].
    effect: u8,
    /// The socket begins a life: sockets can connect again.
    begins: u8,
    /// It is gone.
    ends: u8,
    reserved: [u8; 3],
}

/// What a transition does to a connection.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Effect {
    None = 0,
    /// Its first SYN is sent.
    Opens = 1,
    /// Its handshake fails.
    Fails = 2,
    Establishes = 3,
    /// It ends, here and in the next two.
    Closes = 4,
    /// A timewait socket in TIME_WAIT takes its place.
    EntersTimeWait = 5,
    /// A timewait socket in FIN_WAIT2, its present state, takes its place.
    EntersFinWait2Timewait = 6,
}

impl Transition {
    #[inline(always)]
    fn new(role: Role, (old, new): (TcpState, TcpState), effect: Effect) -> Self {
        let effect = if matches!(new, TcpState::SynSent) { Effect::Opens } else { effect };
        let begins =
            matches!(old, TcpState::Close) || matches!((old, role), (TcpState::SynRecv, Role::Server));
        Self {
            old: old as u8,
            role: role as u8,
            effect: effect as u8,
            begins: begins.into(),
            ends: matches!(new, TcpState::Close).into(),
            reserved: [0; 3],
        }
    }

    /// The same, hidden from the verifier, which would follow each case to the end of the program:
    /// it does not track what is written in small pieces.
    #[inline(always)]
    fn hide(self) -> [u8; 8] {
        let mut place = MaybeUninit::<u64>::uninit();
        let pieces = place.as_mut_ptr().cast::<u8>();
        // SAFETY: eight bytes, each of which is written before all are read.
        unsafe {
            pieces.write_volatile(self.old);
            pieces.add(1).write_volatile(self.role);
            pieces.add(2).write_volatile(self.effect);
            pieces.add(3).write_volatile(self.begins);
            pieces.add(4).write_volatile(self.ends);
            pieces.add(5).write_volatile(0);
            pieces.add(6).write_volatile(0);
            pieces.add(7).write_volatile(0);
            place.as_ptr().read_volatile().to_le_bytes()
        }
    }
}

// What identifies a socket while it lives: the low half of its address, which the verifier allows
// as a number, and its peer's port. The bits between them are flags.

/// The socket was accepted.
const ACCEPTED: u64 = 1 << 16;
/// The socket has closed, in the state whose number the next four bits are. Its place is free.
const CLOSED: u64 = 1 << 17;
const LAST_STATE_SHIFT: u32 = 18;

#[inline(always)]
fn tag(sock: Socket) -> u64 {
    u64::from(low_half(sock.0.address())) << 32 | u64::from(sock.remote_port())
}

/// A socket in the table.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    times: *mut SocketTimes,
    tag: u64,
}

/// The entry of a socket, made at `now` if it had none.
#[inline(always)]
pub(crate) fn entry(sock: Socket, now: u64) -> Option<Entry> {
    let tag = tag(sock);
    let sockets = bucket(tag)?;
    // SAFETY: the map's own value.
    unsafe {
        // The shifted time is 0, but not for the verifier, which would follow each place that it
        // knows to the end of the program.
        let place = find(sockets, tag) ^ (now >> 62) as usize;
        Some(Entry { times: element::<_, 3, WAYS>(sockets, place), tag })
    }
}

/// The place of a socket: its own from now on, if it had none.
///
/// # Safety
///
/// `sockets` must point into a map value.
#[inline(always)]
unsafe fn find(sockets: *mut [SocketTimes; WAYS], tag: u64) -> usize {
    // SAFETY: by the caller's word; each index is within the array.
    unsafe {
        let mut place = WAYS;
        let mut i = 0;
        while i < WAYS {
            let held = held(sockets, i);
            if held & !ACCEPTED == tag {
                return i;
            }
            if place == WAYS && (held == 0 || held & CLOSED != 0) {
                place = i;
            }
            i += 1;
        }
        if place == WAYS {
            count_eviction(Table::SocketTimes);
            place = (tag >> 32) as usize;
        }
        let times = element::<_, 3, WAYS>(sockets, place);
        times.write(SocketTimes { socket: tag, syn_at: 0, established_at: 0, state_since: 0 });
        place
    }
}

impl Entry {
    /// Since when the socket has been in its state; 0 if that is not known.
    #[inline(always)]
    pub(crate) fn since(self) -> u64 {
        // SAFETY: the map's own value.
        unsafe { (*self.times).state_since }
    }

    /// As [`role`].
    #[inline(always)]
    pub(crate) fn role(self, full: FullSocket) -> Role {
        // SAFETY: the map's own value.
        let was_accepted = unsafe { (*self.times).socket } & ACCEPTED != 0;
        if full.has_backlog_limit() || was_accepted { Role::Server } else { Role::Client }
    }

    /// Counts the durations that end when the socket changes its state, now. `syn_at` is when the
    /// first SYN of a server's connection was received: 0, or later than now, if that is unknown.
    ///
    /// # Safety
    ///
    /// `counters` must point into a map value.
    #[inline(always)]
    pub(crate) unsafe fn count(
        self,
        counters: *mut PortCounters,
        role: Role,
        (old, new): (TcpState, TcpState),
        effect: Effect,
        syn_at: u64,
        now: u64,
    ) {
        let [old, role, effect, begins, ends, ..] = Transition::new(role, (old, new), effect).hide();
        let Self { times, tag } = self;
        // SAFETY: the map's own value, and `counters` by the caller's word.
        unsafe {
            if begins != 0 {
                // Another socket may have had the address, or this one an earlier life.
                let accepted = if role == Role::Server as u8 { ACCEPTED } else { 0 };
                times.write(SocketTimes {
                    socket: tag | accepted,
                    syn_at: 0,
                    established_at: 0,
                    state_since: 0,
                });
            }
            let since = (*times).state_since;
            (*times).state_since = now;
            if effect == Effect::Opens as u8 {
                (*times).syn_at = now;
            } else if effect == Effect::Establishes as u8 {
                (*times).established_at = now;
                let syn_at = if role == Role::Client as u8 { (*times).syn_at } else { syn_at };
                if syn_at != 0 && syn_at <= now {
                    let histograms = &raw mut (*counters).handshake_durations;
                    let histogram = element::<_, 1, 2>(histograms, role.into());
                    record_duration(histogram, Scale::HANDSHAKE, now - syn_at);
                }
            } else if effect >= Effect::Closes as u8 {
                let established = (*times).established_at;
                if established != 0 {
                    let histograms = &raw mut (*counters).connection_durations;
                    let histogram = element::<_, 1, 2>(histograms, role.into());
                    record_duration(histogram, Scale::LIFE, now - established);
                }
            }
            if since != 0
                && effect != Effect::EntersFinWait2Timewait as u8
                && let Some(place) = TcpState::from_kernel(old).and_then(timed_state)
            {
                let histograms = &raw mut (*counters).state_durations;
                record_duration(element::<_, 7, TIMED>(histograms, place), Scale::LIFE, now - since);
            }
            if ends != 0 {
                (*times).socket = tag | CLOSED | u64::from(old) << LAST_STATE_SHIFT;
            }
        }
    }
}

/// Which end a socket is, where the transition does not prove it.
///
/// Behind `listen(fd, 0)` the backlog limit that an accepted socket has of its listener is 0: then
/// this table says.
#[inline(always)]
pub(crate) fn role(full: FullSocket) -> Role {
    if full.has_backlog_limit() || was_accepted(full.common()) { Role::Server } else { Role::Client }
}

/// Whether the socket is known to have been accepted.
#[inline(always)]
fn was_accepted(sock: Socket) -> bool {
    let tag = tag(sock);
    let Some(sockets) = bucket(tag) else { return false };
    let mut i = 0;
    while i < WAYS {
        // SAFETY: the map's own value; the index is within its array.
        if unsafe { held(sockets, i) } == tag | ACCEPTED {
            return true;
        }
        i += 1;
    }
    false
}

/// The state before CLOSE of a socket that has just closed: the kernel sets an aborted socket to
/// CLOSE and then sends its RST.
#[inline(always)]
pub(crate) fn state_before_close(sock: Socket) -> Option<TcpState> {
    let tag = tag(sock);
    let sockets = bucket(tag)?;
    let mut last = 0;
    let mut i = 0;
    while i < WAYS {
        // SAFETY: the map's own value; the index is within its array.
        let held = unsafe { held(sockets, i) };
        if held & CLOSED != 0 && held & !FLAGS == tag {
            last = held >> LAST_STATE_SHIFT & STATE_BITS;
        }
        i += 1;
    }
    TcpState::from_kernel(last as u8)
}

const STATE_BITS: u64 = 0xf;
const FLAGS: u64 = ACCEPTED | CLOSED | STATE_BITS << LAST_STATE_SHIFT;

/// The socket in a place of a bucket.
///
/// # Safety
///
/// `sockets` must point into a map value, and the place be one of it.
#[inline(always)]
unsafe fn held(sockets: *mut [SocketTimes; WAYS], place: usize) -> u64 {
    // SAFETY: by the caller's word.
    unsafe { (&raw const (*sockets.cast::<SocketTimes>().add(place)).socket).read_volatile() }
}

#[inline(always)]
fn bucket(tag: u64) -> Option<*mut [SocketTimes; WAYS]> {
    let table = SOCKET_TIMES.get_ptr_mut(0)?;
    let index = ((tag >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize & (BUCKETS - 1);
    // SAFETY: the map's own value; the index is masked to lie within it.
    Some(unsafe {
        let bucket = (&raw mut (*table).buckets).cast::<SocketTimesBucket>().add(index);
        &raw mut (*bucket).sockets
    })
}
