//! What the tracker tells: the events of the contract, as plain values. Sinks write them.

use std::net::SocketAddr;
use std::time::Duration;

use tcp_monitor_common::TcpState;
pub use tcp_monitor_common::counters::ClosedBy;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::{Direction, Kind, ResetPhase, Role};

use super::input::{Process, ResetDirection, RetransmitKind};
use super::segment::TcpHeader;
use super::time::Time;

mod check;

pub use check::{AckCheck, Acknowledged, Check, SeqCheck};

/// One thing to tell the user.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A segment of a handshake or a teardown, once however many interfaces saw it.
    Segment(Segment),
    /// A socket changed its state.
    State(StateChange),
    /// A handshake was completed or failed.
    Handshake(Handshake),
    /// A RST was sent or received.
    Reset(Reset),
    /// A segment was sent again.
    Retransmit(Retransmit),
    /// A connection is over.
    Closed(Closed),
    /// A socket is neglected by its process.
    Stuck(Stuck),
    /// Records were lost.
    Lost(Lost),
}

impl Event {
    /// When it happened.
    #[must_use]
    pub const fn time(&self) -> Time {
        match self {
            Self::Segment(event) => event.time,
            Self::State(event) => event.time,
            Self::Handshake(event) => event.time,
            Self::Reset(event) => event.time,
            Self::Retransmit(event) => event.time,
            Self::Closed(event) => event.time,
            Self::Stuck(event) => event.time,
            Self::Lost(event) => event.time,
        }
    }
}

/// A segment of a handshake or a teardown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// When it was first seen.
    pub time: Time,
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
    /// Acknowledgment number counted from the receiver's initial sequence number, where that was seen.
    pub ack_rel: Option<u32>,
    /// Inode number of the network namespace of the interface that saw it first.
    pub netns: u32,
    /// Index of that interface.
    pub ifindex: u32,
    /// Which way it crossed that interface, if that is known.
    pub direction: Option<Direction>,
    /// What it does in the connection's life.
    pub step: Step,
    /// It carries a SYN cookie: its sender, which is this host, keeps nothing of it.
    pub syn_cookie: bool,
    /// It had been sent before.
    pub retransmission: bool,
    /// Why it does not fit in with what was seen before, if it does not. It changes no state then, but for a segment ahead of
    /// the window with neither SYN nor RST: the segments before it may have been missed.
    pub unexpected: Option<Unexpected>,
    /// Whether its numbers are those that follow from what was seen before.
    pub check: Check,
}

/// Why a segment does not fit in with what was seen before. It is looked for where states are inferred from segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unexpected {
    /// Its sequence number is none that the receiver accepts (RFC 9293, section 3.10.7.4, first; of a RST, RFC 5961, section
    /// 3.2).
    OutOfWindow,
    /// It acknowledges what was not sent.
    Ack,
    /// Its flags have no place in the connection's state: a SYN where there is a connection, a segment without ACK.
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

/// What a segment does in the connection's life. Of contradictory flags RST counts before SYN before FIN.
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
            Self::FinAck => "fin_ack",
            Self::Rst => "rst",
        }
    }
}

/// A transition of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// When.
    pub time: Time,
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
    /// The socket's cookie; 0 if unknown.
    pub cookie: u64,
    /// Inode number of the socket's network namespace; 0 if unknown.
    pub netns: u32,
    /// The process whose system call this was, if it was one.
    pub process: Option<Process>,
    /// Time spent in the state that was left, if its beginning was seen.
    pub spent: Option<Duration>,
}

/// How a transition is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The kernel told it.
    Kernel,
    /// Inferred from a segment that was seen: the kernel reports no transition of TIME_WAIT sockets.
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
    /// When.
    pub time: Time,
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
    /// How often this end sent its SYN or SYN-ACK again.
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
    /// When.
    pub time: Time,
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

/// A segment sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retransmit {
    /// When.
    pub time: Time,
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
    /// When: on entry to TIME_WAIT or CLOSE.
    pub time: Time,
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
    /// Segments this end sent again over the connection's life.
    pub retransmits: Option<u32>,
    /// Smoothed round-trip time at the end, microseconds.
    pub rtt_us: Option<u32>,
    /// The process that last acted on the socket.
    pub process: Option<Process>,
    /// It was open before the monitor, which cannot know its beginning.
    pub partial: bool,
    /// Time spent in each state whose beginning and end were seen.
    pub states: Vec<(TcpState, Duration)>,
}

/// A connection that the peer has closed, and the process here has not, for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// When it was found so.
    pub time: Time,
    /// Local address.
    pub local: SocketAddr,
    /// Remote address.
    pub remote: SocketAddr,
    /// Which end the socket is.
    pub role: Role,
    /// The state it is in.
    pub state: TcpState,
    /// For how long, at least.
    pub age: Duration,
    /// Bytes received that the process has not read.
    pub unread_bytes: u32,
    /// A process that holds the socket, or the listener if it is not accepted.
    pub process: Option<Process>,
    /// What the process does not do.
    pub neglect: Neglect,
}

/// What a process does not do with a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neglect {
    /// Take the connection from the accept queue.
    Accept,
    /// Read what was received, or that the peer has closed.
    Read,
    /// Close the socket: it has read to the end.
    Close,
}

impl Neglect {
    /// What to look at, in a sentence without a period.
    #[must_use]
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Accept => "it waits in the accept queue: the process does not call accept()",
            Self::Read => {
                "the process does not read to the end, where it would learn that the peer has closed"
            }
            Self::Close => "the process has read to the end and does not call close()",
        }
    }
}

/// Records that the ring buffer could not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// When the loss was noticed.
    pub time: Time,
    /// What the records told of.
    pub kind: Kind,
    /// How many there were since the last such event.
    pub count: u64,
}
