//! What the tracker reports: the events of the contract, as plain values. Outputs write them.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use tcp_monitor_common::TcpState;
pub use tcp_monitor_common::counters::ClosedBy;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::{Direction, Kind, ResetPhase, Role};

use super::input::{Process, ResetDirection, RetransmitKind};
use super::segment::TcpHeader;
use super::time::Time;

mod check;
mod stuck;

pub use check::{AckCheck, Acknowledged, Check, SeqCheck};
pub use stuck::{Stuck, StuckReason};

/// The number of a connection: from 1, in the order in which connections are first met. No number
/// is used twice within a run: not for another network namespace, nor when addresses are used
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(NonZeroU64);

impl ConnectionId {
    /// The connection with this number.
    #[must_use]
    pub const fn new(number: NonZeroU64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One of the two ends of a connection, the same for as long as the connection lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The one that opened the connection, where that is known.
    First,
    /// The other one.
    Second,
}

impl End {
    /// The end on the other side.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// One thing that happened, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When.
    pub time: Time,
    /// Of which connection. `None` for a listener, for lost records, and for a RST of no known
    /// connection.
    pub connection: Option<ConnectionId>,
    /// At which end of it. Of a segment, the end that sent it.
    pub end: Option<End>,
    /// Inode number of the network namespace; 0 if unknown. Of a segment, that of the interface
    /// that saw it first.
    pub netns: u32,
    /// The socket's cookie; 0 if unknown, or where there is no socket.
    pub cookie: u64,
    /// The number of the packet that caused it, as Wireshark counts. `None` on a running agent, and
    /// for what no packet caused.
    pub frame: Option<NonZeroU64>,
    /// What.
    pub kind: EventKind,
}

impl Event {
    /// Something of which no more is known than when it happened.
    #[must_use]
    pub const fn new(time: Time, kind: EventKind) -> Self {
        Self { time, connection: None, end: None, netns: 0, cookie: 0, frame: None, kind }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    /// A segment of a handshake or a teardown, once however many interfaces saw it.
    Segment(Segment),
    /// A socket changed its state.
    State(StateChange),
    /// A handshake was completed or failed.
    Handshake(Handshake),
    /// A RST was sent or received.
    Reset(Reset),
    /// A segment was retransmitted.
    Retransmit(Retransmit),
    /// A connection is over.
    Closed(Closed),
    /// A socket is stuck: its process does not act on it.
    Stuck(Stuck),
    /// Records were lost.
    Lost(Lost),
}

/// A segment of a handshake or a teardown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// The TCP header.
    pub header: TcpHeader,
    /// Payload, bytes.
    pub payload_len: u32,
    /// Sequence number counted from the sender's initial one, where that was seen.
    pub seq_rel: Option<u32>,
    /// Acknowledgment number counted from the receiver's initial sequence number, where that was
    /// seen.
    pub ack_rel: Option<u32>,
    /// Index of the interface that saw it first, in the event's network namespace or the capture.
    pub ifindex: u32,
    /// Which way it crossed that interface, if that is known.
    pub direction: Option<Direction>,
    /// What it does in the connection's life.
    pub step: Step,
    /// It carries a SYN cookie: its sender, which is this host, keeps nothing of it.
    pub syn_cookie: bool,
    /// It is a retransmission.
    pub retransmission: bool,
    /// Why it does not fit in with what was seen before, if it does not. It changes no state then,
    /// but for a segment ahead of the window with neither SYN nor RST: the segments before it may
    /// have been missed.
    pub unexpected: Option<Unexpected>,
    /// Whether its numbers are those that follow from what was seen before.
    pub check: Check,
}

/// Why a segment does not fit in with what was seen before. It is looked for where states are
/// inferred from segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unexpected {
    /// Its sequence number is none that the receiver accepts (RFC 9293, section 3.10.7.4, first; of
    /// a RST, RFC 5961, section 3.2).
    OutOfWindow,
    /// It acknowledges an unseen segment.
    Ack,
    /// Its flags have no place in the connection's state: a SYN where there is a connection, a
    /// segment without ACK.
    State,
}

impl Unexpected {
    /// The name in JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::OutOfWindow => "out_of_window",
            Self::Ack => "ack",
            Self::State => "state",
        }
    }
}

