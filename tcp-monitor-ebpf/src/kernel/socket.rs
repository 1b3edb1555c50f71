//! Reading a kernel socket, and describing it in a record.

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid,
    generated::{bpf_get_current_task_btf, bpf_get_socket_cookie, bpf_skc_to_tcp_sock},
};
use tcp_monitor_common::{
    TcpState,
    record::{Header, Kind, Role, SocketRecord, flags},
    rules::payload,
};

use super::{
    layout::{layout, setting},
    memory::{KernelPtr, read},
    now,
    packet::{Addresses, V4_MAPPED_PREFIX},
    path::Path,
};

const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
/// Bit of `skc_flags`: the peer's FIN was received (`enum sock_flags`).
const SOCK_DONE: u64 = 1 << 1;
/// Bit of `task_struct.flags`: a kernel thread.
const PF_KTHREAD: u32 = 0x0020_0000;
/// Bit of `sk_shutdown`.
const RCV_SHUTDOWN: u8 = 1;

/// A `struct sock`, or what begins with the same `struct sock_common`: a request or a timewait
/// socket.
#[derive(Clone, Copy)]
pub(crate) struct Socket(pub(crate) KernelPtr);

impl Socket {
    #[inline(always)]
    pub(crate) fn state(self) -> u8 {
        self.0.load::<u8>(layout!(skc_state))
    }

    /// The state that a timewait socket stands for: FIN_WAIT2 until the peer's FIN, then TIME_WAIT.
    #[inline(always)]
    pub(crate) fn substate(self) -> u8 {
        read::<u8>(self.0.as_ptr().wrapping_add(layout!(tw_substate) as usize))
    }

    /// The same of a timewait socket as [`FullSocket::ack_of_fin`].
    #[inline(always)]
    pub(crate) fn timewait_ack_of_fin(self) -> u32 {
        // The field shares its place with a request's window.
        read::<u32>(self.0.as_ptr().wrapping_add(layout!(skc_rcv_wnd) as usize)).wrapping_add(1)
    }

    /// The local port; 0 once the kernel has released it, see [`FullSocket::local_port`].
    #[inline(always)]
    pub(crate) fn local_port(self) -> u16 {
        self.0.load::<u16>(layout!(skc_num))
    }

    #[inline(always)]
    pub(crate) fn remote_port(self) -> u16 {
        u16::from_be(self.0.load::<u16>(layout!(skc_dport)))
    }

    /// Inode number of the network namespace.
    #[inline(always)]
    pub(crate) fn netns(self) -> u32 {
        self.0.follow(layout!(skc_net)).load::<u32>(layout!(net_inum))
    }

    /// Whether the operator asked for its network namespace.
    #[inline(always)]
    pub(crate) fn is_in_wanted_netns(self) -> bool {
        // The kernel counts its sockets in the same cache line, so it is not read in vain.
        setting!(netns) == 0 || setting!(netns) == self.netns()
    }

    #[inline(always)]
    pub(crate) fn addresses(self) -> Addresses {
        let mut addresses = Addresses::default();
        if self.0.load::<u16>(layout!(skc_family)) == AF_INET6 {
            let (local, remote) = (layout!(skc_v6_rcv_saddr), layout!(skc_v6_daddr));
            addresses.ip_version = 6;
            let mut i = 0;
            while i < 4 {
                addresses.local[i] = self.0.load::<u32>(local + 4 * i as u32);
                addresses.remote[i] = self.0.load::<u32>(remote + 4 * i as u32);
                i += 1;
            }
            if addresses.remote[0] | addresses.remote[1] == 0 && addresses.remote[2] == V4_MAPPED_PREFIX {
                // IPv4 on the wire. An unbound local address is written the same way.
                addresses.ip_version = 4;
                addresses.local = [addresses.local[3], 0, 0, 0];
                addresses.remote = [addresses.remote[3], 0, 0, 0];
            }
        } else {
            addresses.ip_version = 4;
            addresses.local[0] = self.0.load::<u32>(layout!(skc_rcv_saddr));
            addresses.remote[0] = self.0.load::<u32>(layout!(skc_daddr));
        }
        addresses
    }

    /// From this socket to its peer. The caller knows the local port: the socket may have released
    /// it.
    #[inline(always)]
    pub(crate) fn path(self, local_port: u16) -> Path {
        let (local, remote) = self.addresses().folded();
        Path::new(local, remote, local_port, self.remote_port())
    }

    /// From the peer to this socket.
    #[inline(always)]
    pub(crate) fn path_back(self, local_port: u16) -> Path {
        let (local, remote) = self.addresses().folded();
        Path::new(remote, local, self.remote_port(), local_port)
    }

