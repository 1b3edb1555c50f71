//! How long sockets take. Their times lie in a table by the socket's address, in buckets of four without a lock: a socket is looked
//! up with one or two cache lines. When a bucket is full, one of its sockets is forgotten, and what ends for it later is not
//! counted.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use tcp_monitor_common::{
    TcpState,
    config::{LIFETIME_BUCKETS, LIFETIME_WAYS, Lifetime, LifetimeBucket, LifetimeTable},
    counters::{BUCKETS, Histogram, PortCounters, Scale, TIMED, Table, timed_state},
    record::Role,
    transition::Outcome,
};

use crate::{
    instruction::{add, difference, element},
    socket::{Socket, now},
    tables::forgotten,
};

#[map]
static LIFETIMES: Array<LifetimeTable> = Array::with_max_entries(1, 0);

/// Where an address becomes a number: the verifier lets nobody calculate with a pointer.
#[map]
static SOCKET_ADDRESS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// In the lowest bit of an address, which is that of a multiple of eight.
const ACCEPTED: u64 = 1;

/// Counts what has taken its time when a socket changes its state. `syn_arrived` is when the first SYN of a server's
/// connection did.
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
    outcome: Outcome,
    syn_arrived: Option<u64>,
) {
    if matches!(old, TcpState::Listen) || matches!(new, TcpState::Listen) {
        return;
    }
    let Some(address) = address(sock) else { return };
    let Some(bucket) = bucket(address) else { return };
    let now = now();
    // SAFETY: the map's own value, and `counters` by the caller's word.
    unsafe {
        let place = find(bucket, address);
        let lifetime = element::<_, 3, LIFETIME_WAYS>(&raw mut (*bucket).lifetimes, place);
        // Another socket may have had the address, or this one an earlier life.
        let begins =
            matches!(old, TcpState::Close) || matches!((old, role), (TcpState::SynRecv, Role::Server));
        if begins {
            lifetime.write(Lifetime { opened: 0, established: 0, since: 0 });
            let socket = element::<_, 3, LIFETIME_WAYS>(&raw mut (*bucket).sockets, place);
            *socket = address | if matches!(role, Role::Server) { ACCEPTED } else { 0 };
        }
        let since = (*lifetime).since;
        (*lifetime).since = now;
        if since != 0
            && !matches!(outcome, Outcome::AwaitsFin)
            && let Some(place) = timed_state(old)
        {
            let histograms = &raw mut (*counters).state_durations;
            take(element::<_, 7, TIMED>(histograms, place), Scale::LIFE, now - since);
        }
        match outcome {
            Outcome::Established => {
                (*lifetime).established = now;
                let opened = match role {
                    Role::Client => (*lifetime).opened,
                    Role::Server => syn_arrived.unwrap_or(0),
                };
                if opened != 0 {
                    let histograms = &raw mut (*counters).handshake_durations;
                    take(element::<_, 1, 2>(histograms, role as usize), Scale::HANDSHAKE, now - opened);
                }
            }
            Outcome::Closed(_) | Outcome::Waits(_) | Outcome::AwaitsFin => {
                let established = (*lifetime).established;
                if established != 0 {
                    let histograms = &raw mut (*counters).connection_durations;
                    take(element::<_, 1, 2>(histograms, role as usize), Scale::LIFE, now - established);
                }
            }
            Outcome::Continues | Outcome::HandshakeFailed(_) | Outcome::ListenerClosed => {
                if matches!(new, TcpState::SynSent) {
                    (*lifetime).opened = now;
                }
            }
        }
        if matches!(new, TcpState::Close) {
            *element::<_, 3, LIFETIME_WAYS>(&raw mut (*bucket).sockets, place) = 0;
        }
    }
}

/// Whether the socket is known to have been accepted.
#[inline(always)]
pub(crate) fn was_accepted(sock: Socket) -> bool {
    let Some(address) = address(sock) else { return false };
    let Some(bucket) = bucket(address) else { return false };
    let mut i = 0;
    while i < LIFETIME_WAYS {
        // SAFETY: the map's own value; the index is within its array.
        let held = unsafe { (&raw mut (*bucket).sockets).cast::<u64>().add(i).read_volatile() };
        if held == address | ACCEPTED {
            return true;
        }
        i += 1;
    }
    false
}

/// The socket's address in kernel memory.
#[inline(always)]
fn address(sock: Socket) -> Option<u64> {
    let scratch = SOCKET_ADDRESS.get_ptr_mut(0)?;
    let address = sock.0.address();
    let mut result = 0;
    let mut i = 0;
    while i < 3 {
        // SAFETY: the map's own value.
        let number = unsafe {
            scratch.write_volatile(address);
            scratch.read_volatile()
        };
        // Not the number itself: the compiler would put the pointer it is compared with in its place.
        result = difference(number, 0);
        // A program that interrupted this one would have written its own.
        if number == address {
            break;
        }
        i += 1;
    }
    Some(result)
}

#[inline(always)]
fn bucket(address: u64) -> Option<*mut LifetimeBucket> {
    let table = LIFETIMES.get_ptr_mut(0)?;
    let index = (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize & (LIFETIME_BUCKETS - 1);
    // SAFETY: the map's own value; the index is masked to lie within it.
    Some(unsafe { (&raw mut (*table).buckets).cast::<LifetimeBucket>().add(index) })
}

/// The place of a socket: its own from now on, if it had none.
///
/// # Safety
///
/// `bucket` must point into a map value.
#[inline(always)]
unsafe fn find(bucket: *mut LifetimeBucket, address: u64) -> usize {
    // SAFETY: by the caller's word; each index is within its array.
    unsafe {
        let sockets = (&raw mut (*bucket).sockets).cast::<u64>();
        let mut place = LIFETIME_WAYS;
        let mut i = 0;
        while i < LIFETIME_WAYS {
            let held = sockets.add(i).read_volatile();
            if held & !ACCEPTED == address {
                return i;
            }
            if held == 0 {
                place = i;
            }
            i += 1;
        }
        if place == LIFETIME_WAYS {
            forgotten(Table::Lifetimes);
            place = (address >> 12) as usize;
        }
        *element::<_, 3, LIFETIME_WAYS>(&raw mut (*bucket).sockets, place) = address;
        let lifetime = element::<_, 3, LIFETIME_WAYS>(&raw mut (*bucket).lifetimes, place);
        lifetime.write(Lifetime { opened: 0, established: 0, since: 0 });
        place
    }
}

/// # Safety
///
/// `histogram` must point into a map value.
#[inline(always)]
unsafe fn take(histogram: *mut Histogram, scale: Scale, nanoseconds: u64) {
    // SAFETY: by the caller's word.
    unsafe {
        let buckets = &raw mut (*histogram).buckets;
        add(element::<_, 15, BUCKETS>(buckets, scale.bucket(nanoseconds)), 1);
        add(&raw mut (*histogram).sum, nanoseconds);
    }
}
