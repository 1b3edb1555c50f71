//! A link between two namespaces that a trial controls: two tun devices, and a thread that forwards
//! packets between them, holds them or drops one.
//!
//! It makes deterministic what depends on timing elsewhere: that two FINs cross, that one segment
//! is lost.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::support::{deadline, namespace::Namespace, priority, tun::tun};

/// Two namespaces, `client` at 198.51.100.1 and `server` at 198.51.100.2 (RFC 5737), and the link.
pub(crate) struct ControlledLink {
    pub(crate) client: Arc<Namespace>,
    pub(crate) server: Arc<Namespace>,
    shared: Arc<Shared>,
    stop: Arc<OwnedFd>,
    forwarder: Option<JoinHandle<()>>,
}

/// Name of the device in either namespace.
pub(crate) const DEVICE: &str = "link0";
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// The direction of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

/// A segment that is to be lost: its direction, its flags out of SYN, FIN and RST, and whether it
/// carries data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loss {
    pub(crate) direction: Direction,
    pub(crate) flags: u8,
    pub(crate) data: bool,
}

#[derive(Default)]
struct State {
    holding: bool,
    held: VecDeque<(Direction, Vec<u8>)>,
    loss: Option<Loss>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The devices: the client's, the server's.
    devices: [File; 2],
}

impl ControlledLink {
    pub(crate) fn new() -> Result<Self> {
        let (client, server) = (Arc::new(Namespace::new()?), Arc::new(Namespace::new()?));
        let devices = [end(&client, CLIENT, SERVER)?, end(&server, SERVER, CLIENT)?];
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), devices });
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let forwarder = thread::spawn({
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            move || {
                // A forwarder that waits for a busy CPU makes the kernel retransmit.
                let _ = priority::raise();
                shared.forward_all(&stop);
            }
        });
        Ok(Self { client, server, shared, stop, forwarder: Some(forwarder) })
    }

    pub(crate) fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(SERVER), port)
    }

    /// From now on, connections over the link retransmit nothing for 20 s, so that packets may be
    /// held for long. SYNs and SYN-ACKs are retransmitted after 1 s all the same.
    pub(crate) fn postpone_retransmissions(&self) -> Result<()> {
        for (namespace, local, remote) in [(&self.client, CLIENT, SERVER), (&self.server, SERVER, CLIENT)] {
            // Tail loss probes have a timer of their own.
            namespace.set("net/ipv4/tcp_early_retrans", "0")?;
            namespace.ip(&format!(
                "route change {remote} dev {DEVICE} proto kernel scope link src {local} rto_min 20s"
            ))?;
        }
        Ok(())
    }

    /// From now on, packets are held.
    pub(crate) fn hold(&self) {
        self.shared.lock().holding = true;
    }

    /// Delivers the packets held so far; later ones are held.
    pub(crate) fn deliver_held(&self) {
        self.shared.deliver_held(&mut self.shared.lock());
    }

    /// Delivers the packets held so far, and all later ones.
    pub(crate) fn release(&self) {
        let mut state = self.shared.lock();
        state.holding = false;
        self.shared.deliver_held(&mut state);
    }

    /// The next such segment is lost.
    pub(crate) fn lose(&self, loss: Loss) {
        self.shared.lock().loss = Some(loss);
    }

    /// Waits for the loss of that segment.
    pub(crate) fn await_loss(&self) -> Result<()> {
        deadline::wait_for(&self.shared.changed, self.shared.lock(), |state| {
            state.loss.is_none().then_some(())
        })
        .context("waited for the segment that is to be lost")
    }

    /// Waits until both ends have no sockets but those in TIME_WAIT.
    pub(crate) fn await_no_traffic(&self, port: u16) -> Result<()> {
        self.client.await_no_traffic(port)?;
        self.server.await_no_traffic(port)
    }
}

impl Drop for ControlledLink {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(forwarder) = self.forwarder.take() {
            let _ = forwarder.join();
        }
    }
}

impl Shared {
    fn forward_all(&self, stop: &OwnedFd) {
        let [client, server] = &self.devices;
        let mut packet = vec![0; 1 << 16];
        loop {
            let mut ready = [
                PollFd::new(stop, PollFlags::IN),
                PollFd::new(client, PollFlags::IN),
                PollFd::new(server, PollFlags::IN),
            ];
            if poll(&mut ready, None).is_err() || !ready[0].revents().is_empty() {
                return;
            }
            let from_client = ready[1].revents().contains(PollFlags::IN);
            let from_server = ready[2].revents().contains(PollFlags::IN);
            for (is_ready, mut device, direction) in
                [(from_client, client, Direction::ToServer), (from_server, server, Direction::ToClient)]
            {
                if is_ready && let Ok(count) = device.read(&mut packet) {
                    self.forward(direction, &packet[..count]);
                }
            }
        }
    }

    fn forward(&self, direction: Direction, packet: &[u8]) {
        let mut state = self.lock();
        if state.loss.is_some_and(|loss| loss.is_of(direction, packet)) {
            state.loss = None;
            self.changed.notify_all();
        } else if state.holding {
            state.held.push_back((direction, packet.to_vec()));
        } else {
            self.deliver(direction, packet);
        }
    }

    fn deliver_held(&self, state: &mut State) {
        for (direction, packet) in state.held.drain(..) {
            self.deliver(direction, &packet);
        }
    }

    fn deliver(&self, direction: Direction, packet: &[u8]) {
        let [client, server] = &self.devices;
        let mut device = match direction {
            Direction::ToServer => server,
            Direction::ToClient => client,
        };
        // A device that is down loses the packet.
        let _ = device.write(packet);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loss {
    fn is_of(self, direction: Direction, packet: &[u8]) -> bool {
        tcp_of(packet).is_some_and(|(flags, len)| {
            direction == self.direction && flags & CONTROLS == self.flags && (len > 0) == self.data
        })
    }
}

/// Flags and payload length of an IPv4 packet that carries TCP.
fn tcp_of(packet: &[u8]) -> Option<(u8, usize)> {
    if packet.first()? >> 4 != 4 || *packet.get(9)? != IPPROTO_TCP {
        return None;
    }
    let segment = packet.get(usize::from(packet[0] & 0xf) * 4..)?;
    let header = usize::from(segment.get(12)? >> 4) * 4;
    Some((*segment.get(13)?, segment.len().checked_sub(header)?))
}

const IPPROTO_TCP: u8 = 6;
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 1 << 1;
const RST: u8 = 1 << 2;
const CONTROLS: u8 = FIN | SYN | RST;

/// Creates one end of the link.
fn end(namespace: &Namespace, local: Ipv4Addr, remote: Ipv4Addr) -> Result<File> {
    let device = tun(namespace, DEVICE)?;
    namespace.ip(&format!("addr add {local} peer {remote} dev {DEVICE}"))?;
    namespace.ip(&format!("link set {DEVICE} up"))?;
    Ok(device)
}
