//! Reading kernel memory.

use core::ptr;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

/// A pointer into kernel memory whose type the verifier knows from BTF.
///
/// A bad address reads as zero: the kernel turns such loads into checked ones.
#[derive(Clone, Copy)]
pub(crate) struct KernelPtr(*const u8);

impl KernelPtr {
    #[inline(always)]
    pub(crate) fn new(address: *const u8) -> Self {
        Self(address)
    }

    #[inline(always)]
    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    #[inline(always)]
    pub(crate) fn as_ptr(self) -> *const u8 {
        self.0
    }

    /// An opaque number that is the same for the same object.
    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        self.0 as u64
    }

    /// Reads the field at `offset`; it must have the size of `T`.
    #[inline(always)]
    pub(crate) fn load<T: Copy>(self, offset: u32) -> T {
        // SAFETY: the verifier checks offset and size against the type's BTF, and the load cannot
        // fault.
        unsafe { ptr::read_volatile(self.0.add(offset as usize).cast::<T>()) }
    }

    /// Copies the field at `offset`, of a type that BTF does not let be loaded at once.
    #[inline(always)]
    pub(crate) fn copy<T: Copy + Default>(self, offset: u32) -> T {
        // SAFETY: only the address is calculated.
        read(unsafe { self.0.add(offset as usize) })
    }

    /// Follows the pointer at `offset`.
    #[inline(always)]
    pub(crate) fn follow(self, offset: u32) -> Self {
        Self(self.load::<*const u8>(offset))
    }
}

/// Reads kernel memory for which the verifier knows no type; zeros where there is none.
#[inline(always)]
pub(crate) fn read<T: Copy + Default>(address: *const u8) -> T {
    let mut value = T::default();
    // SAFETY: writes exactly `T`; a bad address fills it with zeros.
    unsafe {
        bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, address.cast());
    }
    value
}
