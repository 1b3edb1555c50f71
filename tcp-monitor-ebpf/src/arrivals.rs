//! What came in on this CPU and is still to take effect, for the half-open requests.

use core::ptr;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use tcp_monitor_common::half_open::{AT_ONCE, Arrivals, Fate, NOTES, Pending, Undecided};

use crate::{acks::Path, instruction::element, lookup::Awaiting, socket::now};

#[map]
static ARRIVALS: PerCpuArray<Arrivals> = PerCpuArray::with_max_entries(1, 0);

/// Within this time, nanoseconds, the segments that a driver handed over take effect; and one packet gets from a member of a bond to
/// the bond, from a vlan's parent to the vlan, or from one interface to another.
pub(crate) const BATCH: u64 = 1_000_000;
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
            && note.is_younger(BATCH, noted.time)
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
        if noted.fate == Fate::AckOverflowed as u32 || noted.fate == Fate::AckRefused as u32 {
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

/// One more segment to `port` will take effect.
///
/// # Safety
///
/// `pending` must point into the map's own value.
#[inline(always)]
pub(crate) unsafe fn await_another(pending: *mut Pending, port: u16) {
    let now = now();
    // SAFETY: by the caller's word.
    unsafe {
        let is_one_of_several = (*pending).count != 0
            && (*pending).port == u32::from(port)
            && now.wrapping_sub((*pending).time) < BATCH;
        if is_one_of_several {
            (*pending).count += 1;
        } else {
            pending.write(Pending { time: now, port: port.into(), count: 1 });
        }
    }
}

/// A segment has taken effect. Returns whether it was among those that were to.
///
/// # Safety
///
/// `pending` must point into the map's own value.
#[inline(always)]
pub(crate) unsafe fn came(pending: *mut Pending, now: u64) -> bool {
    // SAFETY: by the caller's word.
    unsafe {
        let is_awaited = (*pending).count != 0 && now.wrapping_sub((*pending).time) < AT_ONCE;
        if is_awaited {
            (*pending).count -= 1;
        }
        is_awaited
    }
}

/// What earlier segments to `port` will still add to its queues.
///
/// # Safety
///
/// `arrivals` must be the map's own value.
#[inline(always)]
pub(crate) unsafe fn awaiting(arrivals: *mut Arrivals, port: u16) -> Awaiting {
    let (now, port) = (now(), u32::from(port));
    let count = |pending: Pending| {
        if pending.port == port && now.wrapping_sub(pending.time) < BATCH { pending.count } else { 0 }
    };
    // SAFETY: by the caller's word.
    unsafe { Awaiting { requests: count((*arrivals).syns), children: count((*arrivals).acks) } }
}

/// A SYN that was answered.
#[derive(Clone, Copy)]
pub(crate) struct Answered {
    /// When it came in; 0 if that is not known.
    pub(crate) time: u64,
    pub(crate) slot: u32,
}

/// Takes back the note on the SYN that a SYN-ACK on `path` answers.
///
/// # Safety
///
/// `arrivals` must be the map's own value.
#[inline(always)]
pub(crate) unsafe fn take_back(arrivals: *mut Arrivals, path: Path) -> Answered {
    let (path, now) = (path.hash(), now());
    // SAFETY: by the caller's word.
    unsafe {
        came(&raw mut (*arrivals).syns, now);
        let note = find(arrivals, |note| {
            // The SYN-ACK may wait for the address of the next hop.
            let may_wait = note.fate == Fate::SynTaken as u32;
            let was_to_fail = note.fate == Fate::SynOverflowed as u32 || note.fate == Fate::SynDropped as u32;
            note.path == path && (may_wait || was_to_fail && note.is_younger(AT_ONCE, now))
        });
        if note.is_null() {
            return Answered { time: 0, slot: 0 };
        }
        (*note).fate = 0;
        Answered { time: (*note).time, slot: (*note).slot }
    }
}
