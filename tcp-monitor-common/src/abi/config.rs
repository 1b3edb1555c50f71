//! What the agent tells the kernel programs before they are loaded, and the names of their maps and globals.

/// The kernel's view of a port: which counters it has, or none.
///
/// One `u16` a port, in one map value: deciding that a port is not watched is one load.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PortTable {
    /// [`slot::UNWATCHED`], [`slot::OTHER`], [`slot::UNCLAIMED`] or an index into the counters, by port number.
    pub slots: [u16; 65536],
}

/// Special values of [`PortTable::slots`].
pub mod slot {
    /// Not watched: no record, no counter.
    pub const UNWATCHED: u16 = 0;
    /// Watched, and counted together as `other`.
    pub const OTHER: u16 = 1;
    /// The first slot of a port of its own.
    pub const FIRST: u16 = 2;
    /// Watched: gets the next free slot when it is first seen as a service port, or [`OTHER`] when all are taken.
    pub const UNCLAIMED: u16 = u16::MAX;
}

/// Byte offsets of kernel struct fields and the shapes of its tracepoints, all from the running kernel's BTF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KernelLayout {
    /// `sock_common.skc_daddr`; `skc_rcv_saddr` is the word after it.
    pub skc_daddr: u32,
    /// `sock_common.skc_rcv_saddr`.
    pub skc_rcv_saddr: u32,
    /// `sock_common.skc_dport`.
    pub skc_dport: u32,
    /// `sock_common.skc_num`.
    pub skc_num: u32,
    /// `sock_common.skc_family`.
    pub skc_family: u32,
    /// `sock_common.skc_state`.
    pub skc_state: u32,
    /// `sock_common.skc_net.net`.
    pub skc_net: u32,
    /// `sock_common.skc_v6_daddr`.
    pub skc_v6_daddr: u32,
    /// `sock_common.skc_v6_rcv_saddr`.
    pub skc_v6_rcv_saddr: u32,
    /// `sock_common.skc_cookie`.
    pub skc_cookie: u32,
    /// `sock_common.skc_flags`.
    pub skc_flags: u32,
    /// `sock.sk_protocol`.
    pub sk_protocol: u32,
    /// `sock.sk_err`.
    pub sk_err: u32,
    /// `sock.sk_socket`.
    pub sk_socket: u32,
    /// `sock.sk_shutdown`.
    pub sk_shutdown: u32,
    /// `sock.sk_max_ack_backlog`.
    pub sk_max_ack_backlog: u32,
    /// `sock.sk_ack_backlog`.
    pub sk_ack_backlog: u32,
    /// `inet_connection_sock.icsk_accept_queue.qlen`: how many requests a listener has.
    pub request_queue_len: u32,
    /// `inet_connection_sock.icsk_accept_queue.rskq_defer_accept`: one byte.
    pub defer_accept: u32,
    /// `sock.sk_cgrp_data.cgroup`.
    pub sk_cgroup: u32,
    /// `inet_sock.inet_sport`.
    pub inet_sport: u32,
    /// `tcp_sock.snd_nxt`.
    pub snd_nxt: u32,
    /// `tcp_sock.rcv_nxt`.
    pub rcv_nxt: u32,
    /// `tcp_sock.snd_una`.
    pub snd_una: u32,
    /// `tcp_sock.srtt_us` (eight times the smoothed round-trip time).
    pub srtt_us: u32,
    /// `tcp_sock.bytes_acked`.
    pub bytes_acked: u32,
    /// `tcp_sock.bytes_received`.
    pub bytes_received: u32,
    /// `tcp_sock.total_retrans`.
    pub total_retrans: u32,
    /// `sock_common.skc_listener`: of a half-open request, its listener.
    pub skc_listener: u32,
    /// `sock_common.skc_rcv_wnd`: of a half-open request, its receive window.
    pub skc_rcv_wnd: u32,
    /// `tcp_request_sock.rcv_nxt`.
    pub request_rcv_nxt: u32,
    /// `tcp_request_sock.snt_isn`.
    pub request_snt_isn: u32,
    /// `request_sock.rsk_timer.entry.pprev`: not NULL while the timer runs.
    pub request_timer_pprev: u32,
    /// `request_sock.num_timeout`, in *bits*: from there to the end of the byte.
    pub request_num_timeout_bits: u32,
    /// `inet_timewait_sock.tw_substate`.
    pub tw_substate: u32,
    /// `net.ns.inum`.
    pub net_inum: u32,
    /// `net.ipv4.sysctl_tcp_abort_on_overflow`: one byte is read.
    pub net_abort_on_overflow: u32,
    /// `net.ipv4.sysctl_tcp_syncookies`: one byte is read.
    pub net_syncookies: u32,
    /// `net.ipv4.sysctl_max_syn_backlog`.
    pub net_max_syn_backlog: u32,
    /// `cgroup.kn`.
    pub cgroup_kn: u32,
    /// `kernfs_node.id`.
    pub kn_id: u32,
    /// `sk_buff.dev`.
    pub skb_dev: u32,
    /// `sk_buff.head`.
    pub skb_head: u32,
    /// `sk_buff.network_header`.
    pub skb_network_header: u32,
    /// `sk_buff.transport_header`.
    pub skb_transport_header: u32,
    /// `sk_buff.cb` + `tcp_skb_cb.tcp_flags`: one byte is read.
    pub skb_tcp_flags: u32,
    /// `sk_buff.cb` + `tcp_skb_cb.tcp_gso_segs`.
    pub skb_gso_segs: u32,
    /// `net_device.nd_net.net`.
    pub dev_net: u32,
    /// `tcp_send_reset` has a third argument, the reason (6.12 and later), and `sk` may be NULL or no full socket.
    pub send_reset_has_reason: u32,
    /// `tcp_retransmit_skb` has a third argument, the error of the attempt (6.18 and later).
    pub retransmit_skb_has_err: u32,
    /// `bpf_get_socket_cookie` may be called from tp_btf programs (5.12 and later).
    pub has_socket_cookie: u32,
    /// `task_struct.stack`; 0 where tracepoint programs are there once only (before 5.12).
    pub task_stack: u32,
    /// `task_struct.flags`; read only with `task_stack`, as the next two.
    pub task_flags: u32,
    /// `task_struct.group_leader`.
    pub task_group_leader: u32,
    /// `task_struct.comm`.
    pub task_comm: u32,
}

