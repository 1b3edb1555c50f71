//! What the agent sets in the programs before it loads them: where the running kernel keeps its
//! fields, and the settings.

/// Where a value of [`KernelLayout`] comes from. Structures and paths are the kernel's, as its BTF
/// names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Byte offset of a field: structure and path.
    Offset(&'static str, &'static str),
    /// As before, and 0 where the kernel has no such field: before 5.15 the pointer to the cgroup
    /// shares a word with the data of cgroup v1; a kernel may have no cgroups. Sockets' cgroups are
    /// unknown then.
    OffsetIfAny(&'static str, &'static str),
    /// Byte offset in `sk_buff.cb` of a field of `tcp_skb_cb`.
    ControlBlock(&'static str),
    /// Offset in bits of a bit field that goes on to the end of its byte.
    EndOfByte(&'static str, &'static str),
    /// Byte offset of a field, on kernels with this feature; 0 on others.
    OffsetWith(Feature, &'static str, &'static str),
    /// 1 on kernels with this feature, else 0.
    Has(Feature),
    /// 1 if this tracepoint has at least so many arguments, else 0.
    HasArguments(&'static str, usize),
}

/// What a kernel can do, by its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `bpf_get_socket_cookie` may be called from tp_btf programs (5.12 and later).
    SocketCookie,
    /// The kernel skips a tracing program that is already running on the CPU, so that each is
    /// attached twice. The running task can be read (`bpf_get_current_task_btf`).
    SkipsNestedRuns,
}

