//! The socket that a packet is for, found as the kernel will find it.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{
        bpf_sk_release, bpf_skc_lookup_tcp, bpf_skc_to_tcp_request_sock, bpf_skc_to_tcp_sock,
    },
};
use tcp_monitor_common::TcpState;

use crate::{
    kernel::{KernelPtr, layout, read},
    packet::Segment,
};

const BPF_F_CURRENT_NETNS: u64 = u64::MAX;

/// What a segment that comes in meets.
#[derive(Clone, Copy)]
pub(crate) enum Receiver {
    /// No socket has that address.
    Nobody,
    /// A listener.
    Listener(Listener),
    /// A half-open request.
    Request(Request),
    /// A socket of another kind.
    Other,
}

/// A listener's queues.
#[derive(Clone, Copy)]
pub(crate) struct Listener {
    /// Its accept queue is full.
    pub(crate) full: bool,
    /// It has so many requests that it may not take another.
    pub(crate) crowded: bool,
}

/// A half-open request and its listener.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) cookie: u64,
    /// The next sequence number that it expects, and how many from there on it accepts.
    pub(crate) rcv_nxt: u32,
    pub(crate) rcv_wnd: u32,
    /// The listener's accept queue is full.
    pub(crate) full: bool,
    /// What the last ACK then comes to: a RST instead of nothing.
    pub(crate) aborts: bool,
}

/// Source and destination as `struct bpf_sock_tuple` has them, network order.
#[repr(C)]
union Tuple {
    v4: ([u32; 2], [u16; 2]),
    v6: ([[u32; 4]; 2], [u16; 2]),
}

/// Who will receive a segment, in the network namespace of the interface that it comes in on.
#[inline(always)]
pub(crate) fn receiver(skb: *mut __sk_buff, segment: &Segment<'_>) -> Receiver {
    let sk = look_up(skb, segment);
    if sk.is_null() {
        return Receiver::Nobody;
    }
    // SAFETY: not NULL, and held until the release below.
    let state = unsafe { (&raw const (*sk).state).read_volatile() };
    let receiver = if state == TcpState::Listen as u32 {
        listener(sk)
    } else if state == TcpState::NewSynRecv as u32 {
        request(sk)
    } else {
        Receiver::Other
    };
    // SAFETY: releases what was looked up, once.
    unsafe { bpf_sk_release(sk.cast()) };
    receiver
}

#[inline(always)]
fn look_up(skb: *mut __sk_buff, segment: &Segment<'_>) -> *mut bpf_sock {
    let addresses = segment.addresses();
    let (source, destination) = segment.tcp.raw_ports();
    let ports = [source, destination];
    let mut tuple = MaybeUninit::<Tuple>::uninit();
    // SAFETY: writes what the helper reads: of the union, the variant whose length it is told.
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
fn listener(sk: *mut bpf_sock) -> Receiver {
    // SAFETY: the helper takes any socket, and answers NULL for what is no tcp_sock.
    let tcp = KernelPtr::new(unsafe { bpf_skc_to_tcp_sock(sk.cast()) }.cast_const().cast());
    if tcp.is_null() {
        return Receiver::Other;
    }
    let limit = tcp.load::<u32>(layout!(sk_max_ack_backlog));
    let net = tcp.follow(layout!(skc_net));
    let requests = tcp.load::<u32>(layout!(request_queue_len));
    // Kernel: `tcp_conn_request`. Of those it knows well it takes more than three quarters.
    let crowded = net.load::<u8>(layout!(net_syncookies)) == 0 && {
        let backlog = net.load::<u32>(layout!(net_max_syn_backlog));
        requests >= limit || (backlog.wrapping_sub(requests) as i32) < (backlog >> 2) as i32
    };
    Receiver::Listener(Listener { full: tcp.load::<u32>(layout!(sk_ack_backlog)) > limit, crowded })
}

#[inline(always)]
fn request(sk: *mut bpf_sock) -> Receiver {
    // SAFETY: the helper takes any socket, and answers NULL for what is no request.
    let request = KernelPtr::new(unsafe { bpf_skc_to_tcp_request_sock(sk.cast()) }.cast_const().cast());
    if request.is_null() {
        return Receiver::Other;
    }
    // The field shares its place with a number, so the verifier does not know it for a pointer.
    let listener = request.load::<u64>(layout!(skc_listener)) as *const u8;
    let of_listener = |offset: u32| read::<u32>(listener.wrapping_add(offset as usize));
    let net = read::<u64>(listener.wrapping_add(layout!(skc_net) as usize)) as *const u8;
    Receiver::Request(Request {
        cookie: request.load::<u64>(layout!(skc_cookie)),
        rcv_nxt: request.load::<u32>(layout!(request_rcv_nxt)),
        rcv_wnd: request.load::<u32>(layout!(skc_rcv_wnd)),
        full: of_listener(layout!(sk_ack_backlog)) > of_listener(layout!(sk_max_ack_backlog)),
        aborts: read::<u8>(net.wrapping_add(layout!(net_abort_on_overflow) as usize)) != 0,
    })
}
