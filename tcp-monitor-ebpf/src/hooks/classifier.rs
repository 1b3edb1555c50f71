//! The traffic-control classifiers: every segment of a handshake or a teardown, and nothing else.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::__sk_buff,
    macros::{classifier, map},
    maps::PerCpuHashMap,
    programs::TcContext,
};
use tcp_monitor_common::{
    TcpState,
    counters::{InterfaceCounters, InterfaceKey, SegmentKind},
    record::{Direction, Kind, SegmentRecord, origin},
    rules::control::flag::ACK,
};

use self::ingress::Ingress;
use crate::{
    kernel::{
        asm::{add, element},
        layout::layout,
        memory::read,
        packet::{self, Segment},
        path::Path,
        prefilter,
        socket::start,
    },
    output::{
        log, ports,
        ring::{self, FillLimit},
    },
    state::{
        acks::{Awaited, COOKIE, LOGGED, REQUEST},
        fin_wait2_timewait, pending_segments,
    },
};

mod handshake;
mod ingress;
mod reset;

/// The agent sets the size, and makes an entry for each interface it attaches to.
#[map]
static INTERFACE_COUNTERS: PerCpuHashMap<InterfaceKey, InterfaceCounters> =
    PerCpuHashMap::with_max_entries(1, 0);

/// Let other programs of the interface run.
const TC_ACT_UNSPEC: i32 = -1;
/// Index of the loopback interface, in every namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

#[classifier]
pub(crate) fn tcp_monitor_ingress(ctx: TcContext) -> i32 {
    classify(&ctx, Direction::Ingress);
    log::report();
    TC_ACT_UNSPEC
}

#[classifier]
pub(crate) fn tcp_monitor_egress(ctx: TcContext) -> i32 {
    classify(&ctx, Direction::Egress);
    log::report();
    TC_ACT_UNSPEC
}

#[inline(always)]
fn classify(ctx: &TcContext, direction: Direction) -> Option<()> {
    let skb = ctx.skb.skb;
    if prefilter::is_irrelevant(skb, |source, destination| ports::watched(source, destination).is_some()) {
        return None;
    }
    let mut room = MaybeUninit::uninit();
    let segment = Segment::find(skb, &mut room)?;
    let tcp = &segment.tcp;
    // The sender is this host's end on the way out, the receiver on the way in.
    let watched = match direction {
        Direction::Ingress => ports::watched(tcp.destination_port(), tcp.source_port())?,
        Direction::Egress => ports::watched(tcp.source_port(), tcp.destination_port())?,
    };

    // SAFETY: the context of a classifier.
    let (ifindex, packet_len) = unsafe { ((*skb).ifindex, (*skb).len) };
    // Of an egress segment: the interface that received it, 0 if this host sends it.
    // SAFETY: as above.
    let ingress_ifindex = unsafe { (*skb).ingress_ifindex };
    // Loopback details each packet twice; the second time it is counted only.
    let is_copy = ifindex == LOOPBACK && direction as u8 == Direction::Ingress as u8;
    let flags = tcp.flags;

    let Some(payload_len) = segment.payload_len(packet_len) else {
        log::malformed_header(ifindex);
        return None;
    };
    let addresses = segment.addresses();
    let (source, destination) = addresses.folded();
    let (source_port, destination_port) = (tcp.source_port(), tcp.destination_port());
    let path = Path::new(source, destination, source_port, destination_port);
    let mut acks = 0;
    if flags & ACK != 0 {
        let kinds = match direction {
            Direction::Ingress => LOGGED | REQUEST | COOKIE,
            // Its receiver may be on this host.
            Direction::Egress => LOGGED,
        };
        acks = path.consume(tcp.acknowledgement(), kinds);
    }
    let kind = SegmentKind::of(flags);
    if kind.is_none() && acks == 0 {
        return None;
    }
    let back = Path::new(destination, source, destination_port, source_port);
    // Acknowledged by a timewait socket, which has entered TIME_WAIT.
    if acks & Awaited::Fin as u8 != 0 && !is_of_open_socket(skb, direction) {
        fin_wait2_timewait::end(path, tcp.acknowledgement(), TcpState::TimeWait);
    }
    let received = Ingress { skb, segment: &segment, payload_len, back, ifindex };
    // Of a plain ACK nothing else needs it.
    let netns = if kind.is_some() || ring::wanted() { netns_of(skb) } else { 0 };
    let mut origin = 0;
    match direction {
        Direction::Ingress => match kind {
            Some(SegmentKind::Syn) => handshake::receive_syn(received, watched),
            Some(SegmentKind::Rst) => reset::receive_rst(received, watched),
            Some(SegmentKind::SynAck) => {}
            Some(SegmentKind::Fin) | None => {
                let awaited = acks & (REQUEST | COOKIE);
                if awaited != 0 {
                    handshake::receive_handshake_ack(received, watched, path, awaited);
                }
            }
        },
        Direction::Egress => {
            match kind {
                Some(SegmentKind::Syn | SegmentKind::Rst) if ingress_ifindex != 0 => {
                    pending_segments::was_forwarded(tcp.sequence(), ingress_ifindex);
                }
                Some(SegmentKind::SynAck) => {
                    let awaited = handshake::send_syn_ack(skb, path, watched, netns, source_port);
                    if let Some(awaited) = awaited {
                        back.expect(tcp.sequence().wrapping_add(1), awaited);
                        origin =
                            if awaited == Awaited::Cookie { origin::SYN_COOKIE } else { origin::REQUEST };
                    }
                }
                // The kernel's answer to what acknowledges nothing.
                Some(SegmentKind::Rst) if flags & ACK != 0 && tcp.sequence() == 0 => {
                    reset::send_rst(path);
                }
                Some(SegmentKind::Syn | SegmentKind::Rst | SegmentKind::Fin) | None => {}
            }
        }
    }
    if !is_copy {
        let end = tcp.sequence().wrapping_add(payload_len).wrapping_add(1);
        match kind {
            Some(SegmentKind::SynAck) if ring::wanted() => back.expect(end, Awaited::SynAck),
            Some(SegmentKind::Fin) => back.expect(end, Awaited::Fin),
            Some(SegmentKind::Rst) => path.expect(0, Awaited::Rst),
            Some(SegmentKind::Syn | SegmentKind::SynAck) | None => {}
        }
    }

    if let Some(kind) = kind {
        let key = InterfaceKey { netns, ifindex };
        if let Some(counters) = INTERFACE_COUNTERS.get_ptr_mut(key) {
            // SAFETY: the map's own value.
            unsafe {
                let segments = &raw mut (*counters).segments[direction as usize];
                add(element::<_, 3, 4>(segments, kind as usize), 1);
            }
        }
    }
    // What only this host awaits was recorded before, on another interface.
    let acks = acks & !(REQUEST | COOKIE);
    if is_copy || (kind.is_none() && acks == 0) || !ring::wanted() {
        return None;
    }
    let details = Details { payload_len, direction, acks, origin };
    record(skb, &segment, InterfaceKey { netns, ifindex }, details)
}

