//! The hooks: one file each, named after it.

/// Makes the two programs of a tracepoint, which is one of `program::TRACEPOINTS`, and why there
/// are two: [`nesting`](crate::kernel::nesting). `$handle` gets the context, and what says which of
/// them handles the event.
macro_rules! tracepoint {
    ($name:ident, $handle:path) => {
        #[unsafe(link_section = concat!("tp_btf/", stringify!($name)))]
        #[unsafe(export_name = stringify!($name))]
        fn first(ctx: *mut core::ffi::c_void) -> i32 {
            let ctx = aya_ebpf::programs::BtfTracePointContext::new(ctx);
            $handle(&ctx, $crate::kernel::nesting::Nesting::first(&ctx, TRACEPOINT));
            0
        }

        #[unsafe(link_section = concat!("tp_btf/", stringify!($name)))]
        #[unsafe(export_name = concat!(stringify!($name), "_second"))]
        fn second(ctx: *mut core::ffi::c_void) -> i32 {
            let ctx = aya_ebpf::programs::BtfTracePointContext::new(ctx);
            $handle(&ctx, $crate::kernel::nesting::Nesting::second(&ctx, TRACEPOINT));
            0
        }

        const TRACEPOINT: u32 = tcp_monitor_common::abi::maps::program::index(stringify!($name));
    };
}

mod baseline;
mod classifier;
mod inet_sock_set_state;
mod tcp_receive_reset;
mod tcp_retransmit_skb;
mod tcp_retransmit_synack;
mod tcp_send_reset;