/// Makes [`KernelLayout`] from one table: each field with its source.
macro_rules! kernel_layout {
    ($($(#[$doc:meta])* $field:ident = $source:expr;)*) => {
        /// Byte offsets of kernel struct fields and the shapes of its tracepoints, all from the
        /// running kernel's BTF.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(C)]
        pub struct KernelLayout {
            $(
                $(#[$doc])*
                #[doc = concat!("From `", stringify!($source), "`.")]
                pub $field: u32,
            )*
        }

        impl KernelLayout {
            /// Before the agent has filled it in.
            pub const UNSET: Self = Self { $($field: 0,)* };

            /// Asks `find` for each value.
            ///
            /// # Errors
            /// The first that `find` returns.
            #[cfg(feature = "user")]
            pub fn find<E>(mut find: impl FnMut(Source) -> Result<u32, E>) -> Result<Self, E> {
                Ok(Self { $($field: find($source)?,)* })
            }
        }
    };
}

kernel_layout! {
    skc_daddr = Source::Offset("sock_common", "skc_daddr");
    skc_rcv_saddr = Source::Offset("sock_common", "skc_rcv_saddr");
    skc_dport = Source::Offset("sock_common", "skc_dport");
    skc_num = Source::Offset("sock_common", "skc_num");
    skc_family = Source::Offset("sock_common", "skc_family");
    skc_state = Source::Offset("sock_common", "skc_state");
    skc_net = Source::Offset("sock_common", "skc_net.net");
    skc_v6_daddr = Source::Offset("sock_common", "skc_v6_daddr");
    skc_v6_rcv_saddr = Source::Offset("sock_common", "skc_v6_rcv_saddr");
    skc_cookie = Source::Offset("sock_common", "skc_cookie");
    skc_flags = Source::Offset("sock_common", "skc_flags");
    sk_protocol = Source::Offset("sock", "sk_protocol");
    sk_err = Source::Offset("sock", "sk_err");
    sk_socket = Source::Offset("sock", "sk_socket");
    sk_shutdown = Source::Offset("sock", "sk_shutdown");
    sk_max_ack_backlog = Source::Offset("sock", "sk_max_ack_backlog");
    sk_ack_backlog = Source::Offset("sock", "sk_ack_backlog");
    /// `inet_connection_sock.icsk_accept_queue.qlen`: how many requests a listener has.
    request_queue_len = Source::Offset("inet_connection_sock", "icsk_accept_queue.qlen");
    /// `inet_connection_sock.icsk_accept_queue.rskq_defer_accept`: one byte.
    defer_accept = Source::Offset("inet_connection_sock", "icsk_accept_queue.rskq_defer_accept");
    sk_cgroup = Source::OffsetIfAny("sock", "sk_cgrp_data.cgroup");
    inet_sport = Source::Offset("inet_sock", "inet_sport");
    snd_nxt = Source::Offset("tcp_sock", "snd_nxt");
    rcv_nxt = Source::Offset("tcp_sock", "rcv_nxt");
    snd_una = Source::Offset("tcp_sock", "snd_una");
    /// `tcp_sock.srtt_us` (eight times the smoothed round-trip time).
    srtt_us = Source::Offset("tcp_sock", "srtt_us");
    bytes_acked = Source::Offset("tcp_sock", "bytes_acked");
    bytes_received = Source::Offset("tcp_sock", "bytes_received");
    total_retrans = Source::Offset("tcp_sock", "total_retrans");
    /// `sock_common.skc_listener`: of a half-open request, its listener.
    skc_listener = Source::Offset("sock_common", "skc_listener");
    /// `sock_common.skc_rcv_wnd`: of a half-open request, its receive window.
    skc_rcv_wnd = Source::Offset("sock_common", "skc_rcv_wnd");
    request_rcv_nxt = Source::Offset("tcp_request_sock", "rcv_nxt");
    request_snt_isn = Source::Offset("tcp_request_sock", "snt_isn");
    /// `request_sock.rsk_timer.entry.pprev`: not NULL while the timer runs.
    request_timer_pprev = Source::Offset("request_sock", "rsk_timer.entry.pprev");
    /// `request_sock.num_timeout`, in *bits*: from there to the end of the byte.
    request_num_timeout_bits = Source::EndOfByte("request_sock", "num_timeout");
    tw_substate = Source::Offset("inet_timewait_sock", "tw_substate");
    net_inum = Source::Offset("net", "ns.inum");
    /// `net.ipv4.sysctl_tcp_abort_on_overflow`: one byte is read.
    net_abort_on_overflow = Source::Offset("net", "ipv4.sysctl_tcp_abort_on_overflow");
    /// `net.ipv4.sysctl_tcp_syncookies`: one byte is read.
    net_syncookies = Source::Offset("net", "ipv4.sysctl_tcp_syncookies");
    net_max_syn_backlog = Source::Offset("net", "ipv4.sysctl_max_syn_backlog");
    cgroup_kn = Source::OffsetIfAny("cgroup", "kn");
    kn_id = Source::OffsetIfAny("kernfs_node", "id");
    skb_dev = Source::Offset("sk_buff", "dev");
    skb_head = Source::Offset("sk_buff", "head");
    skb_network_header = Source::Offset("sk_buff", "network_header");
    skb_transport_header = Source::Offset("sk_buff", "transport_header");
    /// `sk_buff.cb` + `tcp_skb_cb.tcp_flags`: one byte is read.
    skb_tcp_flags = Source::ControlBlock("tcp_flags");
    /// `sk_buff.cb` + `tcp_skb_cb.tcp_gso_segs`.
    skb_gso_segs = Source::ControlBlock("tcp_gso_segs");
    dev_net = Source::Offset("net_device", "nd_net.net");
    /// `tcp_send_reset` has a third argument, the reason (6.12 and later), and `sk` may be NULL or
    /// no full socket.
    send_reset_has_reason = Source::HasArguments("tcp_send_reset", 3);
    /// `tcp_retransmit_skb` has a third argument, the error of the attempt (6.18 and later).
    retransmit_skb_has_err = Source::HasArguments("tcp_retransmit_skb", 3);
    /// `bpf_get_socket_cookie` may be called from tp_btf programs (5.12 and later).
    has_socket_cookie = Source::Has(Feature::SocketCookie);
    /// `task_struct.stack`; 0 where tracepoint programs are there once only (before 5.12).
    task_stack = Source::OffsetWith(Feature::SkipsNestedRuns, "task_struct", "stack");
    /// `task_struct.flags`; read only with `task_stack`, as the next two.
    task_flags = Source::Offset("task_struct", "flags");
    task_group_leader = Source::Offset("task_struct", "group_leader");
    task_comm = Source::Offset("task_struct", "comm");
}

/// What the operator asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// Only sockets of the network namespace with this inode number; 0 for all.
    pub netns: u32,
    /// 1 if records are wanted, 0 if only counters are.
    pub records: u32,
    /// Size of the ring buffer, bytes.
    pub ring_size: u32,
    /// How many counter slots there are.
    pub slots: u32,
    /// Keeps the places of connections in [`AckTable`](super::maps::AckTable) from being guessed.
    pub seed: u64,
}

impl Settings {
    /// Before the agent has filled it in.
    pub const UNSET: Self = Self { netns: 0, records: 0, ring_size: 0, slots: 0, seed: 0 };
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: each is `repr(C)` of integers only, without padding, and any bit pattern is a value.
    unsafe impl aya::Pod for super::KernelLayout {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Settings {}
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::KernelLayout;

    #[test]
    fn each_value_has_a_place_of_its_own() {
        let mut count = 0;
        let layout = KernelLayout::find(|_| {
            count += 1;
            Ok::<u32, ()>(count)
        });
        // Fields of one size in the order of the table: the struct holds the numbers from 1 on.
        let layout = layout.expect("no error");
        assert_eq!(size_of::<KernelLayout>(), count as usize * size_of::<u32>());
        assert_eq!((layout.skc_daddr, layout.task_comm), (1, count));
    }
}
