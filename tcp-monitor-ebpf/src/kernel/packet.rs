//! A packet's IP and TCP headers, found and read without trusting any of it.

use core::mem::{MaybeUninit, offset_of};

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes_relative};
use tcp_monitor_common::record::{SegmentRecord, SocketRecord};

use super::{
    asm::{load_word, masked},
    prefilter,
};

/// Third word of an IPv4-mapped IPv6 address, as it lies in memory.
pub(crate) const V4_MAPPED_PREFIX: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

const BPF_HDR_START_NET: u32 = 1;
pub(crate) const ETH_P_IP: u16 = 0x0800;
pub(crate) const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;
pub(crate) const IPPROTO_TCP: u8 = 6;
const IPV4_HEADER: u32 = 20;
const IPV6_HEADER: u32 = 40;
const TCP_HEADER: u32 = 20;
/// What the devices that carry packets of more than 64 KiB put before the IP header.
const ETHERNET_HEADER: u32 = 14;
/// How many extension headers are stepped over; more do not occur outside attacks.
const MAX_EXTENSIONS: usize = 6;

/// The two addresses of a connection, words in network order; IPv4 in the first word.
#[derive(Clone, Copy, Default)]
pub(crate) struct Addresses {
    /// Of the socket, or the source of a segment.
    pub(crate) local: [u32; 4],
    /// Of the peer, or the destination of a segment.
    pub(crate) remote: [u32; 4],
    /// 4 or 6.
    pub(crate) ip_version: u8,
}

impl Addresses {
    /// Each address as one number, for hashing.
    #[inline(always)]
    pub(crate) fn folded(&self) -> (u64, u64) {
        if self.ip_version == 4 {
            return (u64::from(self.local[0]), u64::from(self.remote[0]));
        }
        (fold(&self.local), fold(&self.remote))
    }

    /// Writes both addresses into a record.
    #[inline(always)]
    pub(crate) fn store(&self, local: &mut [u8; 16], remote: &mut [u8; 16]) {
        // SAFETY: sixteen bytes each, and the records keep their addresses aligned for words.
        unsafe {
            local.as_mut_ptr().cast::<[u32; 4]>().write(self.local);
            remote.as_mut_ptr().cast::<[u32; 4]>().write(self.remote);
        }
    }
}

const _: () = assert!(
    offset_of!(SocketRecord, local_addr).is_multiple_of(4)
        && offset_of!(SocketRecord, remote_addr).is_multiple_of(4)
        && offset_of!(SegmentRecord, src_addr).is_multiple_of(4)
        && offset_of!(SegmentRecord, dst_addr).is_multiple_of(4)
);

#[inline(always)]
fn fold(address: &[u32; 4]) -> u64 {
    let high = u64::from(address[0]) << 32 | u64::from(address[1]);
    let low = u64::from(address[2]) << 32 | u64::from(address[3]);
    high.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ low
}

/// The first 20 bytes of a TCP header, network order.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct TcpStart {
    source: u16,
    destination: u16,
    seq: u32,
    ack: u32,
    offset: u8,
    /// CWR to FIN, the low eight flags.
    pub(crate) flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

impl TcpStart {
    #[inline(always)]
    pub(crate) fn source_port(&self) -> u16 {
        u16::from_be(self.source)
    }

    #[inline(always)]
    pub(crate) fn destination_port(&self) -> u16 {
        u16::from_be(self.destination)
    }

    /// Source and destination port, network order.
    #[inline(always)]
    pub(crate) fn raw_ports(&self) -> (u16, u16) {
        (self.source, self.destination)
    }

    #[inline(always)]
    pub(crate) fn sequence(&self) -> u32 {
        u32::from_be(self.seq)
    }

    #[inline(always)]
    pub(crate) fn acknowledgement(&self) -> u32 {
        u32::from_be(self.ack)
    }

