//! A client and a server with their own record of the sequence numbers that they used and of the
//! state that was reported of them.

use std::net::SocketAddr;

use tcp_monitor_common::TcpState::{
    self, Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, NewSynRecv, SynRecv,
    SynSent, TimeWait,
};
use tcp_monitor_common::record::Role;

use super::rfc9293::Answer;
use super::wire::Wire;
use crate::lifecycle::event::Unexpected;
use crate::lifecycle::segment::Flags;
use crate::lifecycle::tests::script::{client_addr, from_client, server_addr};
use crate::lifecycle::{EventKind, SegmentInput};

/// The state of an end, its role, the state of its peer, and the segments that lead there, as the
/// initials of their flags. `>`: sent by the end. `<`: sent by its peer. `~`: sent before the
/// other's FIN has arrived.
pub(super) type Way = (TcpState, Role, TcpState, &'static str);

/// How the numbers of a segment relate to those sent before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    /// It continues what was sent, and acknowledges all that its receiver has sent.
    Fit,
    /// The same, without the FIN of its receiver.
    FitButFin,
    /// Its sequence number is left of the window.
    Old,
    /// Its sequence number is right of the window.
    Ahead,
    /// It acknowledges data that was not sent.
    AckOfUnsent,
}

/// Both ends of a connection: the one under test, and its peer.
pub(super) struct Ends {
    wire: Wire,
    addresses: [SocketAddr; 2],
    pub(super) sent: [Sent; 2],
    /// The state that was reported last.
    pub(super) reported: [Option<TcpState>; 2],
}

/// What an end has sent.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    isn: u32,
    /// Next sequence number.
    next: u32,
    /// Its FIN was sent.
    fin: bool,
    /// Its FIN was sent and is not acknowledged.
    pub(super) fin_unacked: bool,
}

impl Ends {
    pub(super) fn after(way: &Way) -> Self {
        let (state, role, peer, script) = *way;
        let addresses = match role {
            Role::Client => [client_addr(), server_addr()],
            Role::Server => [server_addr(), client_addr()],
        };
        // The second wraps around with its SYN.
        let sent = [7_000, u32::MAX].map(|isn| Sent { isn, next: isn, fin: false, fin_unacked: false });
        let mut ends = Self { wire: Wire::new(), addresses, sent, reported: [None; 2] };
        for word in script.split_whitespace() {
            let from = usize::from(word.starts_with('<'));
            let numbers = if word.ends_with('~') { Numbers::FitButFin } else { Numbers::Fit };
            let segment = ends.segment(from, parse(&word[1..]), numbers);
            ends.pass(from, segment);
        }
        assert!(ends.is_in(0, state) && ends.is_in(1, peer), "{way:?} leads to {:?}", ends.reported);
        ends
    }

    /// A segment from one end to the other.
    pub(super) fn segment(&self, from: usize, flags: Flags, numbers: Numbers) -> SegmentInput {
        let (sender, receiver) = (self.sent[from], self.sent[1 - from]);
        let [syn, fin] =
            [Flags::SYN, Flags::FIN].map(|flag| flags.contains(flag) && !flags.contains(Flags::RST));
        let seq = match self.reported[from] {
            None | Some(SynSent | SynRecv) if syn => sender.isn,
            Some(_) if syn && self.reported[1 - from] == Some(SynSent) => sender.isn,
            Some(Close | TimeWait) if syn => sender.next.wrapping_add(100_000),
            Some(_) if fin && sender.fin => sender.next.wrapping_sub(1),
            None | Some(_) => sender.next,
        };
        let seq = match numbers {
            Numbers::Fit | Numbers::FitButFin | Numbers::AckOfUnsent => seq,
            Numbers::Old => seq.wrapping_sub(1_000),
            Numbers::Ahead => seq.wrapping_add(1_000_000),
        };
        let ack = match numbers {
            // The ACK of the SYN that it answers.
            Numbers::Fit | Numbers::FitButFin | Numbers::Old | Numbers::Ahead if syn => {
                receiver.isn.wrapping_add(1)
            }
            Numbers::Fit | Numbers::Old | Numbers::Ahead => receiver.next,
            Numbers::FitButFin => receiver.next.wrapping_sub(u32::from(receiver.fin)),
            Numbers::AckOfUnsent => receiver.next.wrapping_add((1 << 30) + 1),
        };
        self.with_numbers(from, flags, seq, ack)
    }

