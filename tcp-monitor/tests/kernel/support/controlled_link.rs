//! A cable between two namespaces that a test can cut: two tun devices, and a thread that carries packets between them.
//!
//! It makes deterministic what is a matter of luck elsewhere: that two FINs cross, that one segment is lost.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use anyhow::{Result, ensure};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::support::{line_reader::DEADLINE, namespace::Namespace, tun::tun};

/// Two namespaces, `client` at 198.51.100.1 and `server` at 198.51.100.2 (RFC 5737), and the cable.
pub(crate) struct ControlledLink {
    pub(crate) client: Arc<Namespace>,
    pub(crate) server: Arc<Namespace>,
    shared: Arc<Shared>,
    stop: Arc<OwnedFd>,
    carrier: Option<JoinHandle<()>>,
}

/// Name of the device in either namespace.
pub(crate) const DEVICE: &str = "wire0";
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// Which way a packet travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

/// A segment that is to be lost: its way, whether it carries data and which of the flags SYN, FIN and RST.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loss {
    pub(crate) way: Direction,
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
        let carrier = thread::spawn({
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            move || shared.carry(&stop)
        });
        Ok(Self { client, server, shared, stop, carrier: Some(carrier) })
    }

    pub(crate) fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(SERVER), port)
    }

    /// From now on, nothing arrives.
    pub(crate) fn hold(&self) {
        self.shared.lock().holding = true;
    }

    /// Delivers what was held until now; what comes from now on is held.
    pub(crate) fn deliver_held(&self) {
        self.shared.deliver_held(&mut self.shared.lock());
    }

    /// Delivers what was held, and everything from now on.
    pub(crate) fn release(&self) {
        let mut state = self.shared.lock();
        state.holding = false;
        self.shared.deliver_held(&mut state);
    }

    /// The next segment that is like this is lost.
    pub(crate) fn lose(&self, loss: Loss) {
        self.shared.lock().loss = Some(loss);
    }

    /// Awaits the loss that was asked for.
    pub(crate) fn await_loss(&self) -> Result<()> {
        let waiting = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), DEADLINE, |state| state.loss.is_some());
        let (state, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        ensure!(state.loss.is_none(), "no segment came that was like {:?}", state.loss);
        Ok(())
    }

    /// Nothing but TIME_WAIT is left at either end.
    pub(crate) fn await_no_traffic(&self, port: u16) -> Result<()> {
        self.client.await_no_traffic(port)?;
        self.server.await_no_traffic(port)
    }
}

impl Drop for ControlledLink {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
    }
}

impl Shared {
    fn carry(&self, stop: &OwnedFd) {
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
            for (is_ready, mut device, way) in
                [(from_client, client, Direction::ToServer), (from_server, server, Direction::ToClient)]
            {
                if is_ready && let Ok(count) = device.read(&mut packet) {
                    self.pass(way, &packet[..count]);
                }
            }
        }
    }

    fn pass(&self, way: Direction, packet: &[u8]) {
        let mut state = self.lock();
        if state.loss.is_some_and(|loss| loss.is_of(way, packet)) {
            state.loss = None;
            self.changed.notify_all();
        } else if state.holding {
            state.held.push_back((way, packet.to_vec()));
        } else {
            self.deliver(way, packet);
        }
    }

    fn deliver_held(&self, state: &mut State) {
        for (way, packet) in state.held.drain(..) {
            self.deliver(way, &packet);
        }
    }

    fn deliver(&self, way: Direction, packet: &[u8]) {
        let [client, server] = &self.devices;
        let mut device = match way {
            Direction::ToServer => server,
            Direction::ToClient => client,
        };
        // A device that is down loses the packet, as a cable would.
        let _ = device.write(packet);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loss {
    fn is_of(self, way: Direction, packet: &[u8]) -> bool {
        tcp_of(packet).is_some_and(|(flags, len)| {
            way == self.way && flags & CONTROLS == self.flags && (len > 0) == self.data
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

/// Makes one end of the cable.
fn end(namespace: &Namespace, local: Ipv4Addr, remote: Ipv4Addr) -> Result<File> {
    let device = tun(namespace, DEVICE)?;
    namespace.ip(&format!("addr add {local} peer {remote} dev {DEVICE}"))?;
    namespace.ip(&format!("link set {DEVICE} up"))?;
    Ok(device)
}
