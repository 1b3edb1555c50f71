//! Events for the tests of outputs.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;
use std::{env, fs};

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::{Direction, Kind, ResetPhase, Role};

use crate::lifecycle::event::{
    AckCheck, Acknowledged, Check, Closed, ClosedBy, Event, EventKind, Evidence, Handshake, Lost, Reset,
    Retransmit, Segment, SeqCheck, StateChange, Step, Stuck, StuckReason,
};
use crate::lifecycle::input::{Comm, Process, ResetDirection, RetransmitKind};
use crate::lifecycle::segment::{Flags, Options, Timestamps};
use crate::lifecycle::{ConnectionId, End, TcpHeader, Time};

/// Compares with the file `golden` in the folder `golden`.
///
/// After an intended change: `BLESS=1 cargo test -p tcp-monitor --lib output`, then read the
/// difference.
pub(super) fn assert_golden(output: &str, golden: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/output/golden").join(golden);
    if env::var_os("BLESS").is_some() {
        fs::write(&path, output).expect("the golden file is written");
    }
    let expected = fs::read_to_string(&path).expect("it is checked in");
    assert_eq!(output, expected, "{golden}");
}

/// One of each kind, of a connection that a server closed.
pub(super) fn connection() -> Vec<Event> {
    let ack = Flags::ACK;
    let syn_ack = Segment {
        src: server(),
        dst: client(),
        header: header(Flags::SYN.union(ack), 3_214_115_980, 303_234_859),
        ack_rel: Some(1),
        direction: Some(Direction::Egress),
        retransmission: true,
        check: Check { ack: Some(acked(Acknowledged::Syn, 303_234_858, true)), seq: None },
        ..segment(Step::SynAck)
    };
    let handshake_ack = Segment {
        header: bare_header(ack, 303_234_859, 3_214_115_981),
        seq_rel: Some(1),
        ack_rel: Some(1),
        check: Check {
            ack: Some(acked(Acknowledged::Syn, 3_214_115_980, true)),
            seq: Some(SeqCheck { expected: 303_234_859, holds: true }),
        },
        ..segment(Step::HandshakeAck)
    };
    let established = StateChange {
        seq: Some(3_214_115_981),
        ack: Some(303_234_859),
        ..change(TcpState::SynRecv, TcpState::Established)
    };
    let handshake = Handshake {
        local: server(),
        remote: client(),
        role: Role::Server,
        result: Ok(()),
        duration: Some(Duration::from_micros(505)),
        syn_retransmits: Some(1),
    };
    let retransmit = Retransmit {
        local: server(),
        remote: client(),
        kind: RetransmitKind::Data,
        state: TcpState::Established,
    };
    let fin_wait1 = StateChange {
        process: Some(nginx()),
        state_duration: Some(Duration::from_micros(7_976_000)),
        ..change(TcpState::Established, TcpState::FinWait1)
    };
    let fin = Segment {
        src: server(),
        dst: client(),
        header: bare_header(Flags::FIN.union(ack), 3_214_115_994, 303_234_859),
        payload_len: 13,
        seq_rel: Some(14),
        ack_rel: Some(1),
        ..segment(Step::Fin)
    };
    let time_wait = StateChange {
        evidence: Evidence::Segment,
        state_duration: Some(Duration::from_micros(40)),
        ..change(TcpState::FinWait2, TcpState::TimeWait)
    };
    let closed = Closed {
        local: server(),
        remote: client(),
        role: Role::Server,
        closed_by: ClosedBy::Local,
        duration: Some(Duration::from_micros(7_976_247)),
        bytes_sent: Some(13),
        bytes_received: Some(0),
        retransmits: Some(1),
        rtt_us: Some(480),
        process: Some(nginx()),
        partial: false,
        states: vec![
            (TcpState::Established, Duration::from_micros(7_976_000)),
            (TcpState::FinWait1, Duration::from_micros(207)),
        ],
    };
    vec![
        seen(123_456, syn()),
        seen(123_470, syn_ack),
        seen(123_961, handshake_ack),
        changed(123_963, EventKind::State(established)),
        changed(123_963, EventKind::Handshake(handshake)),
        changed(200_000, EventKind::Retransmit(retransmit)),
        changed(8_099_963, EventKind::State(fin_wait1)),
        seen(8_099_970, fin),
        changed(8_100_210, EventKind::State(time_wait)),
        changed(8_100_210, EventKind::Closed(closed)),
        Event::new(at(9_000_000), EventKind::Lost(Lost { kind: Kind::Segment, count: 12 })),
    ]
}