    /// What the end answers to a segment.
    pub(super) fn answer(&self, answer: Answer, segment: &SegmentInput, misplaced: bool) -> SegmentInput {
        let flags = segment.header.flags;
        let space = u32::from(flags.contains(Flags::SYN) || flags.contains(Flags::FIN));
        let end = segment.header.seq.wrapping_add(space);
        let own = self.sent[0];
        match answer {
            Answer::Ack if misplaced => {
                let peer = self.sent[1];
                self.with_numbers(
                    0,
                    Flags::ACK,
                    own.next,
                    peer.next.wrapping_sub(u32::from(peer.fin_unacked)),
                )
            }
            Answer::Ack => self.with_numbers(0, Flags::ACK, own.next, end),
            Answer::SynAck => {
                let seq =
                    if self.reported[0] == Some(TimeWait) { own.next.wrapping_add(100_000) } else { own.isn };
                self.with_numbers(0, Flags::SYN.union(Flags::ACK), seq, segment.header.seq.wrapping_add(1))
            }
            Answer::Rst if flags.contains(Flags::ACK) => {
                self.with_numbers(0, Flags::RST, segment.header.ack, 0)
            }
            Answer::Rst => self.with_numbers(0, Flags::RST.union(Flags::ACK), 0, end),
        }
    }

    fn with_numbers(&self, from: usize, flags: Flags, seq: u32, ack: u32) -> SegmentInput {
        let mut segment = from_client(0, flags, 0, 0);
        (segment.src, segment.dst) = (self.addresses[from], self.addresses[1 - from]);
        (segment.header.src_port, segment.header.dst_port) = (segment.src.port(), segment.dst.port());
        (segment.header.seq, segment.header.ack) = (seq, ack);
        segment
    }

    /// The tracker processes a segment. Returns its verdict on it, if the segment is reported.
    pub(super) fn pass(&mut self, from: usize, segment: SegmentInput) -> Option<Option<Unexpected>> {
        let header = segment.header;
        let [rst, syn, fin, ack] =
            [Flags::RST, Flags::SYN, Flags::FIN, Flags::ACK].map(|flag| header.flags.contains(flag));
        let [sender, receiver] = [from, 1 - from];
        if syn && !rst && matches!(self.reported[from], None | Some(Close | Listen | TimeWait)) {
            self.sent[sender] =
                Sent { isn: header.seq, next: header.seq.wrapping_add(1), fin: false, fin_unacked: false };
        } else if fin && ack && !rst && !syn && header.seq == self.sent[sender].next {
            let next = header.seq.wrapping_add(1);
            self.sent[sender] = Sent { next, fin: true, fin_unacked: true, ..self.sent[sender] };
        }
        if ack && !rst && header.ack == self.sent[receiver].next {
            self.sent[receiver].fin_unacked = false;
        }
        self.wire.see(segment);
        self.read_events()
    }

    fn read_events(&mut self) -> Option<Option<Unexpected>> {
        let mut verdict = None;
        for event in self.wire.events() {
            match &event.kind {
                EventKind::Segment(segment) => verdict = Some(segment.unexpected),
                EventKind::State(change) => {
                    let end = usize::from(change.local != self.addresses[0]);
                    let is_new = matches!(self.reported[end], None | Some(Close));
                    assert!(is_new || self.reported[end] == Some(change.from), "{change:?}");
                    assert!(is_legal(change.from, change.to), "{change:?}");
                    self.reported[end] = Some(change.to);
                }
                EventKind::Handshake(_)
                | EventKind::Reset(_)
                | EventKind::Retransmit(_)
                | EventKind::Closed(_)
                | EventKind::Lost(_)
                | EventKind::Stuck(_) => {}
            }
        }
        verdict
    }

    /// Whether an end is in a state. From outside, a closed port and a listener look the same until
    /// they answer.
    pub(super) fn is_in(&self, end: usize, state: TcpState) -> bool {
        let or_close = |state| if state == Listen { Close } else { state };
        or_close(self.reported[end].unwrap_or(Close)) == or_close(state)
    }
}

fn parse(letters: &str) -> Flags {
    letters.chars().fold(Flags::default(), |flags, letter| {
        flags.union(match letter {
            'R' => Flags::RST,
            'S' => Flags::SYN,
            'F' => Flags::FIN,
            'A' => Flags::ACK,
            '~' => Flags::default(),
            other => panic!("no flag: {other}"),
        })
    })
}

/// The transitions of RFC 9293, figure 5, and those that a RST, a timer or a lost segment adds.
fn is_legal(from: TcpState, to: TcpState) -> bool {
    let next: &[TcpState] = match from {
        Close => &[SynSent],
        Listen => &[SynRecv],
        SynSent => &[SynRecv, Established, Close],
        SynRecv => &[Established, FinWait1, CloseWait, Close],
        Established => &[FinWait1, CloseWait, Close],
        FinWait1 => &[FinWait2, Closing, Close],
        FinWait2 => &[TimeWait, Close],
        CloseWait => &[LastAck, Close],
        Closing => &[TimeWait, Close],
        LastAck | TimeWait => &[Close],
        NewSynRecv => &[],
    };
    next.contains(&to)
}
