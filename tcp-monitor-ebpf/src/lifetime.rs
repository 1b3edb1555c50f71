//! How long sockets take. Their times lie in a table by the socket's address, in buckets of four without a lock: a socket is looked
//! up with one or two cache lines. When a bucket is full, one of its sockets is forgotten, and what ends for it later is not
//! counted.

use core::mem::MaybeUninit;

use aya_ebpf::{macros::map, maps::Array};
use tcp_monitor_common::{
    TcpState,
    abi::config::{LIFETIME_BUCKETS, LIFETIME_WAYS, Lifetime, LifetimeBucket, LifetimeTable},
    counters::{BUCKETS, Histogram, PortCounters, Scale, TIMED, Table, timed_state},
    record::Role,
};

use crate::{
    instruction::{add, element, low_half},
    socket::{Socket, now},
    tables::forgotten,
};

#[map]
static LIFETIMES: Array<LifetimeTable> = Array::with_max_entries(1, 0);

/// A transition, in numbers.
#[derive(Clone, Copy)]
#[repr(C)]
struct Transition {
    old: u8,
    role: u8,
    /// An [`Effect`].
    effect: u8,
    /// The socket begins its life, or its next.
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
    /// The socket is gone, and its minisocket is in TIME_WAIT.
    Waits = 5,
    /// The socket is gone, and its minisocket in the same state.
    HandsOver = 6,
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

