//! The connections of a script, each with two ends. Some ends have a socket that the kernel
//! reports.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tcp_monitor::lifecycle::{Input, Time};
use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Kind;

use super::Script;
use super::kernel::Socket;
use super::rules::Rules;
use super::wire::Stream;

pub(crate) struct Scene {
    rules: Rules,
    now: Time,
    connections: [Connection; 4],
}

/// Two ends, each by its index.
pub(crate) struct Connection {
    pub(crate) netns: u32,
    pub(crate) ends: [SocketAddr; 2],
    pub(crate) streams: [Stream; 2],
    /// Those of ends that have sockets.
    pub(crate) sockets: [Option<Socket>; 2],
}

impl Scene {
    pub(crate) fn new(rules: Rules) -> Self {
        // The last is a socket that connects to itself.
        let ends = |number: u8| {
            let end = |end: u8, port| SocketAddr::from(([10, 0, number, end], port));
            if number == 3 { [end(1, 51920); 2] } else { [end(1, 51920), end(2, 8899)] }
        };
        let has_socket = |number: u8, end: u8| rules.sockets && (number == 0 || (number, end) == (1, 0));
        let begin = if rules.begins_midway { TcpState::Established } else { TcpState::Close };
        let connection = |number: u8| Connection {
            netns: u32::from(number % 2) + 1,
            ends: ends(number),
            streams: [Stream::new(1_000), Stream::new(u32::MAX)],
            sockets: [0, 1]
                .map(|end| has_socket(number, end).then(|| Socket::new(u64::from(number * 2 + end), begin))),
        };
        Self { rules, now: START, connections: [0, 1, 2, 3].map(connection) }
    }

    /// The time of what happens now.
    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// The next input; `None` if only time passes.
    pub(crate) fn next(&mut self, script: &mut Script<'_>) -> Option<Input> {
        let what = script.byte();
        if what >= 240 {
            self.now = self.now + script.pick(&PAUSES);
            return None;
        }
        if what & 1 == 1 {
            self.now = self.now + Duration::from_millis(1);
        }
        let back =
            if self.rules.time_goes_back && what & 2 == 2 { script.pick(&PAUSES) } else { Duration::ZERO };
        let time = self.now - back;
        let number = usize::from(what >> 2) & 3;
        let end = usize::from(what >> 4) & 1;
        if what >= 232 {
            return Some(Input::Lost { time, kind: Kind::Segment, count: 1 });
        }
        let connection = &mut self.connections[number];
        let has_socket = connection.sockets[end].is_some();
        if has_socket && what >= 224 {
            return connection.find(end, time, self.rules.nonsense, script).map(Input::Present);
        }
        if has_socket && (what & 32 == 0 || !self.rules.segments) {
            return connection.happen(end, time, self.rules.nonsense, script).map(Input::Socket);
        }
        self.rules.segments.then(|| Input::Segment(connection.send(end, time, script)))
    }

    /// The time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now.since(START)
    }

    pub(crate) fn let_days_pass(&mut self) {
        self.now = self.now + Duration::from_secs(6 * 86_400);
    }

    /// Whether the kernel reports the socket of an end.
    pub(crate) fn is_reported(&self, end: IpAddr) -> bool {
        self.state_of(end).is_some()
    }

    /// The state of the socket of an end, if there is one.
    pub(crate) fn state_of(&self, end: IpAddr) -> Option<TcpState> {
        let ends = self.connections.iter().flat_map(|known| known.ends.iter().zip(&known.sockets));
        let mut sockets =
            ends.filter(|(address, _)| address.ip() == end).filter_map(|(_, socket)| socket.as_ref());
        sockets.next().map(|socket| socket.state)
    }
}

const START: Time = Time::from_nanos(1_767_268_801_000_000_000);
/// Shorter and longer than each timeout.
const PAUSES: [Duration; 10] = [
    Duration::ZERO,
    Duration::from_millis(3),
    Duration::from_millis(25),
    Duration::from_millis(600),
    Duration::from_secs(2),
    Duration::from_secs(6),
    Duration::from_secs(61),
    Duration::from_secs(75),
    Duration::from_secs(131),
    Duration::from_secs(9_000),
];
