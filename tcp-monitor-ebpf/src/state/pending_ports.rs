//! Ingress segments that have not taken effect, by port: a driver may hand the kernel several at a
//! time, and each passes the classifier before the first takes effect.

use core::ptr;

use tcp_monitor_common::abi::half_open::{PENDING_PORTS, PendingPort, PendingSegments, REACTION_TIME};

use super::pending_segments::NOWHERE;
use crate::kernel::{asm::element, now};

/// What is to take effect on `port`, so that more can be added.
///
/// # Safety
///
/// `pending` must be the map's own value.
#[inline(always)]
pub(crate) unsafe fn entry(pending: *mut PendingSegments, port: u16) -> *mut PendingPort {
    let now = now();
    // SAFETY: by the caller's word.
    unsafe {
        let known = last(pending, port);
        if !known.is_null() && now.wrapping_sub((*known).time) < REACTION_TIME {
            // The time is that of the first that is still awaited: it must not expire amid a batch.
            if (*known).syns == 0 && (*known).acks == 0 {
                (*known).time = now;
            }
            return known;
        }
        let next = (*pending).ports_recorded;
        (*pending).ports_recorded = next.wrapping_add(1);
        let held = element::<_, 7, PENDING_PORTS>(&raw mut (*pending).ports, next as usize);
        held.write(PendingPort { time: now, port: port.into(), syns: 0, acks: 0, cookies: 0 });
        held
    }
}

/// What is to take effect on `port`, or NULL.
///
/// # Safety
///
/// `pending` must be the map's own value.
#[inline(always)]
pub(crate) unsafe fn find(pending: *mut PendingSegments, port: u16, now: u64) -> *mut PendingPort {
    // SAFETY: by the caller's word.
    unsafe {
        let known = last(pending, port);
        if known.is_null() || now.wrapping_sub((*known).time) >= REACTION_TIME {
            return ptr::null_mut();
        }
        known
    }
}

/// # Safety
///
/// `pending` must be the map's own value.
#[inline(always)]
unsafe fn last(pending: *mut PendingSegments, port: u16) -> *mut PendingPort {
    // SAFETY: by the caller's word; each index is within the array.
    unsafe {
        // In memory, where the verifier does not follow each place to the end of the program.
        let found = &raw mut (*pending).found;
        found.write_volatile(NOWHERE);
        let oldest = (&raw const (*pending).ports_recorded).read_volatile();
        let mut i = 0;
        while i < PENDING_PORTS as u64 {
            let place = oldest.wrapping_add(i);
            let held = element::<_, 7, PENDING_PORTS>(&raw mut (*pending).ports, place as usize);
            if (*held).port == u32::from(port) {
                found.write_volatile(place);
            }
            i += 1;
        }
        let place = found.read_volatile();
        if place == NOWHERE {
            return ptr::null_mut();
        }
        element::<_, 7, PENDING_PORTS>(&raw mut (*pending).ports, place as usize)
    }
}

/// One of `count` segments has taken effect. Returns whether there was one.
///
/// # Safety
///
/// `count` must point into the map's own value.
#[inline(always)]
pub(crate) unsafe fn consume(count: *mut u32) -> bool {
    // SAFETY: by the caller's word.
    unsafe {
        let is_awaited = *count != 0;
        if is_awaited {
            *count -= 1;
        }
        is_awaited
    }
}
