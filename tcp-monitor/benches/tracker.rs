//! The cost of the tracker: inputs per second on one core, and memory per connection, with a
//! thousand, a hundred thousand and a million connections open. Run by `cargo xtask bench tracker`.
//!
//! The rows, each with all those connections open throughout:
//! - *sockets, churn*: other connections open and close, as the kernel reports them to `log`: the
//!   transitions of their sockets, and SYN, FIN and the ACKs of those. One half is opened from this
//!   host, one half is accepted.
//! - *segments, churn*: the same with states inferred from segments: handshake and teardown, three
//!   segments each.
//! - *segments, bursts*: data on the open connections, their states inferred. Each connection in
//!   turn, in pseudo-random order, carries a burst in which data and ACKs alternate.
//! - *segments, scattered*: the same, but each segment is of another connection. No real traffic is
//!   like that; it is the worst case for memory access.
//!
//! A churn closes per minute a quarter of the number of open connections, so that as many are in
//! TIME_WAIT. The time is processor time, with that of making the inputs; the best of several
//! rounds counts. Memory is what is allocated once all connections were opened, within a minute,
//! and before any other input. Tables of a fixed size are part of it: with a thousand connections,
//! half of it is the table of recent segments. The rows to run can be chosen by a part of their
//! name: `cargo bench --bench tracker -- churn`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tcp_monitor::lifecycle::input::{SocketEvent, TcpSock};
use tcp_monitor::lifecycle::segment::Flags;
use tcp_monitor::lifecycle::{
    Event, InferFrom, Input, Options, SegmentInput, SocketInput, TcpHeader, Time, Tracker,
};
use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::{Direction, Role};

fn main() {
    // Cargo adds an argument of its own.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    println!("{:<22}{:>12}{:>14}{:>12}", "", "connections", "inputs/s", "bytes each");
    for row in &ROWS {
        if !wanted.is_empty() && !wanted.iter().any(|name| row.name.contains(name.as_str())) {
            continue;
        }
        for open in OPEN {
            let mut best = Measured::default();
            for _ in 0..ROUNDS {
                let measured = measure(row, open);
                if measured.per_second > best.per_second {
                    best = measured;
                }
            }
            println!("{:<22}{open:>12}{:>14.0}{:>12}", row.name, best.per_second, best.bytes);
        }
    }
}

/// One kind of load.
struct Row {
    name: &'static str,
    infer_from: InferFrom,
    /// The inputs of the connection with this number.
    life: fn(u32) -> &'static Life,
    /// What is measured while the connections are open.
    work: Work,
}

#[derive(Clone, Copy)]
enum Work {
    Churn,
    /// Data: this many segments of a connection at a time.
    Data(u32),
}

const ROWS: [Row; 4] = [
    Row {
        name: "sockets, churn",
        infer_from: InferFrom::ControlSegments,
        life: life_of_socket,
        work: Work::Churn,
    },
    Row {
        name: "segments, churn",
        infer_from: InferFrom::AllSegments,
        life: |_| &SEGMENTS,
        work: Work::Churn,
    },
    Row {
        name: "segments, bursts",
        infer_from: InferFrom::AllSegments,
        life: |_| &SEGMENTS,
        work: Work::Data(BURST),
    },
    Row {
        name: "segments, scattered",
        infer_from: InferFrom::AllSegments,
        life: |_| &SEGMENTS,
        work: Work::Data(1),
    },
];

#[derive(Clone, Copy, Default)]
struct Measured {
    per_second: f64,
    /// Bytes of each open connection.
    bytes: usize,
}

/// Works until there is enough to measure.
fn measure(row: &Row, open: u32) -> Measured {
    let (mut inputs, mut time, mut bytes) = (0, Duration::ZERO, 0);
    while inputs < INPUTS {
        let before = ALLOCATED.load(Ordering::Relaxed);
        let mut load = Load::new(row, open);
        load.tick = Duration::from_secs(60) / (open * (row.life)(0).len());
        for id in 0..open {
            for step in (row.life)(id).opening {
                load.handle(id, step);
            }
        }
        bytes = (ALLOCATED.load(Ordering::Relaxed) - before) / open as usize;
        // From the second minute on as many leave TIME_WAIT as enter it.
        let minute = (open / 4).next_multiple_of(AT_ONCE);
        if let Work::Churn = row.work {
            churn(&mut load, row, open, open..open + minute);
        }
        load.inputs = 0;
        let begin = processor_time();
        match row.work {
            Work::Churn => churn(&mut load, row, open, open + minute..open + MINUTES * minute),
            Work::Data(burst) => send(&mut load, open, burst),
        }
        time += processor_time() - begin;
        inputs += load.inputs;
        black_box(&load.tracker);
    }
    Measured { per_second: inputs as f64 / time.as_secs_f64(), bytes }
}

