//! What came in on this CPU and is still to take effect, for the half-open requests.

use core::ptr;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use tcp_monitor_common::{
    abi::half_open::{AT_ONCE, Arrivals, NOTES, PENDING, Pending, Undecided},
    rules::segment_outcome::SegmentOutcome,
};

use crate::{acks::Path, instruction::element, socket::now};

#[map]
static ARRIVALS: PerCpuArray<Arrivals> = PerCpuArray::with_max_entries(1, 0);

/// Within this time, nanoseconds, a packet gets from a member of a bond to the bond, or from a vlan's parent to the vlan.
const PASSAGE: u64 = 1_000_000;
/// No place among the notes.
const NOWHERE: u64 = u64::MAX;

#[inline(always)]
pub(crate) fn of_this_cpu() -> Option<*mut Arrivals> {
    ARRIVALS.get_ptr_mut(0)
}

/// Makes a note. Returns the one that had to make room for it: nothing has followed from that. It is empty (fate 0) if there was
/// none, or one of the same packet on another interface.
///
/// # Safety
///
/// `arrivals` must be the map's own value.
#[inline(always)]
pub(crate) unsafe fn note(arrivals: *mut Arrivals, noted: Undecided) -> Undecided {
    let is_copy = |note: &Undecided| {
        note.path == noted.path
            && note.seq == noted.seq
            && note.ifindex != noted.ifindex
            && note.is_younger(PASSAGE, noted.time)
    };
    // SAFETY: by the caller's word.
    unsafe {
        if find(arrivals, is_copy).is_null() {
            let next = (*arrivals).noted;
            (*arrivals).noted = next.wrapping_add(1);
            (&raw mut (*arrivals).found).write_volatile(next);
        }
        let place = (&raw const (*arrivals).found).read_volatile();
        let note = element::<_, 15, NOTES>(&raw mut (*arrivals).undecided, place as usize);
        let mut before = note.read();
        note.write(noted);
        if noted.fate == SegmentOutcome::AckOverflow as u32 || noted.fate == SegmentOutcome::AckRefused as u32
        {
            (*arrivals).last_ack = place;
        }
        if is_copy(&before) {
            before.fate = 0;
        }
        before
    }
}

/// The latest note that is like this, or NULL.
///
/// # Safety
///
/// `arrivals` must be the map's own value.
#[inline(always)]
pub(crate) unsafe fn find(arrivals: *mut Arrivals, is_wanted: impl Fn(&Undecided) -> bool) -> *mut Undecided {
    // SAFETY: by the caller's word; each index is within the array.
    unsafe {
        // In memory, where the verifier does not follow each place to the end of the program.
        let found = &raw mut (*arrivals).found;
        found.write_volatile(NOWHERE);
        let oldest = (&raw const (*arrivals).noted).read_volatile();
        let mut i = 0;
        while i < NOTES as u64 {
            let place = oldest.wrapping_add(i);
            if is_wanted(&*element::<_, 15, NOTES>(&raw mut (*arrivals).undecided, place as usize)) {
                found.write_volatile(place);
            }
            i += 1;
        }
        let place = found.read_volatile();
        if place == NOWHERE {
            return ptr::null_mut();
        }
        element::<_, 15, NOTES>(&raw mut (*arrivals).undecided, place as usize)
    }
}

/// What is still to take effect on `port`, so that more can be added.
///
/// # Safety
///
/// `arrivals` must be the map's own value.
#[inline(always)]
pub(crate) unsafe fn pending(arrivals: *mut Arrivals, port: u16) -> *mut Pending {
    let now = now();
    // SAFETY: by the caller's word.
    unsafe {
        let known = last_pending(arrivals, port);
        if !known.is_null() && now.wrapping_sub((*known).time) < AT_ONCE {
            // The time is that of the first that is still awaited: it must not run out amid a list.
            if (*known).syns == 0 && (*known).acks == 0 {
                (*known).time = now;
            }
            return known;
        }
        let next = (*arrivals).met;
        (*arrivals).met = next.wrapping_add(1);
        let pending = element::<_, 7, PENDING>(&raw mut (*arrivals).pending, next as usize);
        pending.write(Pending { time: now, port: port.into(), syns: 0, acks: 0, cookies: 0 });
        pending
    }
}

/// What was to take effect on `port` until now, or NULL.
///
/// # Safety
///
/// `arrivals` must be the map's own value.
#[inline(always)]
pub(crate) unsafe fn taking_effect(arrivals: *mut Arrivals, port: u16, now: u64) -> *mut Pending {
    // SAFETY: by the caller's word.
    unsafe {
        let known = last_pending(arrivals, port);
        if known.is_null() || now.wrapping_sub((*known).time) >= AT_ONCE {
            return ptr::null_mut();
        }
        known
    }
}

/// # Safety
///
/// `arrivals` must be the map's own value.
#[inline(always)]
unsafe fn last_pending(arrivals: *mut Arrivals, port: u16) -> *mut Pending {
    // SAFETY: by the caller's word; each index is within the array.
    unsafe {
        // As in `find`.
        let found = &raw mut (*arrivals).found;
        found.write_volatile(NOWHERE);
        let oldest = (&raw const (*arrivals).met).read_volatile();
        let mut i = 0;
        while i < PENDING as u64 {
            let place = oldest.wrapping_add(i);
            let pending = element::<_, 7, PENDING>(&raw mut (*arrivals).pending, place as usize);
            if (*pending).port == u32::from(port) {
                found.write_volatile(place);
            }
            i += 1;
        }
        let place = found.read_volatile();
        if place == NOWHERE {
            return ptr::null_mut();
        }
        element::<_, 7, PENDING>(&raw mut (*arrivals).pending, place as usize)
    }
}

/// One of these segments has taken effect. Returns whether there was one.
///
/// # Safety
///
/// `count` must point into the map's own value.
#[inline(always)]
pub(crate) unsafe fn came(count: *mut u32) -> bool {
    // SAFETY: by the caller's word.
    unsafe {
        let is_awaited = *count != 0;
        if is_awaited {
            *count -= 1;
        }
        is_awaited
    }
}

/// A SYN that was answered.
#[derive(Clone, Copy)]
pub(crate) struct Answered {
    /// When it came in; 0 if that is not known.
    pub(crate) time: u64,
    pub(crate) slot: u32,
}

/// Takes back the note on the SYN to `port` that a SYN-ACK on `path` answers.
///
/// # Safety
///
/// `arrivals` must be the map's own value.
#[inline(always)]
pub(crate) unsafe fn take_back(arrivals: *mut Arrivals, path: Path, port: u16) -> Answered {
    let (path, now) = (path.hash(), now());
    // SAFETY: by the caller's word.
    unsafe {
        let pending = taking_effect(arrivals, port, now);
        if !pending.is_null() {
            came(&raw mut (*pending).syns);
        }
        let note = find(arrivals, |note| {
            // The SYN-ACK may wait for the address of the next hop.
            let may_wait = note.fate == SegmentOutcome::SynAccepted as u32;
            let was_to_fail = note.fate == SegmentOutcome::SynOverflow as u32
                || note.fate == SegmentOutcome::SynDropped as u32;
            note.path == path && (may_wait || was_to_fail && note.is_younger(AT_ONCE, now))
        });
        if note.is_null() {
            return Answered { time: 0, slot: 0 };
        }
        (*note).fate = 0;
        Answered { time: (*note).time, slot: (*note).slot }
    }
}