    /// The cookie; 0 if none was given so far.
    #[inline(always)]
    pub(crate) fn known_cookie(self) -> u64 {
        self.0.load::<u64>(layout!(skc_cookie))
    }

    /// The cookie, given now if there was none and the kernel allows it.
    #[inline(always)]
    fn cookie(self) -> u64 {
        let cookie = self.known_cookie();
        if cookie == 0 && layout!(has_socket_cookie) != 0 {
            // SAFETY: the verifier has checked that this is a socket.
            return unsafe { bpf_get_socket_cookie(self.0.as_ptr().cast_mut().cast()) };
        }
        cookie
    }

    /// Fills in who the socket is. Nothing past `sock_common` is read, so any kind of socket will
    /// do.
    #[inline(always)]
    pub(crate) fn describe(self, record: &mut SocketRecord, kind: Kind, netns: u32) {
        let addresses = self.addresses();
        start(&mut record.header, kind, netns, addresses.ip_version);
        record.cookie = self.known_cookie();
        record.sk = self.0.address();
        record.remote_port = self.remote_port();
        addresses.store(&mut record.local_addr, &mut record.remote_addr);
    }
}

/// A full TCP socket: a `struct tcp_sock`.
#[derive(Clone, Copy)]
pub(crate) struct FullSocket {
    sock: Socket,
    tcp: KernelPtr,
}

impl FullSocket {
    /// `None` unless the socket is a full one and its protocol is TCP (MPTCP's own is not).
    #[inline(always)]
    pub(crate) fn of(sock: Socket) -> Option<Self> {
        // SAFETY: the helper takes any socket, and answers NULL for what is no tcp_sock.
        let tcp = unsafe { bpf_skc_to_tcp_sock(sock.0.as_ptr().cast_mut().cast()) };
        if tcp.is_null() { None } else { Some(Self { sock, tcp: KernelPtr::new(tcp.cast_const().cast()) }) }
    }

    /// The local port, also after the kernel has released it on the way to CLOSE.
    #[inline(always)]
    pub(crate) fn local_port(self) -> u16 {
        u16::from_be(self.tcp.load::<u16>(layout!(inet_sport)))
    }

    #[inline(always)]
    pub(crate) fn error(self) -> u32 {
        self.sock.0.load::<u32>(layout!(sk_err))
    }

    #[inline(always)]
    pub(crate) fn peer_closed(self) -> bool {
        self.sock.0.load::<u64>(layout!(skc_flags)) & SOCK_DONE != 0
    }

    /// The application will read no more.
    #[inline(always)]
    pub(crate) fn receive_shut_down(self) -> bool {
        self.sock.0.load::<u8>(layout!(sk_shutdown)) & RCV_SHUTDOWN != 0
    }

    /// No file descriptor: closed by the application, or not accepted yet.
    #[inline(always)]
    pub(crate) fn is_orphan(self) -> bool {
        self.sock.0.follow(layout!(sk_socket)).is_null()
    }

    /// The socket's backlog limit is not 0. An accepted socket is a copy of its listener and keeps
    /// the limit of that.
    #[inline(always)]
    pub(crate) fn has_backlog_limit(self) -> bool {
        self.sock.0.load::<u32>(layout!(sk_max_ack_backlog)) > 0
    }

    /// The same socket, with what all kinds have.
    #[inline(always)]
    pub(crate) fn common(self) -> Socket {
        self.sock
    }

    /// Payload that the peer acknowledged, bytes.
    #[inline(always)]
    pub(crate) fn payload_acked(self, role: Role, fin_acked: bool) -> u64 {
        payload::payload_acked(self.tcp.load::<u64>(layout!(bytes_acked)), role, fin_acked)
    }

    /// Payload received in order, bytes.
    #[inline(always)]
    pub(crate) fn payload_received(self) -> u64 {
        payload::payload_received(self.tcp.load::<u64>(layout!(bytes_received)), self.peer_closed())
    }

    /// The number that acknowledges the peer's FIN, if nothing else comes before that.
    #[inline(always)]
    pub(crate) fn ack_of_fin(self) -> u32 {
        self.tcp.load::<u32>(layout!(rcv_nxt)).wrapping_add(1)
    }

    /// Everything sent is acknowledged.
    #[inline(always)]
    pub(crate) fn all_acked(self) -> bool {
        self.tcp.load::<u32>(layout!(snd_una)) == self.tcp.load::<u32>(layout!(snd_nxt))
    }