/// The processor time of this thread: that of other programs does not count.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Opens and closes the connections with these numbers. Per minute, a quarter of the number of open
/// connections.
fn churn(load: &mut Load, row: &Row, open: u32, ids: Range<u32>) {
    let a_minute = open / 4 * (row.life)(0).len();
    load.tick = Duration::from_secs(60) / a_minute;
    for first in ids.step_by(AT_ONCE as usize) {
        for at in 0.. {
            let mut steps =
                (first..first + AT_ONCE).filter_map(|id| Some((id, (row.life)(id).step(at)?))).peekable();
            if steps.peek().is_none() {
                break;
            }
            for (id, step) in steps {
                load.handle(id, step);
            }
        }
        if load.inputs >= INPUTS {
            return;
        }
    }
}

/// Sends data on all open connections in turn, in pseudo-random order: `burst` segments at a time,
/// of which every second one is an ACK of the one before.
fn send(load: &mut Load, open: u32, burst: u32) {
    load.tick = Duration::from_nanos(500);
    let mask = open.next_power_of_two() - 1;
    for round in 0.. {
        let mut id = 0_u32;
        // A full period of a linear congruential generator: each connection once.
        for _ in 0..=mask {
            id = id.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) & mask;
            if id >= open {
                continue;
            }
            for at in round * burst..(round + 1) * burst {
                let seq = 1 + at / 2 * PAYLOAD;
                let step = if at % 2 == 0 {
                    Step::Segment(Way::ToServer, Flags::ACK, seq, 1, PAYLOAD)
                } else {
                    Step::Segment(Way::ToClient, Flags::ACK, 1, seq + PAYLOAD, 0)
                };
                load.handle(id, &step);
            }
        }
        if load.inputs >= INPUTS {
            return;
        }
    }
}

struct Load {
    tracker: Tracker,
    events: Vec<Event>,
    now: Time,
    /// Between two inputs.
    tick: Duration,
    inputs: u64,
}

/// A connection from its first input to its last.
struct Life {
    opening: &'static [Step],
    closing: &'static [Step],
}

impl Life {
    const fn len(&self) -> u32 {
        (self.opening.len() + self.closing.len()) as u32
    }

    fn step(&self, at: usize) -> Option<&Step> {
        self.opening.get(at).or_else(|| self.closing.get(at.checked_sub(self.opening.len())?))
    }
}

/// One input in the life of a connection.
#[derive(Clone, Copy)]
enum Step {
    /// Sequence and acknowledgment number count from the initial ones; the last is the payload,
    /// bytes.
    Segment(Way, Flags, u32, u32, u32),
    /// A transition of the client's or the server's socket.
    Socket(Role, TcpState, TcpState),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

impl Load {
    fn new(row: &Row, open: u32) -> Self {
        // There is room for the connections in TIME_WAIT and those that churn, too.
        let max_connections = (open + open / 2 + 2 * AT_ONCE) as usize;
        let tracker = Tracker::with(Options { infer_from: row.infer_from, max_connections });
        let now = Time::from_nanos(1_767_268_801_000_000_000);
        Self { tracker, events: Vec::new(), now, tick: Duration::ZERO, inputs: 0 }
    }

    fn handle(&mut self, id: u32, step: &Step) {
        self.now = self.now + self.tick;
        self.inputs += 1;
        let input = match *step {
            Step::Segment(way, flags, seq, ack, len) => segment(self.now, id, way, flags, [seq, ack, len]),
            Step::Socket(role, from, to) => socket(self.now, id, role, from, to),
        };
        self.tracker.handle(input, &mut self.events);
        black_box(&self.events);
        self.events.clear();
    }
}

fn segment(time: Time, id: u32, way: Way, flags: Flags, [seq, ack, payload_len]: [u32; 3]) -> Input {
    let (client, server) = addresses(id);
    let (src, dst, isns) = match way {
        Way::ToServer => (client, server, [CLIENT_ISN, SERVER_ISN]),
        Way::ToClient => (server, client, [SERVER_ISN, CLIENT_ISN]),
    };
    let header = TcpHeader {
        src_port: src.port(),
        dst_port: dst.port(),
        seq: isns[0].wrapping_add(seq),
        ack: if flags.contains(Flags::ACK) { isns[1].wrapping_add(ack) } else { 0 },
        flags,
        window: 64_240,
        header_len: 32,
        ..TcpHeader::default()
    };
    let is_from_here = (way == Way::ToServer) == is_client(id);
    let is_bare_ack = flags == Flags::ACK && payload_len == 0;
    Input::Segment(SegmentInput {
        time,
        netns: NETNS,
        ifindex: 2,
        direction: Some(if is_from_here { Direction::Egress } else { Direction::Ingress }),
        src,
        dst,
        header,
        payload_len,
        acks_syn_ack: is_bare_ack && seq == 1 && ack == 1,
        acks_fin: is_bare_ack && seq == 2,
        syn_cookie: false,
        frame: None,
    })
}

fn socket(time: Time, id: u32, role: Role, from: TcpState, to: TcpState) -> Input {
    let (client, server) = addresses(id);
    let (mut local, remote, numbers) = match role {
        Role::Client => (client, server, [CLIENT_ISN, SERVER_ISN]),
        Role::Server => (server, client, [SERVER_ISN, CLIENT_ISN]),
    };
    if to == TcpState::SynSent {
        local.set_port(0);
    }
    let [snd_nxt, rcv_nxt] = numbers.map(|isn| isn.wrapping_add(1));
    let tcp = TcpSock { snd_nxt, snd_una: snd_nxt, rcv_nxt, ..TcpSock::default() };
    Input::Socket(SocketInput {
        time,
        netns: NETNS,
        cookie: u64::from(id) + 1,
        sk: u64::from(id) << 11,
        cgroup: 1,
        role,
        local,
        remote,
        process: None,
        peer_closed: matches!(from, TcpState::FinWait2 | TcpState::CloseWait | TcpState::LastAck),
        orphan: false,
        tcp: Some(tcp),
        kind: SocketEvent::State { from, to },
    })
}

/// Client and server.
fn addresses(id: u32) -> (SocketAddr, SocketAddr) {
    let client = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + id);
    let port = 32_768 + (id.wrapping_mul(2_654_435_761) >> 18);
    let port = u16::try_from(port).unwrap_or(u16::MAX);
    (SocketAddr::from((client, port)), SocketAddr::from(([192, 0, 2, 1], 443)))
}