/// What a segment does in the connection's life. Of contradictory flags RST counts before SYN
/// before FIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// SYN without ACK.
    Syn,
    /// SYN with ACK.
    SynAck,
    /// The bare or data-bearing ACK that completes the handshake.
    HandshakeAck,
    /// FIN.
    Fin,
    /// The bare or data-bearing ACK of a FIN.
    FinAck,
    /// RST.
    Rst,
}

impl Step {
    /// The name in JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::SynAck => "syn_ack",
            Self::HandshakeAck => "handshake_ack",
            Self::Fin => "fin",
            Self::FinAck => "ack_of_fin",
            Self::Rst => "rst",
        }
    }
}

/// A transition of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// Local address; its port is 0 if the connection failed before one was chosen.
    pub local: SocketAddr,
    /// Remote address; none for a listener.
    pub remote: Option<SocketAddr>,
    /// Which end the socket is.
    pub role: Role,
    /// The state left.
    pub from: TcpState,
    /// The state entered.
    pub to: TcpState,
    /// Next sequence number to send (SND.NXT), once there is one.
    pub seq: Option<u32>,
    /// Next sequence number expected (RCV.NXT), once there is one.
    pub ack: Option<u32>,
    /// How the transition is known.
    pub evidence: Evidence,
    /// The process whose system call this was, if it was one.
    pub process: Option<Process>,
    /// Time spent in the state that was left, if its beginning was seen.
    pub state_duration: Option<Duration>,
}

/// How a transition is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The kernel reported it.
    Kernel,
    /// Inferred from a segment that was seen: the kernel reports no transition of TIME_WAIT
    /// sockets.
    Segment,
    /// Inferred from the time the kernel lets such a state last.
    Timer,
}

impl Evidence {
    /// The name in JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Segment => "segment",
            Self::Timer => "timer",
        }
    }
}

/// The end of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Local address.
    pub local: SocketAddr,
    /// Remote address.
    pub remote: SocketAddr,
    /// Which end the socket is.
    pub role: Role,
    /// How it ended.
    pub result: Result<(), HandshakeFailure>,
    /// From the first SYN to the end; of a client whose SYN was not seen, from SYN_SENT.
    pub duration: Option<Duration>,
    /// How often this end retransmitted its SYN or SYN-ACK.
    pub syn_retransmits: Option<u32>,
}

impl Handshake {
    /// The name of the result in JSON.
    #[must_use]
    pub const fn result_label(&self) -> &'static str {
        match self.result {
            Ok(()) => "completed",
            Err(failure) => failure.label(),
        }
    }
}

/// A RST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Local address.
    pub local: SocketAddr,
    /// Remote address, if known.
    pub remote: Option<SocketAddr>,
    /// Sent or received.
    pub direction: ResetDirection,
    /// Where in the connection's life.
    pub phase: ResetPhase,
    /// The kernel's reason, named as in metrics.
    pub reason: &'static str,
    /// SND.NXT of the socket, if there is one that has sent something.
    pub seq: Option<u32>,
    /// RCV.NXT of the socket, if there is one whose peer has answered.
    pub ack: Option<u32>,
}

/// A retransmitted segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retransmit {
    /// Local address.
    pub local: SocketAddr,
    /// Remote address.
    pub remote: SocketAddr,
    /// What it carried.
    pub kind: RetransmitKind,
    /// State of the socket.
    pub state: TcpState,
}

/// The summary of a connection that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Local address.
    pub local: SocketAddr,
    /// Remote address.
    pub remote: SocketAddr,
    /// Which end the socket is.
    pub role: Role,
    /// Who or what ended it.
    pub closed_by: ClosedBy,
    /// From ESTABLISHED to the end.
    pub duration: Option<Duration>,
    /// Payload the peer acknowledged.
    pub bytes_sent: Option<u64>,
    /// Payload received in order.
    pub bytes_received: Option<u64>,
    /// Segments this end retransmitted over the connection's life.
    pub retransmits: Option<u32>,
    /// Smoothed round-trip time at the end, microseconds.
    pub rtt_us: Option<u32>,
    /// The process that last acted on the socket.
    pub process: Option<Process>,
    /// It was opened before monitoring started.
    pub partial: bool,
    /// Time spent in each state whose beginning and end were seen.
    pub states: Vec<(TcpState, Duration)>,
}

/// Records that the ring buffer could not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// What the records were of.
    pub kind: Kind,
    /// How many there were since the last such event.
    pub count: u64,
}
