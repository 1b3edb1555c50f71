//! The socket that receives an ingress segment, found as the kernel will find it.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{
        bpf_sk_release, bpf_skc_lookup_tcp, bpf_skc_to_tcp_request_sock, bpf_skc_to_tcp_sock,
        bpf_skc_to_tcp_timewait_sock,
    },
};
use tcp_monitor_common::TcpState;

use super::{
    layout::layout,
    memory::{KernelPtr, read},
    packet::Segment,
};

const BPF_F_CURRENT_NETNS: u64 = u64::MAX;
/// Of a handshake, whose segments have windows of 16 bits (kernel: `tcp_synack_window`).
const LARGEST_WINDOW: u32 = 65_535;

/// What an ingress segment is for.
#[derive(Clone, Copy)]
pub(crate) enum Receiver {
    /// No socket has that address.
    NoSocket,
    /// A listener.
    Listener(Listener),
    /// A half-open request.
    Request(Request),
    /// A half-open request whose listener has closed: it ends now, and the segment is for another
    /// listener of the port, if there is one. Or it moves to that (`net.ipv4.tcp_migrate_req`).
    RequestWithoutListener,
    /// A timewait socket in FIN_WAIT2, and the next sequence number that it expects.
    FinWait2Timewait(u32),
    /// A timewait socket in TIME_WAIT, and that number.
    TimeWait(u32),
    /// A socket of another kind.
    Other,
}

/// A listener's queues.
#[derive(Clone, Copy)]
pub(crate) struct Listener {
    /// Its accept queue is full.
    pub(crate) full: bool,
    pub(crate) requests: Requests,
}

/// How many half-open requests a listener has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requests {
    /// Few enough to accept another, or SYN cookies help.
    Few,
    /// As many as its backlog: it accepts another since Linux 6.14, and the stable kernels of that
    /// time. Or so many that only peers with a proven path are accepted.
    PerhapsTooMany,
    /// It accepts no other.
    TooMany,
}

/// What segments received a moment ago will still do to a listener's queues.
#[derive(Clone, Copy, Default)]
pub(crate) struct Pending {
    /// Half-open requests that it will have.
    pub(crate) requests: u32,
    /// Half-open requests that will become child sockets.
    pub(crate) completed: u32,
    /// Child sockets that will enter its accept queue.
    pub(crate) children: u32,
}

/// A half-open request and its listener.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) cookie: u64,
    /// The next sequence number that it expects, and how many from there on it accepts.
    pub(crate) rcv_nxt: u32,
    pub(crate) rcv_wnd: u32,
    /// The sequence number of its SYN-ACK.
    pub(crate) snt_isn: u32,
    /// The listener's accept queue is full.
    pub(crate) full: bool,
    /// The kernel then answers the handshake ACK with a RST (`net.ipv4.tcp_abort_on_overflow`).
    pub(crate) aborts: bool,
    /// How often its timer expires before the listener stops deferring to data; 0 if it does not
    /// defer, or not any more.
    pub(crate) deferral: u8,
}

/// Source and destination as `struct bpf_sock_tuple` has them, network order.
#[repr(C)]
union Tuple {
    v4: ([u32; 2], [u16; 2]),
    v6: ([[u32; 4]; 2], [u16; 2]),
}

/// What will receive a segment, in the network namespace of the interface that received it.
#[inline(always)]
pub(crate) fn receiver(skb: *mut __sk_buff, segment: &Segment<'_>, pending: Pending) -> Receiver {
    let sk = look_up(skb, segment, false);
    if sk.is_null() {
        return Receiver::NoSocket;
    }
    // SAFETY: not NULL, and held until the release below.
    let state = unsafe { (&raw const (*sk).state).read_volatile() };
    let receiver = if state == TcpState::Listen as u32 {
        queues(sk, pending).map(Receiver::Listener)
    } else if state == TcpState::NewSynRecv as u32 {
        request(sk, pending)
    } else if state == TcpState::TimeWait as u32 {
        time_wait(sk)
    } else {
        None
    };
    // SAFETY: releases what was looked up, once.
    unsafe { bpf_sk_release(sk.cast()) };
    receiver.unwrap_or(Receiver::Other)
}

/// The listener of a segment that no connection accepts. Of several that share the port, it may be
/// another than the kernel's choice.
#[inline(always)]
pub(crate) fn listener(skb: *mut __sk_buff, segment: &Segment<'_>, pending: Pending) -> Option<Listener> {
    // From port 0 there are no connections.
    let sk = look_up(skb, segment, true);
    if sk.is_null() {
        return None;
    }
    // SAFETY: not NULL, and held until the release below.
    let state = unsafe { (&raw const (*sk).state).read_volatile() };
    let listener = if state == TcpState::Listen as u32 { queues(sk, pending) } else { None };
    // SAFETY: releases what was looked up, once.
    unsafe { bpf_sk_release(sk.cast()) };
    listener
}

#[inline(always)]
fn look_up(skb: *mut __sk_buff, segment: &Segment<'_>, listeners_only: bool) -> *mut bpf_sock {
    let addresses = segment.addresses();
    let (source, destination) = segment.tcp.raw_ports();
    let ports = [if listeners_only { 0 } else { source }, destination];
    let mut tuple = MaybeUninit::<Tuple>::uninit();
    // SAFETY: writes what the helper reads: of the union, the variant whose length is passed.
    unsafe {
        let tuple = tuple.as_mut_ptr();
        let len = if addresses.ip_version == 4 {
            (&raw mut (*tuple).v4).write(([addresses.local[0], addresses.remote[0]], ports));
            size_of::<([u32; 2], [u16; 2])>()
        } else {
            (&raw mut (*tuple).v6).write(([addresses.local, addresses.remote], ports));
            size_of::<([[u32; 4]; 2], [u16; 2])>()
        };
        bpf_skc_lookup_tcp(skb.cast(), tuple.cast(), len as u32, BPF_F_CURRENT_NETNS, 0)
    }
}