/// What a record has besides the headers of its segment.
#[derive(Clone, Copy)]
struct Details {
    payload_len: u32,
    direction: Direction,
    acks: u8,
    origin: u8,
}

#[inline(always)]
fn record(
    skb: *mut __sk_buff,
    segment: &Segment<'_>,
    interface: InterfaceKey,
    details: Details,
) -> Option<()> {
    let mut entry = ring::reserve::<SegmentRecord>(Kind::Segment, FillLimit::Half)?;
    let addresses = segment.addresses();
    let record = ring::fields(&mut entry);
    start(&mut record.header, Kind::Segment, interface.netns, addresses.ip_version);
    record.ifindex = interface.ifindex;
    record.payload_len = details.payload_len;
    record.direction = details.direction as u8;
    record.acks = details.acks;
    record.origin = details.origin;
    addresses.store(&mut record.src_addr, &mut record.dst_addr);
    // It cannot fail: the packet is as long as its headers say.
    if packet::copy_header(skb, segment, &mut record.tcp_header) {
        record.tcp_header_len = segment.tcp.header_len() as u8;
    }
    ring::submit(entry);
    Some(())
}

/// Whether a segment leaves a socket whose connection is open, which is no timewait socket.
#[inline(always)]
fn is_of_open_socket(skb: *mut __sk_buff, direction: Direction) -> bool {
    // SAFETY: the context of a classifier.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if direction as u8 == Direction::Ingress as u8 || sk.is_null() {
        return false;
    }
    // SAFETY: not NULL.
    let state = unsafe { (&raw const (*sk).state).read_volatile() };
    // What sends for timewait sockets is in CLOSE.
    state != TcpState::TimeWait as u32 && state != TcpState::Close as u32
}

/// Inode number of the network namespace of the packet's interface; 0 if it cannot be read.
///
/// `bpf_get_netns_cookie` would be faster, but returns that of the socket that sent the packet,
/// which may be in another namespace.
#[inline(always)]
fn netns_of(skb: *mut __sk_buff) -> u32 {
    // The context is the address of the kernel's sk_buff.
    let dev = read::<u64>((skb as *const u8).wrapping_add(layout!(skb_dev) as usize));
    let net = read::<u64>((dev as *const u8).wrapping_add(layout!(dev_net) as usize));
    read((net as *const u8).wrapping_add(layout!(net_inum) as usize))
}
