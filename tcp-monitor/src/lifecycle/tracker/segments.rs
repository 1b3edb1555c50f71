//! What the tracker does with a segment.

use std::net::SocketAddr;

use tcp_monitor_common::TcpState;

use super::Tracker;
use crate::lifecycle::event::{ClosedBy, Event, EventKind, Evidence, Segment, Step};
use crate::lifecycle::flow::Numbers;
use crate::lifecycle::inference::{Inference, Reading};
use crate::lifecycle::input::SegmentInput;
use crate::lifecycle::segment::Flags;
use crate::lifecycle::sighting::{Seen, Verdict, occupies_sequence_space};
use crate::lifecycle::waiting::Addresses;

impl Tracker {
    pub(super) fn handle_segment(&mut self, segment: &SegmentInput, out: &mut Vec<Event>) {
        let first = out.len();
        self.take_segment(segment, out);
        if segment.frame.is_some() {
            out.iter_mut().skip(first).for_each(|event| event.frame = segment.frame);
        }
    }

    fn take_segment(&mut self, segment: &SegmentInput, out: &mut Vec<Event>) {
        let inference = self.inference.as_ref().filter(|inference| inference.is_whole());
        let recognized = inference.map(|inference| inference.recognize(segment));
        let segment = recognized.as_ref().unwrap_or(segment);
        let Some(step) = step_of(segment) else {
            self.infer(segment, None, out);
            return;
        };
        if step == Step::Syn {
            self.learn_port(segment, out);
        }
        let is_whole = self.inference.as_ref().is_some_and(Inference::is_whole);
        // Where all is inferred, as of a capture, only sockets need what is known of a flow, if there are any.
        let needs_flow = !is_whole || self.sockets() > 0;
        let numbers = if needs_flow { self.flows.observe(segment, step) } else { Numbers::default() };
        let seen = self.sightings.see(segment, step);
        let verdict = seen.verdict;
        if verdict == Verdict::Copy {
            self.identities.join(segment.netns, seen.first.netns, segment.src, segment.dst, segment.time);
        }
        if verdict != Verdict::Copy {
            // What follows from the segment is told after it.
            let place = out.len();
            let reading =
                self.infer(segment, Some(step), out).unwrap_or(Reading { numbers, unexpected: None });
            let told = Segment {
                src: segment.src,
                dst: segment.dst,
                header: segment.header,
                payload_len: segment.payload_len,
                seq_rel: reading.numbers.relative.seq,
                ack_rel: reading.numbers.relative.ack,
                ifindex: segment.ifindex,
                direction: segment.direction,
                step,
                syn_cookie: segment.syn_cookie,
                retransmission: verdict == Verdict::Again && occupies_sequence_space(segment),
                unexpected: reading.unexpected,
                check: reading.numbers.check,
            };
            let event = Event::new(segment.time, EventKind::Segment(told));
            out.insert(place, Event { netns: segment.netns, ..event });
        }
        self.affect_waiting(segment, step, out);
        self.sight(segment, step, &seen, out);
    }

    /// Infers what a segment does to those of its ends whose socket the kernel does not tell of, where all segments are seen.
    fn infer(&mut self, segment: &SegmentInput, step: Option<Step>, out: &mut Vec<Event>) -> Option<Reading> {
        self.inference.as_ref().filter(|inference| inference.is_whole())?;
        let told_by_kernel = [(segment.src, segment.dst), (segment.dst, segment.src)]
            .map(|(local, remote)| self.has_socket(segment.netns, local, remote));
        Some(self.inference.as_mut()?.take(segment, step, told_by_kernel, out))
    }