impl KernelLayout {
    /// Before the agent has filled it in.
    pub const UNSET: Self = Self {
        skc_daddr: 0,
        skc_rcv_saddr: 0,
        skc_dport: 0,
        skc_num: 0,
        skc_family: 0,
        skc_state: 0,
        skc_net: 0,
        skc_v6_daddr: 0,
        skc_v6_rcv_saddr: 0,
        skc_cookie: 0,
        skc_flags: 0,
        sk_protocol: 0,
        sk_err: 0,
        sk_socket: 0,
        sk_shutdown: 0,
        sk_max_ack_backlog: 0,
        sk_ack_backlog: 0,
        request_queue_len: 0,
        defer_accept: 0,
        sk_cgroup: 0,
        inet_sport: 0,
        snd_nxt: 0,
        rcv_nxt: 0,
        snd_una: 0,
        srtt_us: 0,
        bytes_acked: 0,
        bytes_received: 0,
        total_retrans: 0,
        skc_listener: 0,
        skc_rcv_wnd: 0,
        request_rcv_nxt: 0,
        request_snt_isn: 0,
        request_timer_pprev: 0,
        request_num_timeout_bits: 0,
        tw_substate: 0,
        net_inum: 0,
        net_abort_on_overflow: 0,
        net_syncookies: 0,
        net_max_syn_backlog: 0,
        cgroup_kn: 0,
        kn_id: 0,
        skb_dev: 0,
        skb_head: 0,
        skb_network_header: 0,
        skb_transport_header: 0,
        skb_tcp_flags: 0,
        skb_gso_segs: 0,
        dev_net: 0,
        send_reset_has_reason: 0,
        retransmit_skb_has_err: 0,
        has_socket_cookie: 0,
        task_stack: 0,
        task_flags: 0,
        task_group_leader: 0,
        task_comm: 0,
    };
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
    /// Keeps the places of connections in [`AckTable`] from being guessed.
    pub seed: u64,
}

impl Settings {
    /// Before the agent has filled it in.
    pub const UNSET: Self = Self { netns: 0, records: 0, ring_size: 0, slots: 0, seed: 0 };
}

/// Words in [`AckTable`], a power of two.
pub const ACK_WORDS: usize = 1 << 16;
/// Words in a bucket: any of them may hold an entry that hashes to the bucket.
pub const ACK_WAYS: usize = 4;

/// The acknowledgements that are awaited, one word each: a hash of who must send it and its number.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct AckTable {
    /// Buckets of [`ACK_WAYS`] words; 0 is free.
    pub words: [u64; ACK_WORDS],
}

/// Buckets in [`OrphanTable`], a power of two.
pub const ORPHAN_BUCKETS: usize = 1 << 14;
/// Places in a bucket: any of them may hold an entry that hashes to the bucket.
pub const ORPHAN_WAYS: usize = 4;

/// The minisockets in FIN_WAIT2.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct OrphanTable {
    /// By a hash of the connection.
    pub buckets: [OrphanBucket; ORPHAN_BUCKETS],
}

/// Some minisockets: a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct OrphanBucket {
    /// A word each; 0 is free.
    pub words: [u64; ORPHAN_WAYS],
    /// Since when each connection is in FIN_WAIT2, `CLOCK_MONOTONIC`, nanoseconds; 0 if that is not known.
    pub since: [u64; ORPHAN_WAYS],
}

