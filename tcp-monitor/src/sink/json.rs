//! JSON lines: the event contract, version 1. A field is never renamed or given another meaning within a version.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde::ser::Serializer;
use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::Direction;

use super::Sink;
use crate::lifecycle::Time;
use crate::lifecycle::event::{
    Closed, Event, Handshake, Lost, Reset, Retransmit, Segment, StateChange, Stuck, Unexpected,
};
use crate::lifecycle::input::Process;
use crate::lifecycle::segment::{Flags, Options};

/// Writes one JSON object a line.
pub struct Json {
    interface_name: Box<dyn Fn(u32, u32) -> Option<String> + Send>,
    line: Vec<u8>,
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Json").finish_non_exhaustive()
    }
}

impl Json {
    /// A sink that asks `interface_name` for the name of the interface with an index (the second argument) in a network
    /// namespace (the first), and leaves it out where there is none.
    pub fn new(interface_name: impl Fn(u32, u32) -> Option<String> + Send + 'static) -> Self {
        Self { interface_name: Box::new(interface_name), line: Vec::new() }
    }
}

impl Sink for Json {
    fn write(&mut self, event: &Event, out: &mut dyn io::Write) -> io::Result<()> {
        let body = match event {
            Event::Segment(segment) => {
                Body::Segment(SegmentBody::of(segment, (self.interface_name)(segment.netns, segment.ifindex)))
            }
            Event::State(change) => Body::State(StateBody::of(change)),
            Event::Handshake(handshake) => Body::Handshake(HandshakeBody::of(handshake)),
            Event::Reset(reset) => Body::Reset(ResetBody::of(reset)),
            Event::Retransmit(retransmit) => Body::Retransmit(RetransmitBody::of(retransmit)),
            Event::Closed(closed) => Body::Closed(ClosedBody::of(closed)),
            Event::Stuck(stuck) => Body::Stuck(StuckBody::of(stuck)),
            Event::Lost(lost) => Body::Lost(LostBody::of(lost)),
        };
        self.line.clear();
        serde_json::to_writer(&mut self.line, &Line { v: VERSION, time: Rfc3339(event.time()), body })?;
        self.line.push(b'\n');
        out.write_all(&self.line)
    }
}

