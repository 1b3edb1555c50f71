//! How long sockets take: each carries the times of its own life, from Linux 5.11 on.

use core::ptr;

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE, btf_maps::SkStorage, helpers::generated::bpf_sk_storage_get,
    macros::btf_map,
};
use tcp_monitor_common::{
    TcpState,
    counters::{BUCKETS, Histogram, PortCounters, Scale, TIMED, timed_state},
    record::Role,
    transition::Outcome,
};

use crate::{
    instruction::{add, element},
    kernel::layout,
    socket::{Socket, now},
};

#[btf_map]
static LIFETIMES: SkStorage<Lifetime> = SkStorage::new();

/// Times of a socket, `CLOCK_MONOTONIC`, nanoseconds; 0 where unknown.
#[derive(Clone, Copy)]
#[repr(C)]
struct Lifetime {
    /// The first SYN.
    opened: u64,
    established: u64,
    /// The start of its present state.
    since: u64,
}

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
    if layout!(has_socket_storage) == 0 || matches!(old, TcpState::Listen) || matches!(new, TcpState::Listen)
    {
        return;
    }
    // SAFETY: the verifier has checked that this is a socket.
    let lifetime = unsafe {
        bpf_sk_storage_get(
            (&raw const LIFETIMES).cast_mut().cast(),
            sock.0.as_ptr().cast_mut().cast(),
            ptr::null_mut(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
    }
    .cast::<Lifetime>();
    if lifetime.is_null() {
        return;
    }
    let now = now();
    // SAFETY: the socket's own value, and `counters` by the caller's word.
    unsafe {
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
                    // A socket may have had an earlier life.
                    (*lifetime).opened = now;
                    (*lifetime).established = 0;
                }
            }
        }
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
