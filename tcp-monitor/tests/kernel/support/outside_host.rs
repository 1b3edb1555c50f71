//! Hosts outside of a namespace that exist only as packets: a trial says what each of them sends,
//! segment by segment.
//!
//! A tun device connects their network with the namespace. They make deterministic what two kernels
//! rarely do: an ACK that is not sent, FINs that cross, a RST in any state.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, ensure};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::support::{
    deadline,
    namespace::Namespace,
    packet_builder::{ACK, FIN, RST, SYN, Segment, Unreachable},
    priority,
    tun::tun,
};

/// The network of all outside hosts of a namespace. They reach the namespace at [`INSIDE_V4`] and
/// [`INSIDE_V6`].
pub(crate) struct OutsideNetwork {
    shared: Arc<Shared>,
    stop: Arc<OwnedFd>,
    reader: Option<JoinHandle<()>>,
    hosts: AtomicU32,
}

struct Shared {
    device: File,
    /// Segments that outside hosts received and no trial has read yet, by the host's and the other
    /// address.
    received: Mutex<HashMap<Ends, VecDeque<Segment>>>,
    changed: Condvar,
}

/// Address of an outside host, and that of the namespace.
type Ends = (SocketAddr, SocketAddr);

/// Addresses of the namespace on the device.
pub(crate) const INSIDE_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
pub(crate) const INSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 1);
const DEVICE: &str = "outside";

impl OutsideNetwork {
    pub(crate) fn new(namespace: &Namespace) -> Result<Self> {
        Self::behind(tun(namespace, DEVICE)?, DEVICE, namespace)
    }

    /// The same with a tun device of the caller, which is down.
    pub(crate) fn behind(device: File, name: &str, namespace: &Namespace) -> Result<Self> {
        namespace.ip(&format!("addr add {INSIDE_V4}/15 dev {name}"))?;
        namespace.ip(&format!("addr add {INSIDE_V6}/48 dev {name} nodad"))?;
        namespace.ip(&format!("link set {name} txqueuelen 10000 up"))?;
        let shared = Arc::new(Shared { device, received: Mutex::default(), changed: Condvar::new() });
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let reader = thread::spawn({
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            move || {
                let _ = priority::raise();
                shared.read(&stop);
            }
        });
        Ok(Self { shared, stop, reader: Some(reader), hosts: AtomicU32::new(0) })
    }

    /// Sends a packet of any outside host.
    pub(crate) fn send(&self, packet: &[u8]) {
        self.shared.send(packet);
    }

    /// A host with an address of its own, for a connection to `here`.
    pub(crate) fn new_host(&self, here: SocketAddr, first_seq: u32) -> OutsideHost<'_> {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed);
        let [_, high, middle, low] = number.to_be_bytes();
        let ip: IpAddr = match here.ip() {
            IpAddr::V4(_) => Ipv4Addr::new(198, 19, middle, low).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0x18, 1, 0, 0, number as u16, 1).into(),
        };
        let ends = (SocketAddr::new(ip, 20_000 + u16::from(high)), here);
        self.shared.lock().insert(ends, VecDeque::new());
        OutsideHost { shared: &self.shared, ends, seq: first_seq, ack: 0 }
    }

    /// An address that never answers.
    pub(crate) fn silent(&self, port: u16) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::new(198, 18, SILENT, 1).into(), port)
    }

    /// An address that a router reports as unreachable.
    pub(crate) fn unreachable(&self, why: Unreachable, port: u16) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::new(198, 18, ROUTED + why as u8, 1).into(), port)
    }
}

impl Drop for OutsideNetwork {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Shared {
    fn read(&self, stop: &OwnedFd) {
        let mut device = &self.device;
        let mut packet = vec![0; 1 << 16];
        loop {
            let mut ready = [PollFd::new(stop, PollFlags::IN), PollFd::new(device, PollFlags::IN)];
            if poll(&mut ready, None).is_err() || !ready[0].revents().is_empty() {
                return;
            }
            if let Ok(count) = device.read(&mut packet) {
                self.receive(&packet[..count]);
            }
        }
    }

    fn receive(&self, packet: &[u8]) {
        let Some((from, to, segment)) = Segment::parse(packet) else { return };
        if let Some(error) = unreachable(to.ip()).and_then(|why| why.packet(packet)) {
            self.send(&error);
        }
        if let Some(received) = self.lock().get_mut(&(to, from)) {
            received.push_back(segment);
            self.changed.notify_all();
        }
    }

