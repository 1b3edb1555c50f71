//! The cost of a SYN on a running agent, in hash table look-ups.

use tcp_monitor_common::TcpState::{Close, SynSent};

use super::script::{Script, client, syn};
use crate::lifecycle::{InferFrom, Options, SegmentInput, SocketInput, lookups};
use tcp_monitor_common::record::Direction;

fn script() -> Script {
    Script::with(Options { infer_from: InferFrom::ControlSegments, ..Options::default() })
}

/// The look-ups that a segment costs.
fn cost(script: &mut Script, segment: SegmentInput) -> u32 {
    lookups::take();
    script.segment(segment);
    lookups::take()
}

#[test]
fn an_ingress_syn_costs_at_most_four_lookups() {
    assert!(cost(&mut script(), syn(0)) <= 4);
}

#[test]
fn a_syn_of_a_socket_whose_port_was_not_known_costs_at_most_four_lookups() {
    let mut script = script();
    let mut connecting = client(0, Close, SynSent);
    connecting.local.set_port(0);
    script.socket(SocketInput { ..connecting });
    let egress = SegmentInput { direction: Some(Direction::Egress), ..syn(0) };
    assert!(cost(&mut script, egress) <= 4);
    assert_eq!(script.reported().len(), 1, "its SYN_SENT is reported with its port");
}

#[test]
fn a_syn_that_several_network_namespaces_see_costs_at_most_four_lookups_in_each() {
    let mut script = script();
    for (netns, direction) in [(1, Direction::Ingress), (1, Direction::Egress), (2, Direction::Ingress)] {
        let segment = SegmentInput { netns, ifindex: netns + 2, direction: Some(direction), ..syn(0) };
        assert!(cost(&mut script, segment) <= 4, "{netns} {direction:?}");
    }
}
