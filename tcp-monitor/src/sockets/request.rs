//! Requests for dumps (linux/inet_diag.h: `struct inet_diag_req_v2`), and the filter of ports that
//! goes with them.

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use tcp_monitor_common::TcpState;
use zerocopy::{Immutable, IntoBytes};

use super::row::{INET_DIAG_INFO, Id};
use crate::ports::PortSet;

/// Which sockets a dump lists, and with which attributes.
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
    /// All others, request and timewait sockets among them.
    pub(super) const OTHERS: Self = Self { states: ALL_STATES & !Self::LISTENERS.states, info: false };
    /// Those whose peer has closed, with the time of its last acknowledgment.
    pub(super) const CLOSE_WAIT: Self = Self { states: 1 << TcpState::CloseWait as u8, info: true };
}

/// The message that asks for a dump of `wanted` sockets of one address family that have one of
/// `ports` at either end; of all if that is empty or too much to ask.
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

/// The program that the kernel runs for each socket (`inet_diag_bc_run`): it lists those with one
/// of `ports` at either end.
///
/// Each instruction has the distance of the next one if its condition holds, and if not. A jump
/// exactly to the end lists the socket, one four bytes past it does not.
fn filter(ports: &PortSet) -> Vec<u8> {
    let ranges: Vec<_> = ports.ranges().collect();
    if ranges.is_empty() || ranges.len() > MAX_RANGES {
        return Vec::new();
    }
    // For both ends of each range: "at least the first port, else to the next range", "at most the
    // last port, else the same", "to the end". After the last range the socket is not listed.
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
/// More ranges of ports than this are not asked for: the kernel would take longer to decide than to
/// list.
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

#[cfg(test)]
mod tests {
    use super::{PortSet, Wanted, filter, request};
    use crate::sockets::row::AF_INET6;

    fn ports(list: &str) -> PortSet {
        list.parse().expect("a list of ports")
    }

    /// Runs a filter as the kernel does (`inet_diag_bc_run`).
    fn takes(program: &[u8], source: u16, destination: u16) -> bool {
        let mut at = 0;
        while at < program.len() {
            let number = |place: usize| u16::from_ne_bytes([program[place], program[place + 1]]);
            let holds = match program[at] {
                1 => false,
                2 => source >= number(at + 6),
                3 => source <= number(at + 6),
                4 => destination >= number(at + 6),
                5 => destination <= number(at + 6),
                code => panic!("instruction {code}"),
            };
            at += if holds { usize::from(program[at + 1]) } else { usize::from(number(at + 2)) };
        }
        at == program.len()
    }

    /// Checks a filter as the kernel does before it runs it (`inet_diag_bc_audit`).
    fn is_valid(program: &[u8]) -> bool {
        let mut starts = vec![];
        let mut jumps = vec![];
        let mut at = 0;
        while at < program.len() {
            starts.push(at);
            let yes = usize::from(program[at + 1]);
            let no = usize::from(u16::from_ne_bytes([program[at + 2], program[at + 3]]));
            let least = if program[at] == 1 { 4 } else { 8 };
            if yes < least || no < 4 || yes % 4 + no % 4 != 0 || at + no.max(yes) > program.len() + 4 {
                return false;
            }
            jumps.push(at + no);
            at += yes;
        }
        at == program.len() && jumps.iter().all(|to| *to >= program.len() || starts.contains(to))
    }

    #[test]
    fn the_filter_lists_sockets_with_a_watched_port_at_either_end() {
        for list in [
            "80",
            "80,443",
            "1",
            "65535",
            "1-65535",
            "10-20,30-40,50",
            "1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31",
        ] {
            let ports = ports(list);
            let program = filter(&ports);
            assert!(is_valid(&program), "{list}: {program:?}");
            let interesting = [0, 1, 2, 9, 10, 15, 20, 21, 29, 30, 31, 40, 41, 50, 80, 81, 443, 65534, 65535];
            for source in interesting {
                for destination in interesting {
                    let expected = ports.contains(source) || ports.contains(destination);
                    assert_eq!(
                        takes(&program, source, destination),
                        expected,
                        "{list}: {source} {destination}"
                    );
                }
            }
        }
    }

    #[test]
    fn with_many_ranges_there_is_no_filter() {
        assert!(filter(&PortSet::default()).is_empty());
        assert!(filter(&ports("1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31,33")).is_empty());
    }

    #[test]
    fn a_request_has_the_length_in_its_header() {
        let plain = request(Wanted::OTHERS, AF_INET6, &PortSet::default());
        assert_eq!((plain.len(), &plain[..4]), (72, &72_u32.to_ne_bytes()[..]));
        assert_eq!((plain[16], plain[17], plain[18]), (AF_INET6, 6, 0));
        assert_eq!(&plain[20..24], &0x1bfe_u32.to_ne_bytes());
        let filtered = request(Wanted::CLOSE_WAIT, AF_INET6, &ports("80"));
        assert_eq!((filtered.len(), &filtered[..4]), (72 + 4 + 36, &112_u32.to_ne_bytes()[..]));
        assert_eq!((filtered[18], &filtered[20..24]), (2, &256_u32.to_ne_bytes()[..]));
        assert_eq!(&filtered[72..76], &[40_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat()[..]);
    }
}
