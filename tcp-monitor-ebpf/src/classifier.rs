//! The traffic-control classifiers: every segment of a handshake or a teardown, and nothing else.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::__sk_buff,
    macros::{classifier, map},
    maps::PerCpuHashMap,
    programs::TcContext,
};
use aya_log_ebpf::debug;
use tcp_monitor_common::{
    TcpState,
    counters::{InterfaceCounters, InterfaceKey, SegmentKind},
    record::{Direction, Kind, SegmentRecord, origin},
    rules::control::flag::ACK,
};

use crate::{
    acks::{Awaited, COOKIE, Path, REQUEST},
    fate::{self, Passing},
    glance::is_of_no_interest,
    half_open,
    instruction::{add, element},
    kernel::{layout, read},
    orphans,
    packet::{self, Segment},
    ports,
    records::{self, Room},
    resets,
    socket::start,
};

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
    TC_ACT_UNSPEC
}

#[classifier]
pub(crate) fn tcp_monitor_egress(ctx: TcContext) -> i32 {
    classify(&ctx, Direction::Egress);
    TC_ACT_UNSPEC
}

#[inline(always)]
fn classify(ctx: &TcContext, direction: Direction) -> Option<()> {
    let skb = ctx.skb.skb;
    if is_of_no_interest(skb) {
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
    // Of what leaves: where it came in, 0 if it is this host's own.
    // SAFETY: as above.
    let arrived_on = unsafe { (*skb).ingress_ifindex };
    // Loopback shows each packet twice; the second time it is counted only.
    let again = ifindex == LOOPBACK && direction as u8 == Direction::Ingress as u8;
    let flags = tcp.flags;

    let Some(payload_len) = segment.payload_len(packet_len) else {
        debug!(ctx, "interface {}: TCP header malformed or cut off", ifindex);
        return None;
    };
    let addresses = segment.addresses();
    let (source, destination) = addresses.folded();
    let (source_port, destination_port) = (tcp.source_port(), tcp.destination_port());
    let path = Path::new(source, destination, source_port, destination_port);
    let mut acks = 0;
    if flags & ACK != 0 {
        acks = path.take(tcp.acknowledgement());
    }
    let kind = SegmentKind::of(flags);
    if kind.is_none() && acks == 0 {
        return None;
    }
    let back = Path::new(destination, source, destination_port, source_port);
    // Acknowledged by a minisocket, which has entered TIME_WAIT.
    if acks & Awaited::Fin as u8 != 0 {
        orphans::end(path, tcp.acknowledgement(), TcpState::TimeWait);
    }
    let passing = Passing { skb, segment: &segment, payload_len, back, ifindex };
    let netns = netns_of(skb);
    let mut origin = 0;
    match direction {
        Direction::Ingress => match kind {
            Some(SegmentKind::Syn) => half_open::syn_arrives(passing, watched),
            Some(SegmentKind::Rst) => resets::arrives(passing, watched),
            Some(SegmentKind::SynAck) => {}
            Some(SegmentKind::Fin) | None => {
                let awaited = acks & (REQUEST | COOKIE);
                if awaited != 0 {
                    half_open::last_ack_arrives(passing, watched, path, awaited);
                }
            }
        },
        Direction::Egress => {
            let awaited = acks & (REQUEST | COOKIE);
            if awaited != 0 {
                half_open::expect_again(path, tcp.acknowledgement(), awaited);
            }
            match kind {
                Some(SegmentKind::Syn | SegmentKind::Rst) if arrived_on != 0 => {
                    fate::goes_on(&segment, arrived_on);
                }
                Some(SegmentKind::SynAck) => {
                    let awaited = half_open::syn_ack_leaves(skb, path, watched, netns, source_port);
                    if let Some(awaited) = awaited {
                        back.expect(tcp.sequence().wrapping_add(1), awaited);
                        origin =
                            if awaited == Awaited::Cookie { origin::SYN_COOKIE } else { origin::REQUEST };
                    }
                }
                // As the kernel answers what acknowledges nothing.
                Some(SegmentKind::Rst) if flags & ACK != 0 && tcp.sequence() == 0 => {
                    resets::leaves(path);
                }
                Some(SegmentKind::Syn | SegmentKind::Rst | SegmentKind::Fin) | None => {}
            }
        }
    }
    if !again {
        let end = tcp.sequence().wrapping_add(payload_len).wrapping_add(1);
        match kind {
            Some(SegmentKind::SynAck) => back.expect(end, Awaited::SynAck),
            Some(SegmentKind::Fin) => back.expect(end, Awaited::Fin),
            Some(SegmentKind::Rst) => path.expect(0, Awaited::Rst),
            Some(SegmentKind::Syn) | None => {}
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
    if again || (kind.is_none() && acks == 0) || !records::wanted() {
        return None;
    }
    let shows = Shows { payload_len, direction, acks, origin };
    record(ctx, &segment, InterfaceKey { netns, ifindex }, shows)
}

/// What a passing segment shows besides its headers.
#[derive(Clone, Copy)]
struct Shows {
    payload_len: u32,
    direction: Direction,
    acks: u8,
    origin: u8,
}

#[inline(always)]
fn record(ctx: &TcContext, segment: &Segment<'_>, interface: InterfaceKey, shows: Shows) -> Option<()> {
    let mut entry = records::reserve::<SegmentRecord>(Kind::Segment, Room::Half)?;
    let addresses = segment.addresses();
    let record = records::fields(&mut entry);
    start(&mut record.header, Kind::Segment, interface.netns, addresses.ip_version);
    record.ifindex = interface.ifindex;
    record.payload_len = shows.payload_len;
    record.direction = shows.direction as u8;
    record.acks = shows.acks;
    record.origin = shows.origin;
    addresses.store(&mut record.src_addr, &mut record.dst_addr);
    // It cannot fail: the packet is as long as its headers say.
    if packet::copy_header(ctx.skb.skb, segment, &mut record.tcp_header) {
        record.tcp_header_len = segment.tcp.header_len() as u8;
    }
    records::submit(entry);
    Some(())
}

/// Inode number of the network namespace of the packet's interface; 0 if it cannot be read.
#[inline(always)]
fn netns_of(skb: *mut __sk_buff) -> u32 {
    // The context is the address of the kernel's sk_buff.
    let dev = read::<u64>((skb as *const u8).wrapping_add(layout!(skb_dev) as usize));
    let net = read::<u64>((dev as *const u8).wrapping_add(layout!(dev_net) as usize));
    read((net as *const u8).wrapping_add(layout!(net_inum) as usize))
}
