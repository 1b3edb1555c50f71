//! Requests for dumps (linux/inet_diag.h: `struct inet_diag_req_v2`), and the filter of ports that goes with them.

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use tcp_monitor_common::TcpState;
use zerocopy::{Immutable, IntoBytes};

use super::row::{INET_DIAG_INFO, Id};
use crate::ports::PortSet;

/// Which sockets a dump is to list, and what of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// A bit for each state, by its number.
    states: u32,
    /// With `struct tcp_info`.
    info: bool,
}

impl Wanted {
    /// Sockets that listen.
    pub(super) const LISTENERS: Self = Self { states: 1 << TcpState::Listen as u8, info: false };
    /// All others, half-open requests and TIME_WAIT minisockets among them.
    pub(super) const OTHERS: Self = Self { states: ALL_STATES & !Self::LISTENERS.states, info: false };
    /// Those whose peer has closed, with the time of its last acknowledgment.
    pub(super) const CLOSE_WAIT: Self = Self { states: 1 << TcpState::CloseWait as u8, info: true };
}

/// The message that asks for a dump of `wanted` sockets of one address family that have one of `ports` at either end;
/// of all if that is empty or too much to ask.
pub(super) fn request(wanted: Wanted, family: u8, ports: &PortSet) -> Vec<u8> {
    let body = Body {
        family,
        protocol: IPPROTO_TCP,
        extensions: if wanted.info { 1 << (INET_DIAG_INFO - 1) } else { 0 },
        padding: 0,
        states: wanted.states,
        id: Id::default(),
    };
    let filter = filter(ports);
    let mut message = vec![0; size_of::<Header>()];
    message.extend(body.as_bytes());
    if !filter.is_empty() {
        message.extend(attribute(INET_DIAG_REQ_BYTECODE, &filter));
    }
    let header = Header {
        // A filter is at most 64 KiB long.
        length: message.len() as u32,
        kind: SOCK_DIAG_BY_FAMILY,
        flags: NLM_F_REQUEST | NLM_F_DUMP,
        sequence: 0,
        port: 0,
    };
    message[..size_of::<Header>()].copy_from_slice(header.as_bytes());
    message
}

/// The program that the kernel runs for each socket (`inet_diag_bc_run`): it takes those with one of `ports` at either end.
///
/// Each instruction names how far to go on if its condition holds, and how far if not; exactly to the end is to take
/// the socket, four bytes past it to leave it.
fn filter(ports: &PortSet) -> Vec<u8> {
    let ranges: Vec<_> = ports.ranges().collect();
    if ranges.is_empty() || ranges.len() > MAX_RANGES {
        return Vec::new();
    }
    // For both ends of each range: "not below the first, else on to the next range", "not above the last, else the
    // same", "to the end". The last range leaves the socket instead.
    let blocks = 2 * ranges.len();
    let length = blocks * BLOCK - JUMP;
    let mut program = Vec::with_capacity(length);
    let ends = [(INET_DIAG_BC_S_GE, INET_DIAG_BC_S_LE), (INET_DIAG_BC_D_GE, INET_DIAG_BC_D_LE)];
    for (first, last, (not_below, not_above)) in
        ranges.iter().flat_map(|range| ends.map(|ends| (*range.start(), *range.end(), ends)))
    {
        let here = program.len();
        let is_last = here + BLOCK > length;
        // To the next block, or past the end.
        let otherwise = if is_last { length - here + 4 } else { BLOCK };
        program.extend(condition(not_below, otherwise, first));
        program.extend(condition(not_above, otherwise - CONDITION, last));
        if !is_last {
            program.extend(instruction(INET_DIAG_BC_JMP, JUMP, length - program.len()));
        }
    }
    program
}

/// An instruction that compares a port: two, the second of which holds the port.
fn condition(code: u8, otherwise: usize, port: u16) -> [u8; CONDITION] {
    let [a, b, c, d] = instruction(code, CONDITION, otherwise);
    let [low, high] = port.to_ne_bytes();
    [a, b, c, d, 0, 0, low, high]
}

/// `struct inet_diag_bc_op`.
fn instruction(code: u8, then: usize, otherwise: usize) -> [u8; JUMP] {
    // With so few ranges both are small.
    let [low, high] = (otherwise as u16).to_ne_bytes();
    [code, then as u8, low, high]
}

/// A netlink attribute; the value's length is a multiple of four.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
}

/// `struct nlmsghdr`.
#[derive(Immutable, IntoBytes)]
#[repr(C)]
struct Header {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// `struct inet_diag_req_v2`.
#[derive(Immutable, IntoBytes)]
#[repr(C)]
struct Body {
    family: u8,
    protocol: u8,
    extensions: u8,
    padding: u8,
    states: u32,
    id: Id,
}

/// Every number of [`TcpState`].
const ALL_STATES: u32 = 0x1ffe;
/// More ranges of ports than this are not asked for: the kernel would take longer to decide than to tell.
const MAX_RANGES: usize = 16;
/// Bytes of an instruction without and with a port, and of those for one end of a range.
const JUMP: usize = 4;
const CONDITION: usize = 8;
const BLOCK: usize = 2 * CONDITION + JUMP;
const IPPROTO_TCP: u8 = 6;
/// linux/sock_diag.h
pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// linux/inet_diag.h
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_BC_JMP: u8 = 1;
const INET_DIAG_BC_S_GE: u8 = 2;
const INET_DIAG_BC_S_LE: u8 = 3;
const INET_DIAG_BC_D_GE: u8 = 4;
const INET_DIAG_BC_D_LE: u8 = 5;
