//! The prefilter: skips packets of no watched port at next to no cost. Most packets are.
//!
//! It reads the packet in place, where it can be sure of what it reads: IP without options in an
//! Ethernet frame, as loopback and veth carry too. Everything else takes the slow path,
//! [`Segment::find`](super::packet::Segment::find), which asks the kernel where the IP header is,
//! and copies.

use aya_ebpf::bindings::__sk_buff;

use super::packet::{ETH_P_IP, ETH_P_IPV6, IPPROTO_TCP};

const IPPROTO_UDP: u8 = 17;
const ETHERNET_TYPE: usize = 12;
const IP: usize = 14;
const V4_FIRST_BYTE: u8 = 0x45;
const V4_FRAGMENT: usize = IP + 6;
const V4_PROTOCOL: usize = IP + 9;
const V4_PORTS: usize = IP + 20;
const V6_NEXT_HEADER: usize = IP + 6;
const V6_PORTS: usize = IP + 40;

/// Whether the packet is certainly none of TCP, or of two ports that are not watched. If in doubt,
/// it is not.
#[inline(always)]
pub(crate) fn is_irrelevant(skb: *mut __sk_buff, is_watched: impl Fn(u16, u16) -> bool) -> bool {
    // SAFETY: the context of a classifier.
    let (start, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    if start + V4_PORTS + 4 > end {
        return false;
    }
    // SAFETY: the packet is that long, by the comparison above.
    let (first, ethernet_type, version) =
        unsafe { (byte(start), u16::from_be(half(start + ETHERNET_TYPE)), byte(start + IP)) };
    // A device without link-layer headers has the IP version in the first half of the first byte.
    // An address that begins the same way takes the slow path.
    let is_unwatched = |address| {
        // SAFETY: the packet is longer than that, by the comparisons here.
        let (source, destination) = unsafe { ports(address) };
        !is_watched(source, destination)
    };
    if ethernet_type == ETH_P_IP && version == V4_FIRST_BYTE && first >> 4 != 4 {
        // SAFETY: as above.
        let (protocol, fragment) =
            unsafe { (byte(start + V4_PROTOCOL), u16::from_be(half(start + V4_FRAGMENT)) & 0x1fff) };
        return protocol == IPPROTO_UDP
            || (protocol == IPPROTO_TCP && fragment == 0 && is_unwatched(start + V4_PORTS));
    }
    if ethernet_type == ETH_P_IPV6 && version >> 4 == 6 && first >> 4 != 6 && start + V6_PORTS + 4 <= end {
        // SAFETY: as above.
        let protocol = unsafe { byte(start + V6_NEXT_HEADER) };
        return protocol == IPPROTO_UDP || (protocol == IPPROTO_TCP && is_unwatched(start + V6_PORTS));
    }
    false
}

/// Where a `T` at `offset` from the IP header of an Ethernet frame lies; `None` if it cannot be
/// read in place.
#[inline(always)]
pub(crate) fn ip_header<T>(skb: *mut __sk_buff, offset: u32) -> Option<usize> {
    // SAFETY: the context of a classifier.
    let (start, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    let address = start + IP + offset as usize;
    if address + size_of::<T>() > end || start + IP + 1 > end {
        return None;
    }
    // SAFETY: the packet is that long, by the comparison above.
    let (first, ethernet_type, version) =
        unsafe { (byte(start) >> 4, u16::from_be(half(start + ETHERNET_TYPE)), byte(start + IP) >> 4) };
    let is_v4 = ethernet_type == ETH_P_IP && version == 4 && first != 4;
    let is_v6 = ethernet_type == ETH_P_IPV6 && version == 6 && first != 6;
    if is_v4 || is_v6 { Some(address) } else { None }
}

/// Source and destination port.
///
/// # Safety
///
/// `address` and the next three bytes must lie within the packet, which the verifier checks.
#[inline(always)]
unsafe fn ports(address: usize) -> (u16, u16) {
    // SAFETY: by the caller's word.
    let (source, destination) = unsafe { (half(address), half(address + 2)) };
    (u16::from_be(source), u16::from_be(destination))
}

/// # Safety
///
/// `address` must lie within the packet, which the verifier checks.
#[inline(always)]
unsafe fn byte(address: usize) -> u8 {
    // SAFETY: by the caller's word.
    unsafe { *(address as *const u8) }
}

/// # Safety
///
/// `address` and the next must lie within the packet, which the verifier checks. Headers begin at
/// even addresses.
#[inline(always)]
unsafe fn half(address: usize) -> u16 {
    // SAFETY: by the caller's word.
    unsafe { *(address as *const u16) }
}
