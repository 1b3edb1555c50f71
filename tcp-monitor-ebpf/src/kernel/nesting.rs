//! Handling each event of a tracepoint exactly once.
//!
//! The kernel does not start a tracing program on a CPU that is already running it: when a softirq
//! interrupts the program for one socket, what happens to other sockets in that softirq would be
//! lost (`__bpf_trace_run`, from 6.1 on). So each program is attached twice. For every event the
//! kernel calls the first copy, then the second. The second has nothing to do, unless the first was
//! skipped.
//!
//! How the second knows: the first records the address of its arguments. They lie on the kernel
//! stack, at the same place for both copies, and elsewhere for an event nested in another. A CPU is
//! in at most two events at once, one of them in a softirq that interrupted the other, so there are
//! two records: one for the task's own stack, one for the interrupt stack.

use aya_ebpf::{
    EbpfContext, helpers::generated::bpf_get_current_task_btf, macros::map, maps::PerCpuArray,
    programs::BtfTracePointContext,
};
use tcp_monitor_common::abi::maps::program::TRACEPOINTS;

use crate::kernel::{asm::difference, layout::layout, memory::KernelPtr};

/// By tracepoint: a program on one does not keep a program on another from running.
#[map]
static HANDLED: PerCpuArray<Handled> = PerCpuArray::with_max_entries(TRACEPOINTS.len() as u32, 0);

/// The addresses of the arguments that the first copy has handled; 0 for none.
#[derive(Clone, Copy)]
#[repr(C)]
struct Handled {
    task: u64,
    interrupt: u64,
    /// Where an address becomes a number: the verifier refuses arithmetic on a pointer.
    scratch: u64,
}

/// An event as one of the two copies of a program gets it.
#[derive(Clone, Copy)]
pub(crate) struct Nesting<'a> {
    ctx: &'a BtfTracePointContext,
    tracepoint: u32,
    first: bool,
}

/// Size of a task's kernel stack on x86-64 and arm64.
const THREAD_SIZE: u64 = 16 << 10;

impl<'a> Nesting<'a> {
    /// In the copy that is called first.
    #[inline(always)]
    pub(crate) fn first(ctx: &'a BtfTracePointContext, tracepoint: u32) -> Self {
        Self { ctx, tracepoint, first: true }
    }

    /// In the copy that is called second.
    #[inline(always)]
    pub(crate) fn second(ctx: &'a BtfTracePointContext, tracepoint: u32) -> Self {
        Self { ctx, tracepoint, first: false }
    }

    /// Whether this copy handles the event. Call it once, and last before the event is handled.
    #[inline(always)]
    pub(crate) fn should_handle(&self) -> bool {
        let stack_offset = layout!(task_stack);
        if stack_offset == 0 {
            // A kernel that lets programs nest, or cannot name the task: there is no second copy.
            return true;
        }
        let Some(handled) = HANDLED.get_ptr_mut(self.tracepoint) else { return self.first };
        // SAFETY: the map's own value, and only this CPU's. An interrupt in between leaves it as it
        // found it, or with its own address left on the interrupt stack's, which is not needed
        // then.
        unsafe {
            let task = KernelPtr::new(bpf_get_current_task_btf().cast_const().cast());
            let stack = task.load::<u64>(stack_offset);
            let on_task_stack = distance(&raw mut (*handled).scratch, self.ctx, stack) < THREAD_SIZE;
            let last = if on_task_stack { &raw mut (*handled).task } else { &raw mut (*handled).interrupt };
            let address = self.ctx.as_ptr() as u64;
            if self.first {
                if on_task_stack {
                    // What a second copy was interrupted in clearing. No event on the interrupt
                    // stack is under way here.
                    (&raw mut (*handled).interrupt).write_volatile(0);
                }
                last.write_volatile(address);
                return true;
            }
            if last.read_volatile() == address {
                last.write_volatile(0);
                return false;
            }
        }
        true
    }
}

/// How far above `stack` the arguments lie.
///
/// # Safety
///
/// `scratch` must point into a map value.
#[inline(always)]
unsafe fn distance(scratch: *mut u64, ctx: &BtfTracePointContext, stack: u64) -> u64 {
    let pointer = ctx.as_ptr() as u64;
    let mut distance = 0;
    let mut i = 0;
    while i < 3 {
        // SAFETY: by the caller's word.
        let number = unsafe {
            scratch.write_volatile(pointer);
            scratch.read_volatile()
        };
        distance = difference(number, stack);
        // An event nested here would have written its own.
        if number == pointer {
            break;
        }
        i += 1;
    }
    distance
}