fn life_of_socket(id: u32) -> &'static Life {
    if is_client(id) { &CLIENT } else { &SERVER }
}

/// Whether the client is on this host; if not, the server is.
const fn is_client(id: u32) -> bool {
    id.is_multiple_of(2)
}

const SYN: Step = Step::Segment(Way::ToServer, Flags::SYN, 0, 0, 0);
const SYN_ACK: Step = Step::Segment(Way::ToClient, Flags::SYN.union(Flags::ACK), 0, 1, 0);
const HANDSHAKE_ACK: Step = Step::Segment(Way::ToServer, Flags::ACK, 1, 1, 0);
const FIN: Step = Step::Segment(Way::ToServer, Flags::FIN.union(Flags::ACK), 1, 1, 0);
const FIN_OF_SERVER: Step = Step::Segment(Way::ToClient, Flags::FIN.union(Flags::ACK), 1, 2, 0);
const ACK_OF_FIN: Step = Step::Segment(Way::ToServer, Flags::ACK, 2, 2, 0);

const CLIENT: Life = Life {
    opening: &[
        Step::Socket(Role::Client, TcpState::Close, TcpState::SynSent),
        SYN,
        SYN_ACK,
        Step::Socket(Role::Client, TcpState::SynSent, TcpState::Established),
        HANDSHAKE_ACK,
    ],
    closing: &[
        Step::Socket(Role::Client, TcpState::Established, TcpState::FinWait1),
        FIN,
        FIN_OF_SERVER,
        Step::Socket(Role::Client, TcpState::FinWait1, TcpState::FinWait2),
        Step::Socket(Role::Client, TcpState::FinWait2, TcpState::Close),
        ACK_OF_FIN,
    ],
};

const SERVER: Life = Life {
    opening: &[
        SYN,
        SYN_ACK,
        HANDSHAKE_ACK,
        Step::Socket(Role::Server, TcpState::Listen, TcpState::SynRecv),
        Step::Socket(Role::Server, TcpState::SynRecv, TcpState::Established),
    ],
    closing: &[
        FIN,
        Step::Socket(Role::Server, TcpState::Established, TcpState::CloseWait),
        Step::Socket(Role::Server, TcpState::CloseWait, TcpState::LastAck),
        FIN_OF_SERVER,
        ACK_OF_FIN,
        Step::Socket(Role::Server, TcpState::LastAck, TcpState::Close),
    ],
};

const SEGMENTS: Life =
    Life { opening: &[SYN, SYN_ACK, HANDSHAKE_ACK], closing: &[FIN, FIN_OF_SERVER, ACK_OF_FIN] };

const NETNS: u32 = 4_026_531_840;
const CLIENT_ISN: u32 = 0x1234_5678;
const SERVER_ISN: u32 = 0xffff_ff00;
/// Bytes.
const PAYLOAD: u32 = 1448;
/// Consecutive segments of one connection.
const BURST: u32 = 16;
/// Connections that open and close at a time.
const AT_ONCE: u32 = 64;
const OPEN: [u32; 3] = [1_000, 100_000, 1_000_000];
const MINUTES: u32 = 60;
const INPUTS: u64 = 3_000_000;
/// Of which the best counts: other programs run too.
const ROUNDS: usize = 3;

/// Counts allocated bytes.
struct Counting;

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATED.fetch_add(new_size, Ordering::Relaxed);
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