#[derive(Serialize)]
struct Line<'a> {
    v: u8,
    time: Rfc3339,
    #[serde(flatten)]
    body: Body<'a>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Body<'a> {
    Segment(SegmentBody),
    State(StateBody<'a>),
    Handshake(HandshakeBody),
    Reset(ResetBody),
    Retransmit(RetransmitBody),
    Closed(ClosedBody<'a>),
    Stuck(StuckBody<'a>),
    Lost(LostBody),
}

#[derive(Serialize)]
struct SegmentBody {
    src: SocketAddr,
    dst: SocketAddr,
    flags: FlagNames,
    seq: u32,
    ack: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq_rel: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack_rel: Option<u32>,
    window: u16,
    urgent: u16,
    checksum: u16,
    header_len: u8,
    len: u32,
    #[serde(skip_serializing_if = "OptionsBody::is_empty")]
    options: OptionsBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<&'static str>,
    step: &'static str,
    #[serde(skip_serializing_if = "is_false")]
    retransmission: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    unexpected: Option<&'static str>,
}

impl SegmentBody {
    fn of(segment: &Segment, interface: Option<String>) -> Self {
        let header = &segment.header;
        Self {
            src: segment.src,
            dst: segment.dst,
            flags: FlagNames(header.flags),
            seq: header.seq,
            ack: header.ack,
            seq_rel: segment.seq_rel,
            ack_rel: segment.ack_rel,
            window: header.window,
            urgent: header.urgent,
            checksum: header.checksum,
            header_len: header.header_len,
            len: segment.payload_len,
            options: OptionsBody::of(&header.options),
            interface,
            direction: segment.direction.map(Direction::label),
            step: segment.step.label(),
            retransmission: segment.retransmission,
            unexpected: segment.unexpected.map(Unexpected::label),
        }
    }
}

#[derive(PartialEq, Default, Serialize)]
struct OptionsBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    mss: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wscale: Option<u8>,
    #[serde(skip_serializing_if = "is_false")]
    sack_permitted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts_val: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts_ecr: Option<u32>,
}

impl OptionsBody {
    fn of(options: &Options) -> Self {
        Self {
            mss: options.mss,
            wscale: options.window_scale,
            sack_permitted: options.sack_permitted,
            ts_val: options.timestamps.map(|timestamps| timestamps.value),
            ts_ecr: options.timestamps.map(|timestamps| timestamps.echo),
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Serialize)]
struct StateBody<'a> {
    local: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<SocketAddr>,
    role: &'static str,
    from: &'static str,
    to: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack: Option<u32>,
    evidence: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cookie: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<ProcessBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spent_us: Option<u64>,
}

impl<'a> StateBody<'a> {
    fn of(change: &'a StateChange) -> Self {
        Self {
            local: change.local,
            remote: change.remote,
            role: change.role.label(),
            from: change.from.label(),
            to: change.to.label(),
            seq: change.seq,
            ack: change.ack,
            evidence: change.evidence.label(),
            cookie: Some(change.cookie).filter(|cookie| *cookie != 0),
            netns: Some(change.netns).filter(|netns| *netns != 0),
            process: change.process.as_ref().map(ProcessBody::of),
            spent_us: change.spent.map(micros),
        }
    }
}

#[derive(Serialize)]
struct ProcessBody<'a> {
    pid: u32,
    comm: Cow<'a, str>,
}

impl<'a> ProcessBody<'a> {
    fn of(process: &'a Process) -> Self {
        Self { pid: process.pid, comm: process.comm.to_text() }
    }
}

#[derive(Serialize)]
struct HandshakeBody {
    local: SocketAddr,
    remote: SocketAddr,
    role: &'static str,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    syn_retransmits: Option<u32>,
}

impl HandshakeBody {
    fn of(handshake: &Handshake) -> Self {
        Self {
            local: handshake.local,
            remote: handshake.remote,
            role: handshake.role.label(),
            result: handshake.result_label(),
            duration_us: handshake.duration.map(micros),
            syn_retransmits: handshake.syn_retransmits,
        }
    }
}

#[derive(Serialize)]
struct ResetBody {
    local: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<SocketAddr>,
    direction: &'static str,
    phase: &'static str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack: Option<u32>,
}

impl ResetBody {
    const fn of(reset: &Reset) -> Self {
        Self {
            local: reset.local,
            remote: reset.remote,
            direction: reset.direction.label(),
            phase: reset.phase.label(),
            reason: reset.reason,
            seq: reset.seq,
            ack: reset.ack,
        }
    }
}

#[derive(Serialize)]
struct RetransmitBody {
    local: SocketAddr,
    remote: SocketAddr,
    kind: &'static str,
    state: &'static str,
}

impl RetransmitBody {
    const fn of(retransmit: &Retransmit) -> Self {
        Self {
            local: retransmit.local,
            remote: retransmit.remote,
            kind: retransmit.kind.label(),
            state: retransmit.state.label(),
        }
    }
}

#[derive(Serialize)]
struct ClosedBody<'a> {
    local: SocketAddr,
    remote: SocketAddr,
    role: &'static str,
    closed_by: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_sent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_received: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retransmits: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_us: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<ProcessBody<'a>>,
    #[serde(skip_serializing_if = "is_false")]
    partial: bool,
    #[serde(skip_serializing_if = "StatesBody::is_empty")]
    states: StatesBody<'a>,
}

impl<'a> ClosedBody<'a> {
    fn of(closed: &'a Closed) -> Self {
        Self {
            local: closed.local,
            remote: closed.remote,
            role: closed.role.label(),
            closed_by: closed.closed_by.label(),
            duration_us: closed.duration.map(micros),
            bytes_sent: closed.bytes_sent,
            bytes_received: closed.bytes_received,
            retransmits: closed.retransmits,
            rtt_us: closed.rtt_us,
            process: closed.process.as_ref().map(ProcessBody::of),
            partial: closed.partial,
            states: StatesBody(&closed.states),
        }
    }
}

#[derive(Serialize)]
struct StuckBody<'a> {
    local: SocketAddr,
    remote: SocketAddr,
    role: &'static str,
    state: &'static str,
    age_s: u64,
    unread_bytes: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<ProcessBody<'a>>,
    hint: &'static str,
}

impl<'a> StuckBody<'a> {
    fn of(stuck: &'a Stuck) -> Self {
        Self {
            local: stuck.local,
            remote: stuck.remote,
            role: stuck.role.label(),
            state: stuck.state.label(),
            age_s: stuck.age.as_secs(),
            unread_bytes: stuck.unread_bytes,
            process: stuck.process.as_ref().map(ProcessBody::of),
            hint: stuck.neglect.hint(),
        }
    }
}