    /// A packet is lost when the device is removed.
    fn send(&self, packet: &[u8]) {
        let _ = (&self.device).write(packet);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ends, VecDeque<Segment>>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the router answers for an address.
fn unreachable(ip: IpAddr) -> Option<Unreachable> {
    let IpAddr::V4(ip) = ip else { return None };
    let [198, 18, third, _] = ip.octets() else { return None };
    [Unreachable::Net, Unreachable::Host, Unreachable::Port]
        .into_iter()
        .find(|why| third == ROUTED + *why as u8)
}

/// One end of a connection, played by a trial.
pub(crate) struct OutsideHost<'a> {
    shared: &'a Shared,
    ends: Ends,
    /// The next number it sends.
    pub(crate) seq: u32,
    /// The next number it expects.
    pub(crate) ack: u32,
}

impl OutsideHost<'_> {
    pub(crate) fn address(&self) -> SocketAddr {
        self.ends.0
    }

    /// Sends this segment.
    pub(crate) fn send(&self, segment: Segment) {
        self.shared.send(&self.packet(segment));
    }

    /// The packet with which it would send this segment.
    pub(crate) fn packet(&self, segment: Segment) -> Vec<u8> {
        segment.packet(self.ends.0, self.ends.1)
    }

    /// Whether a SYN-ACK was received by now. If so, continues from it.
    pub(crate) fn has_syn_ack(&mut self) -> bool {
        let received = self.shared.lock().get_mut(&self.ends).and_then(VecDeque::pop_front);
        let Some(answer) = received.filter(|segment| segment.flags & (SYN | ACK) == SYN | ACK) else {
            return false;
        };
        self.seq = answer.ack;
        self.ack = answer.seq.wrapping_add(1);
        true
    }

    pub(crate) fn syn(&self) {
        self.send(Segment::new(SYN, self.seq, 0));
    }

    /// SYN, and the SYN-ACK that answers it.
    pub(crate) fn open(&mut self) -> Result<()> {
        self.syn();
        self.await_syn_ack()
    }

    pub(crate) fn await_syn_ack(&mut self) -> Result<()> {
        let answer = self.await_segment("a SYN-ACK", |segment| segment.flags & (SYN | ACK) == SYN | ACK)?;
        let next = self.seq.wrapping_add(1);
        ensure!(answer.ack == next, "{answer:?} does not answer the SYN before {next}");
        self.seq = next;
        self.ack = answer.seq.wrapping_add(1);
        Ok(())
    }

    /// Acknowledges all that was received.
    pub(crate) fn acknowledge(&self) {
        self.send(Segment::new(ACK, self.seq, self.ack));
    }

    pub(crate) fn data(&mut self, len: usize) {
        self.send(Segment { flags: ACK, seq: self.seq, ack: self.ack, len });
        self.seq = self.seq.wrapping_add(len as u32);
    }

    /// Sends a FIN that acknowledges all that was received.
    pub(crate) fn fin(&mut self) {
        self.send(Segment::new(FIN | ACK, self.seq, self.ack));
        self.seq = self.seq.wrapping_add(1);
    }

    /// Sends a RST that the other end must accept.
    pub(crate) fn rst(&self) {
        self.send(Segment::new(RST | ACK, self.seq, self.ack));
    }

    /// Waits for the other end's FIN. What is sent next acknowledges it.
    pub(crate) fn await_fin(&mut self) -> Result<()> {
        let fin = self.await_segment("a FIN", |segment| segment.flags & FIN != 0)?;
        self.ack = fin.seq.wrapping_add(fin.len as u32 + 1);
        Ok(())
    }

    pub(crate) fn await_rst(&self) -> Result<Segment> {
        self.await_segment("a RST", |segment| segment.flags & RST != 0)
    }

    /// Waits for the acknowledgement of all that it sent.
    pub(crate) fn await_acknowledgement(&self) -> Result<()> {
        let seq = self.seq;
        self.await_segment("an ACK", |segment| segment.flags & ACK != 0 && segment.ack == seq)?;
        Ok(())
    }

    /// Waits for a segment for which `is_it` is true, and drops those received before it.
    pub(crate) fn await_segment(&self, what: &str, is_it: impl Fn(&Segment) -> bool) -> Result<Segment> {
        let mut seen = Vec::new();
        let found = deadline::wait_for(&self.shared.changed, self.shared.lock(), |received| {
            while let Some(segment) = received.get_mut(&self.ends)?.pop_front() {
                seen.push(segment);
                if is_it(&segment) {
                    return Some(segment);
                }
            }
            None
        });
        found.with_context(|| format!("{:?} waited for {what}, and received {seen:#?}", self.ends))
    }
}

impl Drop for OutsideHost<'_> {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.ends);
    }
}

/// Third byte of the addresses that never answer.
const SILENT: u8 = 100;
/// Third byte of the addresses that a router answers for, less the ICMP code.
const ROUTED: u8 = 200;
