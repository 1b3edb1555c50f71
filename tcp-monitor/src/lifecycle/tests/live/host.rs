//! A host with its network namespaces: each segment in a line, seen wherever it passes.

use std::net::SocketAddr;

use tcp_monitor_common::record::Direction;

use crate::lifecycle::segment::Flags;
use crate::lifecycle::tests::script::{Script, at, client_addr, from_client, from_server, server_addr};
use crate::lifecycle::{Event, InferFrom, Options, SegmentInput, SocketInput, Tracker};

/// Segments in, 1 ms apart, and what is told of them.
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
    /// Where segments from the client pass, and those from the server.
    pub(in crate::lifecycle::tests) fn new(to_server: &'static [Hop], to_client: &'static [Hop]) -> Self {
        let options = Options { infer_from: InferFrom::ControlSegments, ..Options::default() };
        Self { script: Script::with(options), now: 0, to_server, to_client }
    }

    /// The server is here.
    pub(in crate::lifecycle::tests) fn with_server() -> Self {
        Self::new(&[(1, 2, IN)], &[(1, 2, OUT)])
    }

    /// Neither end is here: a router.
    pub(in crate::lifecycle::tests) fn router() -> Self {
        Self::new(&[(1, 2, IN), (1, 3, OUT)], &[(1, 3, IN), (1, 2, OUT)])
    }

    /// The client sends a segment, its numbers relative to the start.
    pub(in crate::lifecycle::tests) fn client(&mut self, flags: Flags, seq: u32, ack: u32) {
        self.see(from_client(0, flags, seq, ack), self.to_server);
    }

    pub(in crate::lifecycle::tests) fn server(&mut self, flags: Flags, seq: u32, ack: u32) {
        self.see(from_server(0, flags, seq, ack), self.to_client);
    }

    /// The ACK that answers a SYN-ACK, which only the first interface hands over.
    pub(in crate::lifecycle::tests) fn client_acks_syn_ack(&mut self) {
        let ack = SegmentInput { acks_syn_ack: true, ..from_client(0, Flags::ACK, 1, 1) };
        self.see(ack, &self.to_server[..1]);
    }

    /// The ACK that answers a FIN, which only the first interface hands over.
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

    /// The kernel tells of a socket, with what happened right before.
    pub(in crate::lifecycle::tests) fn socket(&mut self, input: SocketInput) {
        self.script.socket(SocketInput { time: at(self.now.saturating_sub(1)), ..input });
    }

    /// Nothing is seen until `ms`.
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

    /// What was told since the last call, segments left out, addresses as `client` and `server`.
    pub(in crate::lifecycle::tests) fn told(&mut self) -> Vec<String> {
        let names = [(client_addr(), "client"), (server_addr(), "server"), (router_addr(), "router")];
        let name = |line: String| {
            names.iter().fold(line, |line, (address, name)| line.replace(&address.to_string(), name))
        };
        self.script.told().into_iter().map(name).collect()
    }
}

/// Under which the client is known behind a router that translates addresses.
pub(in crate::lifecycle::tests) fn router_addr() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 61_000))
}