    /// The same where only the segments of handshakes and teardowns are seen, each wherever it passes.
    fn sight(&mut self, segment: &SegmentInput, step: Step, seen: &Seen, out: &mut Vec<Event>) {
        let SegmentInput { netns, src, dst, .. } = *segment;
        let sender_is_known = self.has_socket(netns, src, dst);
        // It is not the minisocket that answers a SYN.
        let receiver = Addresses::of(netns, dst, src);
        let is_of_listener = step == Step::Syn && self.waiting.get(&receiver).is_some();
        let receiver_is_known = !is_of_listener && self.has_socket(netns, dst, src);
        if let Some(inference) = self.inference.as_mut().filter(|inference| !inference.is_whole()) {
            inference.sight(segment, seen, [sender_is_known, receiver_is_known], out);
        }
    }

    fn has_socket(&self, netns: u32, local: SocketAddr, remote: SocketAddr) -> bool {
        if self.sockets() == 0 {
            return false;
        }
        let addresses = Addresses::of(netns, local, remote);
        self.flows.end(&addresses).state.is_some() || self.waiting.get(&addresses).is_some()
    }

    /// A SYN tells the local port of the socket that sent it, unless a known one has that port.
    fn learn_port(&mut self, syn: &SegmentInput, out: &mut Vec<Event>) {
        let Some(key) = self.connecting.sender_of(syn) else { return };
        let sender = self.flows.end(&Addresses::of(syn.netns, syn.src, syn.dst));
        let sent_before = sender.isn == Some(syn.header.seq);
        let is_other = matches!(sender.state, Some(TcpState::SynSent));
        if sent_before || is_other {
            return;
        }
        if let Some(mut socket) = self.sockets.remove(&key) {
            self.connecting.remove(&socket, key);
            self.set_port(&mut socket, syn.src.into(), syn.time, out);
            self.keep(key, socket, syn.time);
        }
    }

    /// What a segment does to the minisockets of its two ends (kernel: `tcp_timewait_state_process`).
    fn affect_waiting(&mut self, segment: &SegmentInput, step: Step, out: &mut Vec<Event>) {
        if self.waiting.len() == 0 {
            return;
        }
        let sender = Addresses::of(segment.netns, segment.src, segment.dst);
        let receiver = sender.of_peer();
        let time = segment.time;
        match step {
            // Only a new socket answers a SYN, or sends one, from these addresses.
            Step::Syn | Step::SynAck => self.reuse_waiting(sender, time, Evidence::Segment, out),
            Step::Fin => {
                let fin = segment.header.seq.wrapping_add(segment.payload_len);
                let awaited = self.waiting.get(&receiver).is_some_and(|waiting| waiting.awaits_fin(fin));
                if awaited && let Some(minisocket) = self.waiting.remove(&receiver) {
                    self.receive_fin(minisocket, time, out);
                } else if segment.header.flags.contains(Flags::ACK) {
                    // Sent again: the acknowledgment was lost.
                    self.waiting.restart(&receiver, time);
                }
            }
            Step::Rst => {
                self.abort_waiting(sender, time, Evidence::Segment, out);
                let seq = segment.header.seq;
                let accepted = self.waiting.get(&receiver).is_some_and(|waiting| waiting.accepts(seq));
                if accepted && let Some(minisocket) = self.waiting.remove(&receiver) {
                    self.end_waiting(minisocket, time, Evidence::Segment, ClosedBy::RemoteReset, out);
                }
            }
            Step::HandshakeAck | Step::FinAck => {}
        }
    }
}

/// The step a segment is. `None` if it is none: nothing to tell.
fn step_of(segment: &SegmentInput) -> Option<Step> {
    let flags = segment.header.flags;
    if flags.contains(Flags::RST) {
        Some(Step::Rst)
    } else if flags.contains(Flags::SYN.union(Flags::ACK)) {
        Some(Step::SynAck)
    } else if flags.contains(Flags::SYN) {
        Some(Step::Syn)
    } else if flags.contains(Flags::FIN) {
        Some(Step::Fin)
    } else if segment.acks_syn_ack {
        Some(Step::HandshakeAck)
    } else if segment.acks_fin {
        Some(Step::FinAck)
    } else {
        None
    }
}