/// The segment that the connection begins with.
pub(super) fn syn() -> Segment {
    Segment { header: header(Flags::SYN, 303_234_858, 0), ..segment(Step::Syn) }
}

/// Of a connection that was opened before monitoring started.
pub(super) fn partial() -> Event {
    let closed = Closed {
        local: "[::1]:8899".parse().expect("an address"),
        remote: "[2001:db8::5]:51920".parse().expect("an address"),
        role: Role::Client,
        closed_by: ClosedBy::RemoteReset,
        duration: None,
        bytes_sent: None,
        bytes_received: Some(2_500_000),
        retransmits: None,
        rtt_us: None,
        process: None,
        partial: true,
        states: vec![],
    };
    Event::new(at(1), EventKind::Closed(closed))
}

pub(super) fn listening() -> Event {
    let change = StateChange { remote: None, ..change(TcpState::Close, TcpState::Listen) };
    Event::new(at(0), EventKind::State(change))
}

/// The RST of a process that closes with data unread.
pub(super) fn aborted() -> Event {
    let reset = Reset {
        remote: Some(client()),
        phase: ResetPhase::Established,
        reason: "tcp_abort_on_close",
        ..sent_reset()
    };
    Event::new(at(2), EventKind::Reset(reset))
}

pub(super) fn reset_without_socket() -> Event {
    Event::new(at(2), EventKind::Reset(sent_reset()))
}

fn sent_reset() -> Reset {
    Reset {
        local: server(),
        remote: None,
        direction: ResetDirection::Sent,
        phase: ResetPhase::NoSocket,
        reason: "no_socket",
        seq: None,
        ack: None,
    }
}

/// A socket that its process has read to the end, and has not closed.
pub(super) fn stuck() -> Event {
    let stuck = Stuck {
        local: server(),
        remote: client(),
        role: Role::Server,
        state: TcpState::CloseWait,
        age: Duration::from_millis(61_250),
        unread_bytes: 0,
        process: Some(nginx()),
        reason: StuckReason::Close,
    };
    changed(70_000_000, EventKind::Stuck(stuck))
}

/// A connection in the accept queue, with unread data; no process is known.
pub(super) fn stuck_unaccepted() -> Event {
    let stuck = Stuck {
        local: server(),
        remote: client(),
        role: Role::Server,
        state: TcpState::CloseWait,
        age: Duration::from_secs(7300),
        unread_bytes: 2000,
        process: None,
        reason: StuckReason::Accept,
    };
    changed(70_000_000, EventKind::Stuck(stuck))
}

/// The two events of a connection that was refused.
pub(super) fn refused() -> [Event; 2] {
    refused_at(3_000_000, None, Duration::from_micros(3_000_120), 2)
}

/// Refused at once, when the link-layer address of the next hop was known.
pub(super) fn delayed() -> [Event; 2] {
    refused_at(4_000, Some(Duration::from_micros(1_004_075)), Duration::from_micros(75), 0)
}

fn refused_at(
    us: u64,
    state_duration: Option<Duration>,
    duration: Duration,
    syn_retransmits: u32,
) -> [Event; 2] {
    let (local, remote, role) = (client(), server(), Role::Client);
    let change = StateChange {
        local,
        remote: Some(remote),
        role,
        state_duration,
        ..change(TcpState::SynSent, TcpState::Close)
    };
    let handshake = Handshake {
        local,
        remote,
        role,
        result: Err(HandshakeFailure::Refused),
        duration: Some(duration),
        syn_retransmits: Some(syn_retransmits),
    };
    [EventKind::State(change), EventKind::Handshake(handshake)]
        .map(|kind| Event { end: Some(End::First), ..of_connection(us, kind) })
}

