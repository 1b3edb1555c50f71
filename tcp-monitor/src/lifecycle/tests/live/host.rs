//! A host with its network namespaces: each segment is one line, observed at every interface that
//! it passes.

use std::net::SocketAddr;

use tcp_monitor_common::record::Direction;

use crate::lifecycle::segment::Flags;
use crate::lifecycle::tests::script::{Script, at, client_addr, from_client, from_server, server_addr};
use crate::lifecycle::{Event, InferFrom, Options, SegmentInput, SocketInput, Tracker};

/// Passes segments to the tracker, 1 ms apart, and returns the events.
pub(in crate::lifecycle::tests) struct Host {
    script: Script,
    now: u64,
    to_server: &'static [Hop],
    to_client: &'static [Hop],
}

/// An interface that a segment passes: network namespace, index, and which way.
pub(in crate::lifecycle::tests) type Hop = (u32, u32, Direction);

pub(in crate::lifecycle::tests) const IN: Direction = Direction::Ingress;
pub(in crate::lifecycle::tests) const OUT: Direction = Direction::Egress;

pub(in crate::lifecycle::tests) const FIN: Flags = Flags::FIN.union(Flags::ACK);
pub(in crate::lifecycle::tests) const RST: Flags = Flags::RST;
pub(in crate::lifecycle::tests) const RST_ACK: Flags = Flags::RST.union(Flags::ACK);
pub(in crate::lifecycle::tests) const SYN: Flags = Flags::SYN;
pub(in crate::lifecycle::tests) const SYN_ACK: Flags = Flags::SYN.union(Flags::ACK);

impl Host {
    /// The interfaces that segments from the client pass, and those that segments from the server
    /// pass.
    pub(in crate::lifecycle::tests) fn new(to_server: &'static [Hop], to_client: &'static [Hop]) -> Self {
        let options = Options { infer_from: InferFrom::ControlSegments, ..Options::default() };
        Self { script: Script::with(options), now: 0, to_server, to_client }
    }

    /// The server is on this host.
    pub(in crate::lifecycle::tests) fn with_server() -> Self {
        Self::new(&[(1, 2, IN)], &[(1, 2, OUT)])
    }

    /// A router: neither end is on this host.
    pub(in crate::lifecycle::tests) fn router() -> Self {
        Self::new(&[(1, 2, IN), (1, 3, OUT)], &[(1, 3, IN), (1, 2, OUT)])
    }

    /// The client sends a segment. Its numbers are relative to the initial sequence numbers.
    pub(in crate::lifecycle::tests) fn client(&mut self, flags: Flags, seq: u32, ack: u32) {
        self.see(from_client(0, flags, seq, ack), self.to_server);
    }

    pub(in crate::lifecycle::tests) fn server(&mut self, flags: Flags, seq: u32, ack: u32) {
        self.see(from_server(0, flags, seq, ack), self.to_client);
    }

    /// The ACK of a SYN-ACK. Only the first interface reports it.
    pub(in crate::lifecycle::tests) fn client_acks_syn_ack(&mut self) {
        let ack = SegmentInput { acks_syn_ack: true, ..from_client(0, Flags::ACK, 1, 1) };
        self.see(ack, &self.to_server[..1]);
    }

    /// The ACK of a FIN. Only the first interface reports it.
    pub(in crate::lifecycle::tests) fn client_acks_fin(&mut self, seq: u32, ack: u32) {
        let ack = SegmentInput { acks_fin: true, ..from_client(0, Flags::ACK, seq, ack) };
        self.see(ack, &self.to_server[..1]);
    }

    pub(in crate::lifecycle::tests) fn server_acks_fin(&mut self, seq: u32, ack: u32) {
        let ack = SegmentInput { acks_fin: true, ..from_server(0, Flags::ACK, seq, ack) };
        self.see(ack, &self.to_client[..1]);
    }

    /// The segment passes all of these interfaces.
    pub(in crate::lifecycle::tests) fn see(&mut self, segment: SegmentInput, hops: &[Hop]) {
        for &(netns, ifindex, direction) in hops {
            let direction = Some(direction);
            self.script.segment(SegmentInput { time: at(self.now), netns, ifindex, direction, ..segment });
        }
        self.now += 1;
    }

    /// The kernel reports a socket event, at the time of the latest segment.
    pub(in crate::lifecycle::tests) fn socket(&mut self, input: SocketInput) {
        self.script.socket(SocketInput { time: at(self.now.saturating_sub(1)), ..input });
    }

    /// No input arrives until `ms`.
    pub(in crate::lifecycle::tests) fn wait_until(&mut self, ms: u64) {
        self.script.wait_until(ms);
        self.now = ms;
    }

    pub(in crate::lifecycle::tests) fn tracker(&self) -> &Tracker {
        self.script.tracker()
    }

    pub(in crate::lifecycle::tests) fn events(&mut self) -> Vec<Event> {
        self.script.events()
    }

    /// The events reported since the last call, except segments, with addresses as `client` and
    /// `server`.
    pub(in crate::lifecycle::tests) fn reported(&mut self) -> Vec<String> {
        let names = [(client_addr(), "client"), (server_addr(), "server"), (router_addr(), "router")];
        let name = |line: String| {
            names.iter().fold(line, |line, (address, name)| line.replace(&address.to_string(), name))
        };
        self.script.reported().into_iter().map(name).collect()
    }
}

/// The address that a router translates the client's to.
pub(in crate::lifecycle::tests) fn router_addr() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 61_000))
}
