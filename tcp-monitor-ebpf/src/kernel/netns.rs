//! The network namespace of a packet.

use aya_ebpf::{
    bindings::__sk_buff, helpers::generated::bpf_get_netns_cookie, macros::map, maps::PerCpuArray,
};

use super::{
    asm::element,
    layout::layout,
    memory::read,
};

const PLACES: usize = 64;

/// The inode numbers of the last namespaces.
#[map]
static NETNS_CACHE: PerCpuArray<Cache> = PerCpuArray::with_max_entries(1, 0);

#[derive(Clone, Copy)]
#[repr(C)]
struct Cache {
    entries: [Entry; PLACES],
}

/// A cookie is never used again, an inode number may be.
#[derive(Clone, Copy)]
#[repr(C)]
struct Entry {
    cookie: u64,
    inum: u64,
}

/// Inode number of the network namespace of the packet's interface; 0 if it cannot be read.
#[inline(always)]
pub(crate) fn netns_of(skb: *mut __sk_buff) -> u32 {
    if layout!(has_netns_cookie) == 0 {
        return read_inum(skb);
    }
    // SAFETY: takes the context of a classifier.
    let cookie = unsafe { bpf_get_netns_cookie(skb.cast()) };
    let Some(cache) = NETNS_CACHE.get_ptr_mut(0) else { return read_inum(skb) };
    // SAFETY: the map's own value, and only this CPU's: no classifier interrupts another.
    unsafe {
        let entry = element::<_, { PLACES as i32 - 1 }, PLACES>(&raw mut (*cache).entries, cookie as usize);
        if (*entry).cookie != cookie {
            entry.write(Entry { cookie, inum: read_inum(skb).into() });
        }
        (*entry).inum as u32
    }
}

#[inline(always)]
fn read_inum(skb: *mut __sk_buff) -> u32 {
    // The context is the address of the kernel's sk_buff.
    let dev = read::<u64>((skb as *const u8).wrapping_add(layout!(skb_dev) as usize));
    let net = read::<u64>((dev as *const u8).wrapping_add(layout!(dev_net) as usize));
    read((net as *const u8).wrapping_add(layout!(net_inum) as usize))
}
