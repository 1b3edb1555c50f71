//! A tun device that receives a flood of SYNs, each from another source address that no host has.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, ensure};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::support::{
    namespace::Namespace,
    packet_builder::{SYN, Segment},
    tun::tun,
};

/// The device that receives the flood. It carries nothing else, and what is sent to it is dropped.
pub(crate) struct FloodDevice<'a> {
    namespace: &'a Namespace,
    device: Arc<File>,
    stop: Arc<OwnedFd>,
    drain: Option<JoinHandle<()>>,
}

/// The kernel's counters of the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceCounts {
    /// Packets.
    pub(crate) received: u64,
    /// Packets, including those that were dropped because the device's queue was full.
    pub(crate) sent: u64,
}

/// Name of the device.
pub(crate) const DEVICE: &str = "flood";
pub(crate) const HERE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

impl<'a> FloodDevice<'a> {
    pub(crate) fn new(namespace: &'a Namespace) -> Result<Self> {
        let device = Arc::new(tun(namespace, DEVICE)?);
        // Otherwise the kernel sends router solicitations on it.
        namespace.set(&format!("net/ipv6/conf/{DEVICE}/disable_ipv6"), "1")?;
        namespace.ip(&format!("addr add {HERE}/15 dev {DEVICE}"))?;
        namespace.ip(&format!("link set {DEVICE} txqueuelen 10000 up"))?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let drain = thread::spawn({
            let (device, stop) = (Arc::clone(&device), Arc::clone(&stop));
            move || drain(&device, &stop)
        });
        Ok(Self { namespace, device, stop, drain: Some(drain) })
    }

    /// Sends SYNs to `port` as fast as the kernel processes them, while `more` of the number sent
    /// is true. Returns that number.
    pub(crate) fn flood(&self, port: u16, mut more: impl FnMut(u64) -> bool) -> Result<u64> {
        let mut syn = Syn::new(SocketAddr::new(HERE.into(), port));
        let mut sent = 0;
        while more(sent) {
            let packet = syn.of_source(sent);
            let written = (&*self.device).write(packet).context("the device refused a SYN")?;
            ensure!(written == packet.len(), "{written} bytes of a SYN were written");
            sent += 1;
        }
        Ok(sent)
    }

    pub(crate) fn counts(&self) -> Result<DeviceCounts> {
        // A new mount of sysfs shows the namespace of the process that mounts it; /proc/net needs
        // no mount.
        let table = self.namespace.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let line = table.lines().find_map(|line| line.trim_start().strip_prefix(DEVICE)?.strip_prefix(':'));
        let counts: Vec<u64> = line
            .context("the device does not exist")?
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        ensure!(counts.len() == 16, "/proc/net/dev has {} columns", counts.len());
        Ok(DeviceCounts { received: counts[1], sent: counts[9] + counts[11] })
    }
}

impl Drop for FloodDevice<'_> {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(drain) = self.drain.take() {
            let _ = drain.join();
        }
    }
}

fn drain(mut device: &File, stop: &OwnedFd) {
    let mut packet = [0; 2048];
    loop {
        let mut ready = [PollFd::new(stop, PollFlags::IN), PollFd::new(device, PollFlags::IN)];
        if poll(&mut ready, None).is_err() || !ready[0].revents().is_empty() {
            return;
        }
        let _ = device.read(&mut packet);
    }
}

/// A SYN whose source changes and whose checksums stay: what one field adds, another subtracts (RFC
/// 1071).
struct Syn {
    packet: Vec<u8>,
}

impl Syn {
    fn new(to: SocketAddr) -> Self {
        let [low, port] = [0_u16, 0];
        let from = SocketAddr::new(Ipv4Addr::new(198, 19, 0, 0).into(), port);
        let seq = u32::from(!port) << 16 | u32::from(!low);
        Self { packet: Segment::new(SYN, seq, 0).packet(from, to) }
    }

    /// The SYN of the source with this number.
    fn of_source(&mut self, number: u64) -> &[u8] {
        let low = (number % ADDRESSES) as u16;
        let port = FIRST_PORT.wrapping_add((number / ADDRESSES) as u16);
        let fields =
            [(IP_ID, !low), (IP_SOURCE_LOW, low), (TCP_SOURCE, port), (TCP_SEQ, !port), (TCP_SEQ + 2, !low)];
        for (at, value) in fields {
            self.packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
        }
        &self.packet
    }
}

/// Addresses of 198.19.0.0/16, without its broadcast address.
const ADDRESSES: u64 = 0xff00;
const FIRST_PORT: u16 = 1024;
/// Offsets in the packet.
const IP_ID: usize = 4;
const IP_SOURCE_LOW: usize = 14;
const TCP_SOURCE: usize = 20;
const TCP_SEQ: usize = 24;