#[inline(always)]
fn queues(sk: *mut bpf_sock, pending: Pending) -> Option<Listener> {
    // SAFETY: the helper takes any socket, and answers NULL for what is no tcp_sock.
    let tcp = KernelPtr::new(unsafe { bpf_skc_to_tcp_sock(sk.cast()) }.cast_const().cast());
    if tcp.is_null() {
        return None;
    }
    let limit = tcp.load::<u32>(layout!(sk_max_ack_backlog));
    let net = tcp.follow(layout!(skc_net));
    let held = tcp.load::<u32>(layout!(request_queue_len)).wrapping_add(pending.requests);
    // A duplicate ACK creates one child.
    let held = held.saturating_sub(pending.completed);
    // Kernel: `tcp_conn_request`. The last quarter is for peers with a proven path.
    let requests = if net.load::<u8>(layout!(net_syncookies)) != 0 {
        Requests::Few
    } else if held > limit {
        Requests::TooMany
    } else {
        let backlog = net.load::<u32>(layout!(net_max_syn_backlog));
        if held == limit || (backlog.wrapping_sub(held) as i32) < (backlog >> 2) as i32 {
            Requests::PerhapsTooMany
        } else {
            Requests::Few
        }
    };
    let children = tcp.load::<u32>(layout!(sk_ack_backlog)).wrapping_add(pending.children);
    Some(Listener { full: children > limit, requests })
}

#[inline(always)]
fn time_wait(sk: *mut bpf_sock) -> Option<Receiver> {
    // SAFETY: the helper takes any socket, and answers NULL for what is none in TIME_WAIT.
    let socket = unsafe { bpf_skc_to_tcp_timewait_sock(sk.cast()) };
    let socket = KernelPtr::new(socket.cast_const().cast());
    if socket.is_null() {
        return None;
    }
    // The field shares its place with a request's window.
    let rcv_nxt = socket.load::<u32>(layout!(skc_rcv_wnd));
    Some(if socket.load::<u8>(layout!(tw_substate)) == TcpState::FinWait2 as u8 {
        Receiver::FinWait2Timewait(rcv_nxt)
    } else {
        Receiver::TimeWait(rcv_nxt)
    })
}

#[inline(always)]
fn request(sk: *mut bpf_sock, pending: Pending) -> Option<Receiver> {
    // SAFETY: the helper takes any socket, and answers NULL for what is no request.
    let request = KernelPtr::new(unsafe { bpf_skc_to_tcp_request_sock(sk.cast()) }.cast_const().cast());
    if request.is_null() {
        return None;
    }
    // The field shares its place with a number, so the verifier does not know it for a pointer.
    let listener = request.load::<u64>(layout!(skc_listener)) as *const u8;
    if read::<u8>(listener.wrapping_add(layout!(skc_state) as usize)) != TcpState::Listen as u8 {
        return Some(Receiver::RequestWithoutListener);
    }
    let (children, limit) = accept_queue(listener);
    let full = children.wrapping_add(pending.children) > limit;
    let deferral = read::<u8>(listener.wrapping_add(layout!(defer_accept) as usize));
    Some(Receiver::Request(Request {
        cookie: request.load::<u64>(layout!(skc_cookie)),
        rcv_nxt: request.load::<u32>(layout!(request_rcv_nxt)),
        rcv_wnd: request.load::<u32>(layout!(skc_rcv_wnd)).min(LARGEST_WINDOW),
        snt_isn: request.load::<u32>(layout!(request_snt_isn)),
        full,
        aborts: full && request.follow(layout!(skc_net)).load::<u8>(layout!(net_abort_on_overflow)) != 0,
        deferral: if timeouts(request) < deferral { deferral } else { 0 },
    }))
}

/// The child sockets in a listener's accept queue, and their limit.
#[inline(always)]
fn accept_queue(listener: *const u8) -> (u32, u32) {
    let (children, limit) = (layout!(sk_ack_backlog), layout!(sk_max_ack_backlog));
    if limit == children + 4 {
        let [children, limit] = read::<[u32; 2]>(listener.wrapping_add(children as usize));
        return (children, limit);
    }
    let of_listener = |offset: u32| read::<u32>(listener.wrapping_add(offset as usize));
    (of_listener(children), of_listener(limit))
}

/// The request that sends a SYN-ACK; NULL if it is of none.
#[inline(always)]
pub(crate) fn request_of(sk: *mut bpf_sock) -> KernelPtr {
    // SAFETY: the helper takes any socket, and answers NULL for what is no request.
    KernelPtr::new(unsafe { bpf_skc_to_tcp_request_sock(sk.cast()) }.cast_const().cast())
}

/// Whether a request's timer has expired, so that it retransmits its SYN-ACK now: until then the
/// timer runs.
#[inline(always)]
pub(crate) fn timer_has_expired(request: KernelPtr) -> bool {
    request.load::<u64>(layout!(request_timer_pprev)) == 0
}

/// How often a request's timer had expired before.
#[inline(always)]
pub(crate) fn timeouts(request: KernelPtr) -> u8 {
    let bits = layout!(request_num_timeout_bits);
    request.load::<u8>(bits >> 3) >> (bits & 7)
}
