//! Connections whose addresses this host translates (NAT).

use tcp_monitor_common::TcpState::{Established, Listen, SynRecv};

use super::host::{FIN, Hop, Host, IN, OUT, RST_ACK, SYN, SYN_ACK, router_addr};
use crate::lifecycle::segment::Flags;
use crate::lifecycle::tests::script::{from_client, from_server, server, server_addr};
use crate::lifecycle::{SegmentInput, SocketInput};

/// A router that hides clients behind its own address: the client is inside, on interface 2, the
/// server outside, on 3.
struct Masquerade(Host);

impl Masquerade {
    fn new() -> Self {
        Self(Host::new(&[(1, 2, IN)], &[(1, 2, OUT)]))
    }

    fn client(&mut self, flags: Flags, seq: u32, ack: u32) {
        let segment = from_client(0, flags, seq, ack);
        self.0.see(segment, &[(1, 2, IN)]);
        self.0.see(SegmentInput { src: router_addr(), ..segment }, &[(1, 3, OUT)]);
    }

    fn server(&mut self, flags: Flags, seq: u32, ack: u32) {
        let segment = from_server(0, flags, seq, ack);
        self.0.see(SegmentInput { dst: router_addr(), ..segment }, &[(1, 3, IN)]);
        self.0.see(segment, &[(1, 2, OUT)]);
    }

    /// The first such ACK of either side is reported.
    fn client_acks(&mut self, mut segment: SegmentInput) {
        self.0.see(segment, &[(1, 2, IN)]);
        segment.src = router_addr();
        self.0.see(segment, &[(1, 3, OUT)]);
    }
}

#[test]
fn a_masqueraded_connection_is_reported_with_its_original_addresses() {
    let mut router = Masquerade::new();
    router.client(SYN, 0, 0);
    router.server(SYN_ACK, 0, 1);
    router.client_acks(SegmentInput { acks_syn_ack: true, ..from_client(0, Flags::ACK, 1, 1) });
    assert_eq!(
        router.0.reported(),
        [
            "3 client server close>syn_sent segment",
            "3 server client listen>syn_recv segment",
            "4 client server syn_sent>established segment after 4 ms",
            "4 client handshake completed in 4 ms",
            "4 server client syn_recv>established segment after 1 ms",
            "4 server handshake completed in 4 ms",
        ]
    );
    router.0.wait_until(1_000_000);
    router.server(FIN, 5_000, 300);
    router.client(FIN, 300, 5_001);
    let reported = router.0.reported();
    assert!(reported.iter().all(|line| !line.contains("router")), "{reported:#?}");
    assert_eq!(reported.len(), 4, "{reported:#?}");
}

#[test]
fn a_masqueraded_connection_that_is_refused_is_not_reported_as_no_listener() {
    let mut router = Masquerade::new();
    router.client(SYN, 0, 0);
    router.server(RST_ACK, 0, 1);
    let reported = router.0.reported();
    assert_eq!(
        reported.last().map(String::as_str),
        Some("3 client handshake refused in 3 ms"),
        "{reported:#?}"
    );
    assert!(reported.iter().all(|line| !line.contains("no_listener")), "{reported:#?}");
}

/// A port of the host that is published for a container: outside on interface 2, the container on
/// 7.
const OUTSIDE: &[Hop] = &[(1, 2, IN)];
const INSIDE: &[Hop] = &[(1, 7, OUT), (2, 2, IN)];

#[test]
fn a_request_to_a_published_port_is_reported_for_the_container_alone() {
    let published = router_addr();
    let mut host = Host::new(OUTSIDE, &[]);
    let syn = from_client(0, SYN, 0, 0);
    host.see(SegmentInput { dst: published, ..syn }, OUTSIDE);
    host.see(syn, INSIDE);
    let syn_ack = from_server(0, SYN_ACK, 0, 1);
    host.see(syn_ack, &[(2, 2, OUT), (1, 7, IN)]);
    host.see(SegmentInput { src: published, ..syn_ack }, &[(1, 2, OUT)]);
    let ack = SegmentInput { acks_syn_ack: true, ..from_client(0, Flags::ACK, 1, 1) };
    host.see(SegmentInput { dst: published, ..ack }, OUTSIDE);
    host.see(ack, &INSIDE[..1]);
    let inside = |input: SocketInput| SocketInput { netns: 2, ..input };
    host.socket(inside(server(0, Listen, SynRecv)));
    host.socket(inside(server(0, SynRecv, Established)));
    assert_eq!(
        host.reported(),
        [
            "2 server client listen>syn_recv segment",
            "5 server client syn_recv>established kernel after 3 ms",
            "5 server handshake completed in 4 ms",
        ],
        "of {}",
        server_addr()
    );
    host.wait_until(1_000_000);
    assert_eq!((host.reported(), host.tracker().inferred()), (vec![], 0));
}