    /// The same, of which the verifier does not know which of all cases it is: it would follow each of them to the end of the
    /// program. It loses sight of what is written in small pieces.
    #[inline(always)]
    fn forget(self) -> [u8; 8] {
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

/// What tells a socket from others while it lives: the low half of its address, of which the verifier lets a number be made, and its
/// peer's port.
#[inline(always)]
fn tag(sock: Socket) -> u64 {
    u64::from(low_half(sock.0.address())) << 32 | u64::from(sock.remote_port())
}

/// A bit of a tag that is 0 in every tag: whether the socket was accepted.
const ACCEPTED: u64 = 1 << 16;

/// Counts what has taken its time when a socket changes its state. `syn_arrived` is when the first SYN of a server's
/// connection did, if it is known: neither 0 nor later than now.
///
/// # Safety
///
/// `counters` must point into a map value.
#[inline(always)]
pub(crate) unsafe fn count(
    counters: *mut PortCounters,
    sock: Socket,
    role: Role,
    (old, new): (TcpState, TcpState),
    effect: Effect,
    syn_arrived: u64,
) {
    if matches!(old, TcpState::Listen) || matches!(new, TcpState::Listen) {
        return;
    }
    let [old, role, effect, begins, ends, ..] = Transition::new(role, (old, new), effect).forget();
    let tag = tag(sock);
    let Some(bucket) = bucket(tag) else { return };
    let now = now();
    // SAFETY: the map's own value, and `counters` by the caller's word.
    unsafe {
        let place = find(bucket, tag) | (now >> 63) as usize;
        let lifetime = element::<_, 3, LIFETIME_WAYS>(&raw mut (*bucket).lifetimes, place);
        if begins != 0 {
            // Another socket may have had the address, or this one an earlier life.
            lifetime.write(Lifetime { opened: 0, established: 0, since: 0 });
            let socket = element::<_, 3, LIFETIME_WAYS>(&raw mut (*bucket).sockets, place);
            *socket = tag | if role == Role::Server as u8 { ACCEPTED } else { 0 };
        }
        let since = (*lifetime).since;
        (*lifetime).since = now;
        if effect == Effect::Opens as u8 {
            (*lifetime).opened = now;
        } else if effect == Effect::Establishes as u8 {
            (*lifetime).established = now;
            let opened = if role == Role::Client as u8 { (*lifetime).opened } else { syn_arrived };
            if opened != 0 && opened <= now {
                let histograms = &raw mut (*counters).handshake_durations;
                take(element::<_, 1, 2>(histograms, role.into()), Scale::HANDSHAKE, now - opened);
            }
        } else if effect >= Effect::Closes as u8 {
            let established = (*lifetime).established;
            if established != 0 {
                let histograms = &raw mut (*counters).connection_durations;
                take(element::<_, 1, 2>(histograms, role.into()), Scale::LIFE, now - established);
            }
        }
        if since != 0
            && effect != Effect::HandsOver as u8
            && let Some(place) = TcpState::from_kernel(old).and_then(timed_state)
        {
            let histograms = &raw mut (*counters).state_durations;
            take(element::<_, 7, TIMED>(histograms, place), Scale::LIFE, now - since);
        }
        if ends != 0 {
            *element::<_, 3, LIFETIME_WAYS>(&raw mut (*bucket).sockets, place) = 0;
        }
    }
}

/// Since when a socket has been in its state; 0 if that is not known.
#[inline(always)]
pub(crate) fn since(sock: Socket) -> u64 {
    let tag = tag(sock);
    let Some(bucket) = bucket(tag) else { return 0 };
    let mut since = 0;
    let mut i = 0;
    while i < LIFETIME_WAYS {
        // SAFETY: the map's own value; the index is within its arrays.
        unsafe {
            let held = (&raw mut (*bucket).sockets).cast::<u64>().add(i).read_volatile();
            if held & !ACCEPTED == tag {
                since = (*(&raw const (*bucket).lifetimes).cast::<Lifetime>().add(i)).since;
            }
        }
        i += 1;
    }
    since
}

/// Whether the socket is known to have been accepted.
#[inline(always)]
pub(crate) fn was_accepted(sock: Socket) -> bool {
    let tag = tag(sock);
    let Some(bucket) = bucket(tag) else { return false };
    let mut i = 0;
    while i < LIFETIME_WAYS {
        // SAFETY: the map's own value; the index is within its array.
        let held = unsafe { (&raw mut (*bucket).sockets).cast::<u64>().add(i).read_volatile() };
        if held == tag | ACCEPTED {
            return true;
        }
        i += 1;
    }
    false
}

#[inline(always)]
fn bucket(tag: u64) -> Option<*mut LifetimeBucket> {
    let table = LIFETIMES.get_ptr_mut(0)?;
    let index = (tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize & (LIFETIME_BUCKETS - 1);
    // SAFETY: the map's own value; the index is masked to lie within it.
    Some(unsafe { (&raw mut (*table).buckets).cast::<LifetimeBucket>().add(index) })
}

/// The place of a socket: its own from now on, if it had none.
///
/// # Safety
///
/// `bucket` must point into a map value.
#[inline(always)]
unsafe fn find(bucket: *mut LifetimeBucket, tag: u64) -> usize {
    // SAFETY: by the caller's word; each index is within its array.
    unsafe {
        let sockets = (&raw mut (*bucket).sockets).cast::<u64>();
        let mut place = LIFETIME_WAYS;
        let mut i = 0;
        while i < LIFETIME_WAYS {
            let held = sockets.add(i).read_volatile();
            if held & !ACCEPTED == tag {
                return i;
            }
            if held == 0 {
                place = i;
            }
            i += 1;
        }
        if place == LIFETIME_WAYS {
            forgotten(Table::Lifetimes);
            place = (tag >> 12) as usize;
        }
        *element::<_, 3, LIFETIME_WAYS>(&raw mut (*bucket).sockets, place) = tag;
        let lifetime = element::<_, 3, LIFETIME_WAYS>(&raw mut (*bucket).lifetimes, place);
        lifetime.write(Lifetime { opened: 0, established: 0, since: 0 });
        place
    }
}

/// # Safety
///
/// `histogram` must point into a map value.
#[inline(always)]
pub(crate) unsafe fn take(histogram: *mut Histogram, scale: Scale, nanoseconds: u64) {
    // SAFETY: by the caller's word.
    unsafe {
        let buckets = &raw mut (*histogram).buckets;
        add(element::<_, 15, BUCKETS>(buckets, scale.bucket(nanoseconds)), 1);
        add(&raw mut (*histogram).sum, nanoseconds);
    }
}