    /// Length of the whole header, bytes; less than 20 if malformed.
    #[inline(always)]
    pub(crate) fn header_len(&self) -> u32 {
        u32::from(self.offset >> 4) * 4
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Ipv4 {
    version_and_length: u8,
    _service: u8,
    total_len: u16,
    _id: u16,
    fragment: u16,
    _ttl: u8,
    protocol: u8,
    _checksum: u16,
    source: u32,
    destination: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Ipv6 {
    _version: u32,
    payload_len: u16,
    next_header: u8,
    _hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

/// The 40 bytes that every TCP packet has: IPv4 and TCP, or IPv6 alone.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union Start {
    v4: (Ipv4, TcpStart),
    v6: Ipv6,
}

/// A TCP segment in a packet, whose IP header lies in a [`Start`].
pub(crate) struct Segment<'a> {
    pub(crate) tcp: TcpStart,
    /// Where the TCP header begins, counted from the IP header.
    tcp_offset: u32,
    start: &'a Start,
    ip_version: u8,
}

impl<'a> Segment<'a> {
    /// Finds the TCP header of a packet; `None` if it has none. `room` is for the IP header.
    #[inline(always)]
    pub(crate) fn find(skb: *mut __sk_buff, room: &'a mut MaybeUninit<Start>) -> Option<Self> {
        // SAFETY: the context of a classifier.
        let protocol = u16::from_be(unsafe { (*skb).protocol } as u16);
        let start = load_ip(skb, 0, room)?;
        // SAFETY: both variants are plain integers over the same 40 bytes.
        let (v4, v6) = unsafe { (&start.v4, &start.v6) };
        match v4.0.version_and_length >> 4 {
            4 if carries(protocol, ETH_P_IP) => {
                // Fragments other than the first have no TCP header.
                if v4.0.protocol != IPPROTO_TCP || u16::from_be(v4.0.fragment) & 0x1fff != 0 {
                    return None;
                }
                let tcp_offset = u32::from(v4.0.version_and_length & 0xf) * 4;
                let tcp = if tcp_offset == IPV4_HEADER { v4.1 } else { load(skb, tcp_offset)? };
                Some(Self { tcp, tcp_offset, start, ip_version: 4 })
            }
            6 if carries(protocol, ETH_P_IPV6) => {
                if v6.next_header == IPPROTO_TCP {
                    let mut room = MaybeUninit::uninit();
                    let tcp = *load_ip(skb, IPV6_HEADER, &mut room)?;
                    return Some(Self { tcp, tcp_offset: IPV6_HEADER, start, ip_version: 6 });
                }
                let tcp_offset = skip_extensions(skb, v6.next_header)?;
                Some(Self { tcp: load(skb, tcp_offset)?, tcp_offset, start, ip_version: 6 })
            }
            _ => None,
        }
    }

    #[inline(always)]
    pub(crate) fn addresses(&self) -> Addresses {
        // SAFETY: plain integers, and the version says which of the two they are.
        unsafe {
            if self.ip_version == 4 {
                let ip = &self.start.v4.0;
                Addresses { local: [ip.source, 0, 0, 0], remote: [ip.destination, 0, 0, 0], ip_version: 4 }
            } else {
                let ip = &self.start.v6;
                Addresses { local: ip.source, remote: ip.destination, ip_version: 6 }
            }
        }
    }

    /// Payload, bytes; `packet_len` is the length of the whole packet from its link-layer header
    /// on. `None` if the headers contradict each other or the packet, as no TCP would take them.
    #[inline(always)]
    pub(crate) fn payload_len(&self, packet_len: u32) -> Option<u32> {
        // SAFETY: plain integers, and the version says which of the two they are.
        let ip_len = unsafe {
            if self.ip_version == 4 {
                u32::from(u16::from_be(self.start.v4.0.total_len))
            } else {
                match u16::from_be(self.start.v6.payload_len) {
                    0 => 0,
                    payload => u32::from(payload) + IPV6_HEADER,
                }
            }
        };
        // BIG TCP: the packet is larger than the IP header can say, which then says 0.
        let ip_len = if ip_len == 0 { packet_len.saturating_sub(ETHERNET_HEADER) } else { ip_len };
        let headers = self.tcp_offset + self.tcp.header_len();
        if self.tcp.header_len() < TCP_HEADER || ip_len < headers || ip_len > packet_len {
            return None;
        }
        Some(ip_len - headers)
    }
}

/// Whether a frame of type `protocol` is to hold a packet of type `ip`. Behind a VLAN tag that the
/// device does not take off, the frame's type is the tag's.
#[inline(always)]
fn carries(protocol: u16, ip: u16) -> bool {
    protocol == ip || protocol == ETH_P_8021Q || protocol == ETH_P_8021AD
}

/// Reads a `T` at `offset` from the IP header; `None` if the packet is shorter.
#[inline(always)]
fn load<T: Copy>(skb: *mut __sk_buff, offset: u32) -> Option<T> {
    let mut room = MaybeUninit::uninit();
    load_into::<T>(skb, offset, &mut room).copied()
}

/// Reads a `T` at `offset` from the IP header: in place where the prefilter reads it, else as
/// [`load`].
#[inline(always)]
fn load_ip<T: Copy>(skb: *mut __sk_buff, offset: u32, room: &mut MaybeUninit<T>) -> Option<&T> {
    let Some(ip) = prefilter::ip_header::<T>(skb, offset) else { return load_into(skb, offset, room) };
    let words = room.as_mut_ptr().cast::<u32>();
    let mut i = 0;
    while i < size_of::<T>() / 4 {
        // SAFETY: within `T`, which is of whole words, and within the packet.
        unsafe { words.add(i).write(load_word(ip + 4 * i)) };
        i += 1;
    }
    // SAFETY: plain integers, all of which were written.
    Some(unsafe { room.assume_init_ref() })
}

/// As [`load`], without a copy.
#[inline(always)]
fn load_into<T: Copy>(skb: *mut __sk_buff, offset: u32, room: &mut MaybeUninit<T>) -> Option<&T> {
    // SAFETY: writes exactly `T`, or says that it did not.
    unsafe {
        let status = bpf_skb_load_bytes_relative(
            skb.cast(),
            offset,
            room.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            BPF_HDR_START_NET,
        );
        if status == 0 { Some(room.assume_init_ref()) } else { None }
    }
}

/// Where the TCP header begins after IPv6 extension headers; `None` if there is none.
#[inline(always)]
fn skip_extensions(skb: *mut __sk_buff, first: u8) -> Option<u32> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;

    let mut next = first;
    let mut offset = IPV6_HEADER;
    let mut i = 0;
    while i < MAX_EXTENSIONS {
        let extension = load::<[u8; 4]>(skb, offset)?;
        let len = match next {
            HOP_BY_HOP | ROUTING | DESTINATION => u32::from(extension[1]) * 8 + 8,
            AUTHENTICATION => u32::from(extension[1]) * 4 + 8,
            // Fragments other than the first have no TCP header.
            FRAGMENT if u16::from_be_bytes([extension[2], extension[3]]) & 0xfff8 == 0 => 8,
            _ => return None,
        };
        next = extension[0];
        offset += len;
        if next == IPPROTO_TCP {
            return Some(offset);
        }
        i += 1;
    }
    None
}

/// Copies the TCP header, options included, to `to`; `false` if the packet ends before it does.
#[inline(always)]
pub(crate) fn copy_header(skb: *mut __sk_buff, segment: &Segment<'_>, to: &mut [u8; 60]) -> bool {
    // At most 60; the mask makes the comparison one of this very number, which the verifier can
    // use.
    let len = masked::<63>(segment.tcp.header_len() as usize) as u32;
    if len < TCP_HEADER {
        return false;
    }
    // SAFETY: `len` is at most the 60 bytes of `to`.
    unsafe {
        bpf_skb_load_bytes_relative(
            skb.cast(),
            segment.tcp_offset,
            to.as_mut_ptr().cast(),
            len,
            BPF_HDR_START_NET,
        ) == 0
    }
}
