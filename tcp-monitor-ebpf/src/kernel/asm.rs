//! Single instructions that the compiler would not write, or would write and then optimise away.

/// Adds to a counter of this CPU. Atomic, since an interrupt may run another program in the middle
/// of it.
///
/// # Safety
///
/// `counter` must point into a map value and be aligned.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, by: u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the verifier checks the address; the caller vouches for the rest. In every BPF
    // instruction set.
    unsafe {
        core::arch::asm!("lock *(u64 *)({} + 0) += {}", in(reg) counter, in(reg) by, options(nostack));
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: by the caller's word. Never run: the crate is built for another target only to be
    // checked.
    unsafe {
        *counter += by;
    }
}

/// Keeps the low bits of an index: `MASK` + 1 must be a power of two.
///
/// The compiler often knows that an index is in range and drops a mask or a comparison; the
/// verifier does not, and asks for it.
#[inline(always)]
pub(crate) fn masked<const MASK: i32>(index: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut index = index;
        // SAFETY: touches its own register only.
        unsafe {
            core::arch::asm!("{} &= {}", inout(reg) index, const MASK, options(pure, nomem, nostack));
        }
        index
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        index & MASK as usize
    }
}

/// `a` - `b`, calculated from these very values: the compiler may not put in another that it finds
/// equal to `a` later, such as a pointer.
#[inline(always)]
pub(crate) fn difference(a: u64, b: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut difference = a;
        // SAFETY: touches its own register only.
        unsafe {
            core::arch::asm!("{} -= {}", inout(reg) difference, in(reg) b, options(nomem, nostack));
        }
        difference
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        a.wrapping_sub(b)
    }
}

/// The low half of a pointer, as a number. Calculating with a whole one is refused, and the
/// compiler would do so to get the half.
#[inline(always)]
pub(crate) fn low_half(pointer: u64) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let half: u32;
        // SAFETY: touches its own register only.
        unsafe {
            core::arch::asm!("{} = {}", out(wreg) half, in(wreg) pointer as u32, options(pure, nomem, nostack));
        }
        half
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        pointer as u32
    }
}

/// Reads four bytes at an even address in a packet.
///
/// # Safety
///
/// They must lie within the packet, which the verifier checks.
#[inline(always)]
pub(crate) unsafe fn load_word(address: usize) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let word: u32;
        // SAFETY: by the caller's word. The processors that the agent runs on need no alignment.
        unsafe {
            core::arch::asm!("{} = *(u32 *)({} + 0)", out(wreg) word, in(reg) address, options(readonly, nostack));
        }
        word
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        // SAFETY: by the caller's word.
        unsafe { (address as *const u32).read_unaligned() }
    }
}

/// A counter of an array whose length is `MASK` + 1.
///
/// # Safety
///
/// `array` must point into a map value.
#[inline(always)]
pub(crate) unsafe fn element<T, const MASK: i32, const LEN: usize>(
    array: *mut [T; LEN],
    index: usize,
) -> *mut T {
    const { assert!(MASK as usize + 1 == LEN && LEN.is_power_of_two()) };
    // SAFETY: the mask keeps the index within the array.
    unsafe { array.cast::<T>().add(masked::<MASK>(index)) }
}
