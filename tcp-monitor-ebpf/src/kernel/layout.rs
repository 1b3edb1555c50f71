//! The running kernel, as the agent described it: where fields are, what it can do, what the
//! operator asked for.
//!
//! Both globals lie in a frozen read-only map. The verifier takes their values for constants, so an
//! offset costs nothing and a branch that this kernel does not need is removed.

use tcp_monitor_common::abi::layout::{KernelLayout, Settings};

/// Set by the agent before loading.
#[unsafe(no_mangle)]
pub(crate) static KERNEL_LAYOUT: KernelLayout = KernelLayout::UNSET;

/// Set by the agent before loading.
#[unsafe(no_mangle)]
pub(crate) static SETTINGS: Settings = Settings::UNSET;

/// A value of [`KERNEL_LAYOUT`], as the agent set it.
macro_rules! layout {
    ($field:ident) => {{
        // SAFETY: a static is valid for reads; volatile, since the value compiled in is not the one
        // at run time.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::layout::KERNEL_LAYOUT.$field) }
    }};
}

/// A value of [`SETTINGS`], as the agent set it.
macro_rules! setting {
    ($field:ident) => {{
        // SAFETY: a static is valid for reads; volatile, since the value compiled in is not the one
        // at run time.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::layout::SETTINGS.$field) }
    }};
}

pub(crate) use {layout, setting};
