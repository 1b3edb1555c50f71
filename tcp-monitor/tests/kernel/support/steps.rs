//! Which packets of a capture are steps of a handshake or a teardown, found from the capture alone:
//! these, and no others, the agent must print.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::support::tshark_packet::{ACK, FIN, Packet, RST, SYN};

/// A packet and the step that it is.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) packet: Packet,
    /// As in the agent's `step`.
    pub(crate) name: &'static str,
    /// The SYN or SYN-ACK of this direction was seen before, so relative sequence numbers have
    /// their zero.
    pub(crate) seq_start_seen: bool,
    /// The same of the other direction, for the acknowledgement.
    pub(crate) ack_start_seen: bool,
}

/// The steps among `packets`, in order.
///
/// A segment with SYN, FIN or RST is a step. A segment without is one if it is the first of its
/// direction to acknowledge the peer's SYN-ACK or FIN.
pub(crate) fn steps(packets: &[Packet]) -> Vec<Step> {
    let mut connections: BTreeMap<u32, Connection> = BTreeMap::new();
    packets.iter().filter_map(|packet| connections.entry(packet.stream).or_default().pass(packet)).collect()
}

/// What was seen of one connection.
#[derive(Default)]
struct Connection {
    started: Vec<SocketAddr>,
    /// Who must send which acknowledgement, and the step it is.
    awaited: Vec<(SocketAddr, u32, &'static str)>,
}

impl Connection {
    fn pass(&mut self, packet: &Packet) -> Option<Step> {
        let acknowledges = if packet.has(ACK) { self.take(packet) } else { None };
        if packet.has(SYN) && !self.started.contains(&packet.src) {
            self.started.push(packet.src);
        }
        let name = if packet.has(RST) {
            "rst"
        } else if packet.has(SYN) && packet.has(ACK) {
            self.expect(packet, "handshake_ack");
            "syn_ack"
        } else if packet.has(SYN) {
            "syn"
        } else if packet.has(FIN) {
            self.expect(packet, "ack_of_fin");
            "fin"
        } else {
            acknowledges?
        };
        Some(Step {
            packet: packet.clone(),
            name,
            seq_start_seen: self.started.contains(&packet.src),
            ack_start_seen: self.started.contains(&packet.dst),
        })
    }

    fn expect(&mut self, packet: &Packet, step: &'static str) {
        let awaited = (packet.dst, packet.end(), step);
        if !self.awaited.contains(&awaited) {
            self.awaited.push(awaited);
        }
    }

    fn take(&mut self, packet: &Packet) -> Option<&'static str> {
        let at = self.awaited.iter().position(|(by, ack, _)| (*by, *ack) == (packet.src, packet.ack))?;
        Some(self.awaited.swap_remove(at).2)
    }
}

/// Each connection's steps as one line: `c:syn s:syn_ack c:handshake_ack …`, `c` and `s` being
/// client and server.
pub(crate) fn lifecycles(steps: &[Step], port: u16) -> Vec<String> {
    let mut lines: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for step in steps {
        let side = if step.packet.src.port() == port { 's' } else { 'c' };
        lines.entry(step.packet.stream).or_default().push(format!("{side}:{}", step.name));
    }
    lines.into_values().map(|words| words.join(" ")).collect()
}