    /// Fills in the whole record but its kind's own fields.
    #[inline(always)]
    pub(crate) fn describe(self, record: &mut SocketRecord, kind: Kind, netns: u32) {
        self.sock.describe(record, kind, netns);
        // A child socket without a cookie comes of a SYN cookie, and is recognised by that until it
        // is established.
        if !matches!(TcpState::from_kernel(self.sock.state()), Some(TcpState::Listen)) {
            record.cookie = self.sock.cookie();
        }
        record.local_port = self.local_port();
        record.flags = flags::FULL_SOCKET;
        if self.peer_closed() {
            record.flags |= flags::PEER_CLOSED;
        }
        if self.is_orphan() {
            record.flags |= flags::ORPHAN;
        }
        record.sk_err = self.error();
        record.snd_nxt = self.tcp.load::<u32>(layout!(snd_nxt));
        record.rcv_nxt = self.tcp.load::<u32>(layout!(rcv_nxt));
        record.snd_una = self.tcp.load::<u32>(layout!(snd_una));
        record.srtt_us = self.tcp.load::<u32>(layout!(srtt_us)) >> 3;
        record.bytes_acked = self.tcp.load::<u64>(layout!(bytes_acked));
        record.bytes_received = self.tcp.load::<u64>(layout!(bytes_received));
        record.total_retrans = self.tcp.load::<u32>(layout!(total_retrans));
        if layout!(sk_cgroup) != 0 {
            let cgroup = self.sock.0.follow(layout!(sk_cgroup));
            record.cgroup = cgroup.follow(layout!(cgroup_kn)).load::<u64>(layout!(kn_id));
        }
    }

    /// Whether the process running now is the one that caused the transition.
    ///
    /// It is when a system call makes the transition. Elsewhere it is the process that a packet
    /// interrupted; on loopback that is the peer's.
    #[inline(always)]
    pub(crate) fn caused_by_process(self, old: TcpState, new: TcpState) -> bool {
        match new {
            TcpState::SynSent | TcpState::Listen => matches!(old, TcpState::Close),
            TcpState::FinWait1 | TcpState::LastAck => !self.is_orphan(),
            // From a state that only a system call, or an error, leaves for CLOSE.
            TcpState::Close => match old {
                TcpState::Established
                | TcpState::CloseWait
                | TcpState::SynSent
                | TcpState::SynRecv
                | TcpState::Listen => self.error() == 0 && !self.is_orphan(),
                TcpState::FinWait1
                | TcpState::FinWait2
                | TcpState::TimeWait
                | TcpState::Close
                | TcpState::LastAck
                | TcpState::Closing
                | TcpState::NewSynRecv => false,
            },
            TcpState::Established
            | TcpState::SynRecv
            | TcpState::FinWait2
            | TcpState::TimeWait
            | TcpState::CloseWait
            | TcpState::Closing
            | TcpState::NewSynRecv => false,
        }
    }
}

/// Names the running process in the record, by its main thread's name.
#[inline(always)]
pub(crate) fn name_process(record: &mut SocketRecord) {
    let comm = if layout!(task_stack) == 0 {
        // Before 5.12 the task cannot be read, only the name of the thread.
        bpf_get_current_comm().ok()
    } else {
        // SAFETY: takes nothing, cannot fail.
        let task = KernelPtr::new(unsafe { bpf_get_current_task_btf() }.cast_const().cast());
        if task.load::<u32>(layout!(task_flags)) & PF_KTHREAD != 0 {
            // A kernel worker that closes the sockets of a process that has ended.
            return;
        }
        Some(task.follow(layout!(task_group_leader)).copy::<[u8; 16]>(layout!(task_comm)))
    };
    record.flags |= flags::PROCESS;
    record.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if let Some(comm) = comm {
        record.comm = comm;
    }
}

/// Whether the socket's protocol is TCP: inet_sock_set_state also reports SCTP, DCCP and MPTCP.
#[inline(always)]
pub(crate) fn is_tcp(sock: Socket) -> bool {
    sock.0.load::<u16>(layout!(sk_protocol)) == IPPROTO_TCP
}

/// Whether the operator asked for this network namespace.
#[inline(always)]
pub(crate) fn is_wanted_netns(netns: u32) -> bool {
    setting!(netns) == 0 || setting!(netns) == netns
}

/// Fills in the start of a record.
#[inline(always)]
pub(crate) fn start(header: &mut Header, kind: Kind, netns: u32, ip_version: u8) {
    header.time = now();
    header.netns = netns;
    header.kind = kind as u8;
    header.ip_version = ip_version;
}
