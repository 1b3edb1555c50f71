//! Handling each event of a tracepoint exactly once.
//!
//! The kernel does not start a tracing program on a CPU that is already running it: when a softirq interrupts the program
//! for one socket, what happens to other sockets in that softirq would be lost (`__bpf_trace_run`, from 6.1 on). So each
//! program is there twice. For every event the kernel calls the first copy, then the second. The second has nothing to
//! do, unless the first was left out.
//!
//! How the second knows: the first notes the address of its arguments. They lie on the kernel stack, at the same place
//! for both copies, and elsewhere for an event nested in another. A CPU is in at most two events at once, one of them in
//! a softirq that interrupted the other, so there are two notes: one for what runs on the task's own stack, one for what
//! runs on the interrupt stack.

use aya_ebpf::{
    EbpfContext, helpers::generated::bpf_get_current_task_btf, macros::map, maps::PerCpuArray,
    programs::BtfTracePointContext,
};

use crate::{
    instruction::difference,
    kernel::{KernelPtr, layout},
};

#[map]
static NOTES: PerCpuArray<Notes> = PerCpuArray::with_max_entries(TRACEPOINTS, 0);

/// The addresses of the arguments that the first copy has handled; 0 for none.
#[derive(Clone, Copy)]
#[repr(C)]
struct Notes {
    task: u64,
    interrupt: u64,
    /// Where an address becomes a number: the verifier lets nobody calculate with a pointer.
    scratch: u64,
}

/// Whose turn it is to handle an event: that of one of the two copies of a program.
#[derive(Clone, Copy)]
pub(crate) struct Turn<'a> {
    ctx: &'a BtfTracePointContext,
    tracepoint: Tracepoint,
    first: bool,
}

/// Each has notes of its own: a program on one does not keep a program on another from running.
#[derive(Clone, Copy)]
pub(crate) enum Tracepoint {
    InetSockSetState,
    TcpSendReset,
    TcpReceiveReset,
    TcpRetransmitSkb,
    TcpRetransmitSynack,
}

const TRACEPOINTS: u32 = 5;
/// Size of a task's kernel stack on x86-64 and arm64.
const THREAD_SIZE: u64 = 16 << 10;

impl<'a> Turn<'a> {
    /// Of the copy that is called first.
    #[inline(always)]
    pub(crate) fn first(ctx: &'a BtfTracePointContext, tracepoint: Tracepoint) -> Self {
        Self { ctx, tracepoint, first: true }
    }

    /// Of the copy that is called second.
    #[inline(always)]
    pub(crate) fn second(ctx: &'a BtfTracePointContext, tracepoint: Tracepoint) -> Self {
        Self { ctx, tracepoint, first: false }
    }

    /// Whether this copy is to handle the event. To be asked once, and last before the event is handled.
    #[inline(always)]
    pub(crate) fn is_ours(&self) -> bool {
        if layout!(task_stack) == 0 {
            // A kernel that lets programs nest, or does not tell the task: there is no second copy.
            return true;
        }
        let stack_offset = layout!(task_stack);
        let Some(notes) = NOTES.get_ptr_mut(self.tracepoint as u32) else { return self.first };
        // SAFETY: the map's own value, and only this CPU's. An interrupt in between leaves the notes as it found them,
        // or with its own left on the interrupt stack's, which nobody needs then.
        unsafe {
            let task = KernelPtr::new(bpf_get_current_task_btf().cast_const().cast());
            let stack = task.load::<u64>(stack_offset);
            let on_task_stack = distance(&raw mut (*notes).scratch, self.ctx, stack) < THREAD_SIZE;
            let note = if on_task_stack { &raw mut (*notes).task } else { &raw mut (*notes).interrupt };
            let address = self.ctx.as_ptr() as u64;
            if self.first {
                if on_task_stack {
                    // What a second copy found no time to clear. No event on the interrupt stack is under way here.
                    (&raw mut (*notes).interrupt).write_volatile(0);
                }
                note.write_volatile(address);
                return true;
            }
            if note.read_volatile() == address {
                note.write_volatile(0);
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
