//! Segments: most of them continue those before, some have impossible flags or numbers.

use tcp_monitor::lifecycle::segment::{Flags, Options};
use tcp_monitor::lifecycle::{SegmentInput, TcpHeader, Time};
use tcp_monitor_common::record::Direction;

use super::Script;
use super::scene::Connection;

/// What an end has sent.
pub(crate) struct Stream {
    isn: u32,
    /// Next sequence number.
    next: u32,
}

impl Stream {
    pub(crate) fn new(isn: u32) -> Self {
        Self { isn, next: isn }
    }

    pub(crate) fn next(&self) -> u32 {
        self.next
    }
}

impl Connection {
    /// The segment that an end sends.
    pub(crate) fn send(&mut self, from: usize, time: Time, script: &mut Script<'_>) -> SegmentInput {
        let flags = flags(script);
        let numbers = script.byte();
        let payload_len = [0, 0, 1, 100][usize::from(numbers & 3)];
        let [syn, fin] = [Flags::SYN, Flags::FIN].map(|flag| flags.contains(flag));
        let receiver = self.streams[1 - from].next;
        let sender = &mut self.streams[from];
        if syn && numbers & 128 != 0 {
            // A new connection.
            sender.isn = sender.next.wrapping_add(1 << 20);
            sender.next = sender.isn;
        }
        let space = payload_len + u32::from(syn) + u32::from(fin);
        let (seq, ack) = match numbers >> 2 & 7 {
            // Retransmitted.
            0 => (sender.next.wrapping_sub(space), receiver),
            // Off by at most 128.
            1 => (sender.next.wrapping_add(u32::from(script.byte())).wrapping_sub(128), receiver),
            2 => (sender.next, receiver.wrapping_add(u32::from(script.byte())).wrapping_sub(128)),
            3 => (script.u32(), script.u32()),
            _ if syn && sender.next != sender.isn => (sender.isn, receiver),
            _ => {
                let seq = sender.next;
                sender.next = seq.wrapping_add(space);
                (seq, receiver)
            }
        };
        let scene = script.byte();
        SegmentInput {
            time,
            netns: self.netns,
            ifindex: u32::from(scene & 1) + 1,
            direction: [None, Some(Direction::Ingress), Some(Direction::Egress), None]
                [usize::from(scene >> 1 & 3)],
            src: self.ends[from],
            dst: self.ends[1 - from],
            header: TcpHeader {
                src_port: self.ends[from].port(),
                dst_port: self.ends[1 - from].port(),
                seq,
                ack,
                flags,
                window: [501, 0, 65_535, 1][usize::from(scene >> 3 & 3)],
                header_len: 20,
                options: Options {
                    window_scale: (scene & 32 != 0).then_some(scene >> 2),
                    ..Options::default()
                },
                ..TcpHeader::default()
            },
            payload_len,
            acks_syn_ack: scene & 64 != 0,
            acks_fin: scene & 128 != 0,
            syn_cookie: numbers & 64 != 0,
            frame: None,
        }
    }
}

fn flags(script: &mut Script<'_>) -> Flags {
    let [ack, fin, syn, rst] = [Flags::ACK, Flags::FIN, Flags::SYN, Flags::RST];
    let usual = [ack, ack, ack, fin.union(ack), fin.union(ack), syn, syn.union(ack), rst, rst.union(ack)];
    match script.byte() {
        byte if byte < 224 => usual[usize::from(byte) % usual.len()],
        _ => Flags::from_low_byte(script.byte()),
    }
}
