//! Tun devices: what this process writes, the namespace receives; what the namespace sends, this
//! process reads.

use std::fs::{File, OpenOptions};

use anyhow::{Context, Result};
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use crate::support::namespace::Namespace;

/// Creates a tun device in `namespace`, down and without an address. It exists as long as the file
/// is open.
pub(crate) fn tun(namespace: &Namespace, name: &str) -> Result<File> {
    tun_with(namespace, name, 0)
}

/// The same, but received packets are queued until the kernel polls the device, as with network
/// hardware (NAPI).
pub(crate) fn polled_tun(namespace: &Namespace, name: &str) -> Result<File> {
    tun_with(namespace, name, IFF_NAPI)
}

fn tun_with(namespace: &Namespace, name: &str, flags: u16) -> Result<File> {
    namespace.enter(|| {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .context("cannot open /dev/net/tun")?;
        let mut request =
            InterfaceRequest { name: [0; 16], flags: IFF_TUN | IFF_NO_PI | flags, rest: [0; 22] };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: TUNSETIFF reads a `struct ifreq`, which `InterfaceRequest` is laid out like.
        unsafe { ioctl(&file, Setter::<TUNSETIFF, InterfaceRequest>::new(request)) }
            .context("TUNSETIFF failed")?;
        Ok(file)
    })
}

/// `struct ifreq` (linux/if.h), with the flags of its union.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// From linux/if_tun.h.
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const IFF_TUN: u16 = 0x0001;
const IFF_NAPI: u16 = 0x0010;
const IFF_NO_PI: u16 = 0x1000;