#[derive(Serialize)]
struct LostBody {
    count: u64,
    kind: &'static str,
}

impl LostBody {
    const fn of(lost: &Lost) -> Self {
        Self { count: lost.count, kind: lost.kind.label() }
    }
}

struct StatesBody<'a>(&'a [(TcpState, Duration)]);

impl StatesBody<'_> {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for StatesBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(state, spent)| (state.label(), micros(*spent))))
    }
}

struct FlagNames(Flags);

impl Serialize for FlagNames {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.names())
    }
}

struct Rfc3339(Time);

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // 64 bits of nanoseconds end in 2554, long before a timestamp does.
        let timestamp = Timestamp::from_nanosecond(self.0.as_unix_nanos().into()).unwrap_or(Timestamp::MAX);
        serializer.collect_str(&format_args!("{timestamp:.9}"))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

const fn is_false(value: &bool) -> bool {
    !*value
}

/// Of the event contract.
const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::{Json, Sink};
    use crate::lifecycle::Event;
    use crate::sink::samples;

    fn json(event: &Event) -> String {
        let mut sink = Json::new(|netns, ifindex| (netns == 4026531840).then(|| format!("eth{ifindex}")));
        let mut out = Vec::new();
        sink.write(event, &mut out).expect("a vector takes any bytes");
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    #[test]
    fn each_event_is_an_object_of_the_contract() {
        let lines: String = samples::connection().iter().map(json).collect();
        assert_eq!(lines, GOLDEN);
    }

    #[test]
    fn unknown_values_are_left_out() {
        assert_eq!(json(&samples::partial()), PARTIAL);
        assert_eq!(json(&samples::listening()), LISTENING);
        assert_eq!(json(&samples::reset_of_nobody()), RESET);
        assert_eq!(json(&samples::stuck_unaccepted()), STUCK_UNACCEPTED);
    }

    #[test]
    fn a_stuck_socket_names_its_process_and_what_to_look_at() {
        assert_eq!(json(&samples::stuck()), STUCK);
    }

    #[test]
    fn a_command_name_of_any_bytes_is_a_json_string() {
        let line = json(&samples::hostile());
        let value: serde_json::Value = serde_json::from_str(&line).expect("one JSON object");
        assert_eq!(value["process"]["comm"], "a\"\n\u{1b}[31m\u{fffd}");
    }

    const GOLDEN: &str = include_str!("golden/connection.jsonl");
    const PARTIAL: &str = concat!(
        r#"{"v":1,"time":"2026-01-01T12:00:01.000001007Z","event":"closed","local":"[::1]:8899","#,
        r#""remote":"[2001:db8::5]:51920","role":"client","closed_by":"remote_reset","#,
        r#""bytes_received":2500000,"partial":true}"#,
        "\n"
    );
    const LISTENING: &str = concat!(
        r#"{"v":1,"time":"2026-01-01T12:00:01.000000007Z","event":"state","local":"10.0.0.9:8899","#,
        r#""role":"server","from":"close","to":"listen","evidence":"kernel"}"#,
        "\n"
    );
    const RESET: &str = concat!(
        r#"{"v":1,"time":"2026-01-01T12:00:01.000002007Z","event":"reset","local":"10.0.0.9:8899","#,
        r#""direction":"sent","phase":"no_socket","reason":"no_socket"}"#,
        "\n"
    );
    const STUCK: &str = concat!(
        r#"{"v":1,"time":"2026-01-01T12:01:11.000000007Z","event":"stuck","local":"10.0.0.9:8899","#,
        r#""remote":"10.0.0.5:51920","role":"server","state":"close_wait","age_s":61,"unread_bytes":0,"#,
        r#""process":{"pid":812,"comm":"nginx"},"#,
        r#""hint":"the process has read to the end and does not call close()"}"#,
        "\n"
    );
    const STUCK_UNACCEPTED: &str = concat!(
        r#"{"v":1,"time":"2026-01-01T12:01:11.000000007Z","event":"stuck","local":"10.0.0.9:8899","#,
        r#""remote":"10.0.0.5:51920","role":"server","state":"close_wait","age_s":7300,"unread_bytes":2000,"#,
        r#""hint":"it waits in the accept queue: the process does not call accept()"}"#,
        "\n"
    );
}