/// An ACK of a FIN with five bytes, whose numbers are both wrong; once with relative numbers, once
/// without.
pub(super) fn wrong() -> [Event; 2] {
    let fin = AckCheck { len: 5, ..acked(Acknowledged::Fin, 3_214_115_994, false) };
    let check = Check { ack: Some(fin), seq: Some(SeqCheck { expected: 303_234_859, holds: false }) };
    let header = bare_header(Flags::ACK, 303_234_862, 3_214_116_001);
    let of_known = Segment { header, seq_rel: Some(4), ack_rel: Some(21), check, ..segment(Step::FinAck) };
    let of_unknown = Segment { seq_rel: None, ack_rel: None, ..of_known };
    [of_known, of_unknown].map(|segment| seen(0, segment))
}

/// By a process with a hostile name.
pub(super) fn hostile() -> Event {
    let process = Process { pid: 1, comm: Comm(*b"a\"\n\x1b[31m\xff\0\0\0\0\0\0\0") };
    let change = StateChange { process: Some(process), ..change(TcpState::Established, TcpState::FinWait1) };
    changed(5, EventKind::State(change))
}

/// A segment that passed an interface.
fn seen(us: u64, segment: Segment) -> Event {
    let end = if segment.src == client() { End::First } else { End::Second };
    Event { end: Some(end), cookie: 0, ..of_connection(us, EventKind::Segment(segment)) }
}

/// An event of the server's socket.
fn changed(us: u64, kind: EventKind) -> Event {
    Event { end: Some(End::Second), ..of_connection(us, kind) }
}

fn of_connection(us: u64, kind: EventKind) -> Event {
    let connection = NonZeroU64::new(3).map(ConnectionId::new);
    Event { connection, netns: 4_026_531_840, cookie: 71, ..Event::new(at(us), kind) }
}

fn at(us: u64) -> Time {
    Time::from_nanos((1_767_268_801_000_000 + us) * 1000 + 7)
}

fn client() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 5], 51920))
}

fn server() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 9], 8899))
}

fn nginx() -> Process {
    Process { pid: 812, comm: Comm(*b"nginx\0\0\0\0\0\0\0\0\0\0\0") }
}

fn acked(of: Acknowledged, seq: u32, holds: bool) -> AckCheck {
    AckCheck { of, seq, len: 0, holds }
}

fn segment(step: Step) -> Segment {
    Segment {
        src: client(),
        dst: server(),
        header: TcpHeader::default(),
        payload_len: 0,
        seq_rel: Some(0),
        ack_rel: None,
        ifindex: 0,
        direction: Some(Direction::Ingress),
        step,
        syn_cookie: false,
        retransmission: false,
        unexpected: None,
        check: Check::default(),
    }
}

fn header(flags: Flags, seq: u32, ack: u32) -> TcpHeader {
    TcpHeader {
        header_len: 40,
        options: Options {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some(Timestamps { value: 10, echo: 0 }),
        },
        ..bare_header(flags, seq, ack)
    }
}

fn bare_header(flags: Flags, seq: u32, ack: u32) -> TcpHeader {
    TcpHeader {
        src_port: 51920,
        dst_port: 8899,
        seq,
        ack,
        flags,
        window: 64240,
        checksum: 7238,
        urgent: 0,
        header_len: 20,
        options: Options::default(),
    }
}

fn change(from: TcpState, to: TcpState) -> StateChange {
    StateChange {
        local: server(),
        remote: Some(client()),
        role: Role::Server,
        from,
        to,
        seq: None,
        ack: None,
        evidence: Evidence::Kernel,
        process: None,
        state_duration: None,
    }
}