/// Words in [`ClosedTable`], a power of two.
pub const CLOSED_WORDS: usize = 1 << 14;

/// The state that sockets lately left for CLOSE: a hash of the connection, with the state's number in its low four bits.
///
/// The kernel sends the RST of an aborted connection after it has set the socket to CLOSE; this tells from which state.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ClosedTable {
    /// By that hash; 0 is free.
    pub words: [u64; CLOSED_WORDS],
}

/// Buckets of a [`LifetimeTable`], a power of two.
pub const LIFETIME_BUCKETS: usize = 1 << 15;
/// Sockets in a bucket, at most.
pub const LIFETIME_WAYS: usize = 4;

/// When the sockets did what they did: a bucket is chosen by a socket's address in kernel memory.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct LifetimeTable {
    /// Any way of its bucket may hold a socket.
    pub buckets: [LifetimeBucket; LIFETIME_BUCKETS],
}

/// A bucket of a [`LifetimeTable`].
#[derive(Clone, Copy)]
#[repr(C)]
pub struct LifetimeBucket {
    /// The address of the socket whose times follow, and in its lowest bit whether it was accepted; 0 is free.
    pub sockets: [u64; LIFETIME_WAYS],
    /// Its times.
    pub lifetimes: [Lifetime; LIFETIME_WAYS],
}

/// Times of a socket, `CLOCK_MONOTONIC`, nanoseconds; 0 where unknown.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Lifetime {
    /// The first SYN that it sent.
    pub opened: u64,
    /// When it was established.
    pub established: u64,
    /// The start of its present state.
    pub since: u64,
}

/// Names of maps.
pub mod map {
    /// Ring buffer of records.
    pub const RECORDS: &str = "RECORDS";
    /// `Array<PortTable>`, one entry.
    pub const PORTS: &str = "PORTS";
    /// `HashMap<u32, u16>`: the port of each counter slot that has one of its own.
    pub const SLOT_PORTS: &str = "SLOT_PORTS";
    /// `PerCpuArray<PortCounters>`, by slot.
    pub const PORT_COUNTERS: &str = "PORT_COUNTERS";
    /// `PerCpuHashMap<InterfaceKey, InterfaceCounters>`.
    pub const INTERFACE_COUNTERS: &str = "INTERFACE_COUNTERS";
    /// `PerCpuArray<RecordCounters>`, one entry.
    pub const RECORD_COUNTERS: &str = "RECORD_COUNTERS";
    /// `PerCpuArray<TableCounters>`, one entry.
    pub const TABLE_COUNTERS: &str = "TABLE_COUNTERS";
    /// `HashMap<u64, HalfOpen>`, by cookie.
    pub const HALF_OPEN: &str = "HALF_OPEN";
    /// `LruHashMap<u64, u64>`: when listeners closed, `CLOCK_MONOTONIC`, nanoseconds, by their address.
    pub const CLOSED_LISTENERS: &str = "CLOSED_LISTENERS";
    /// `PerCpuArray<Arrivals>`, one entry.
    pub const ARRIVALS: &str = "ARRIVALS";
}

/// Names of globals the agent sets before loading.
pub mod global {
    /// A [`KernelLayout`](super::KernelLayout).
    pub const KERNEL_LAYOUT: &str = "KERNEL_LAYOUT";
    /// A [`Settings`](super::Settings).
    pub const SETTINGS: &str = "SETTINGS";
    /// aya-log's level; 0 lets the verifier remove every log call.
    pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
}

/// Names of programs. Tracepoint programs are named after their tracepoint.
pub mod program {
    /// Every tracepoint program, each named after its tracepoint.
    pub const TRACEPOINTS: [&str; 5] = [
        "inet_sock_set_state",
        "tcp_send_reset",
        "tcp_receive_reset",
        "tcp_retransmit_skb",
        "tcp_retransmit_synack",
    ];
    /// Their second copies, in the same order, which handle what the kernel left the first ones out of.
    pub const SECOND_COPIES: [&str; 5] = [
        "inet_sock_set_state_second",
        "tcp_send_reset_second",
        "tcp_receive_reset_second",
        "tcp_retransmit_skb_second",
        "tcp_retransmit_synack_second",
    ];
    /// The classifier for segments coming in.
    pub const INGRESS: &str = "tcp_monitor_ingress";
    /// The classifier for segments going out.
    pub const EGRESS: &str = "tcp_monitor_egress";
    /// A program on inet_sock_set_state that does nothing, for the benchmark.
    pub const BASELINE_TRACEPOINT: &str = "baseline_tracepoint";
    /// A classifier that does nothing, for the benchmark.
    pub const BASELINE_CLASSIFIER: &str = "baseline_classifier";
}

#[cfg(feature = "user")]
mod user {
    // SAFETY: each is `repr(C)` of integers only, without padding, and any bit pattern is a value.
    unsafe impl aya::Pod for super::KernelLayout {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Settings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::PortTable {}
}
