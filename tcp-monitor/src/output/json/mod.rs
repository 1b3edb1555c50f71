//! JSON lines: the event contract, version 1. A field is never renamed or given another meaning
//! within a version.

use std::num::NonZeroU64;

use body::{ClosedBody, HandshakeBody, LostBody, ResetBody, RetransmitBody, StateBody, StuckBody};
use jiff::Timestamp;
use segment::SegmentBody;
use serde::Serialize;
use serde::ser::Serializer;

use super::{Context, Destination, EventSink};
use crate::clock::WallTime;
use crate::lifecycle::event::EventKind;
use crate::lifecycle::{ConnectionId, Event};

mod body;
mod segment;

/// Emits one JSON object a line.
#[derive(Debug, Default)]
pub struct Json {
    line: Vec<u8>,
}

impl EventSink for Json {
    fn event(&mut self, event: &Event, context: &Context<'_>, to: &mut dyn Destination) {
        let line = JsonLine {
            v: VERSION,
            time: context.wall_time(event.time).map(Rfc3339),
            event: name(&event.kind),
            conn: event.connection.map(ConnectionId::get),
            netns: event.netns,
            cookie: event.cookie,
            frame: event.frame,
            body: EventBody::of(event, context),
        };
        self.line.clear();
        // Fails only for a map whose keys are not strings, which there is none of here.
        if serde_json::to_writer(&mut self.line, &line).is_ok() {
            self.line.push(b'\n');
            to.take(&mut |out| out.extend_from_slice(&self.line));
        }
    }
}

#[derive(Serialize)]
struct JsonLine<'a> {
    v: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<Rfc3339>,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    conn: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    netns: u32,
    #[serde(skip_serializing_if = "is_zero")]
    cookie: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    frame: Option<NonZeroU64>,
    #[serde(flatten)]
    body: EventBody<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum EventBody<'a> {
    Segment(SegmentBody),
    State(StateBody<'a>),
    Handshake(HandshakeBody),
    Reset(ResetBody),
    Retransmit(RetransmitBody),
    Closed(ClosedBody<'a>),
    Stuck(StuckBody<'a>),
    Lost(LostBody),
}

impl<'a> EventBody<'a> {
    fn of(event: &'a Event, context: &Context<'_>) -> Self {
        match &event.kind {
            EventKind::Segment(segment) => {
                Self::Segment(SegmentBody::of(segment, context.interface(event.netns, segment.ifindex)))
            }
            EventKind::State(change) => Self::State(StateBody::of(change)),
            EventKind::Handshake(handshake) => Self::Handshake(HandshakeBody::of(handshake)),
            EventKind::Reset(reset) => Self::Reset(ResetBody::of(reset)),
            EventKind::Retransmit(retransmit) => Self::Retransmit(RetransmitBody::of(retransmit)),
            EventKind::Closed(closed) => Self::Closed(ClosedBody::of(closed)),
            EventKind::Stuck(stuck) => Self::Stuck(StuckBody::of(stuck)),
            EventKind::Lost(lost) => Self::Lost(LostBody::of(lost)),
        }
    }
}

/// The name of a kind of event.
const fn name(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::Segment(_) => "segment",
        EventKind::State(_) => "state",
        EventKind::Handshake(_) => "handshake",
        EventKind::Reset(_) => "reset",
        EventKind::Retransmit(_) => "retransmit",
        EventKind::Closed(_) => "closed",
        EventKind::Stuck(_) => "stuck",
        EventKind::Lost(_) => "lost",
    }
}

struct Rfc3339(WallTime);

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // 64 bits of nanoseconds end in 2554, long before a timestamp does.
        let timestamp = Timestamp::from_nanosecond(self.0.as_unix_nanos().into()).unwrap_or(Timestamp::MAX);
        serializer.collect_str(&format_args!("{timestamp:.9}"))
    }
}

fn is_zero<N: Copy + Into<u64>>(number: &N) -> bool {
    (*number).into() == 0
}

/// Of the event contract.
const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::{Context, EventSink, Json};
    use crate::clock::WallClock;
    use crate::lifecycle::Event;
    use crate::output::{Names, samples};

    struct Eth;

    impl Names for Eth {
        fn interface(&self, netns: u32, ifindex: u32) -> Option<String> {
            (netns == 4_026_531_840).then(|| format!("eth{ifindex}"))
        }

        fn netns(&self, _: u32) -> Option<String> {
            None
        }
    }

    fn json(event: &Event) -> String {
        let clock = WallClock::of_capture();
        let mut out = Vec::new();
        Json::default().event(event, &Context::new(&clock, &Eth), &mut out);
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    #[test]
    fn each_event_is_an_object_of_the_contract() {
        let lines: String = samples::connection().iter().map(json).collect();
        samples::assert_golden(&lines, "connection.jsonl");
    }

    #[test]
    fn unknown_values_are_left_out() {
        assert_eq!(json(&samples::partial()), PARTIAL);
        assert_eq!(json(&samples::listening()), LISTENING);
        assert_eq!(json(&samples::reset_without_socket()), RESET);
        assert_eq!(json(&samples::stuck_unaccepted()), STUCK_UNACCEPTED);
    }

    #[test]
    fn an_event_of_a_capture_has_the_number_of_its_packet() {
        let event = Event { netns: 0, cookie: 0, frame: NonZeroU64::new(12), ..samples::stuck() };
        let start =
            r#"{"v":1,"time":"2026-01-01T12:01:11.000000007Z","event":"stuck","conn":3,"frame":12,"local""#;
        assert!(json(&event).starts_with(start), "{}", json(&event));
    }

    #[test]
    fn a_stuck_socket_has_its_process_and_a_hint() {
        assert_eq!(json(&samples::stuck()), STUCK);
    }

    #[test]
    fn a_command_name_of_any_bytes_is_a_json_string() {
        let line = json(&samples::hostile());
        let value: serde_json::Value = serde_json::from_str(&line).expect("one JSON object");
        assert_eq!(value["process"]["comm"], "a\"\n\u{1b}[31m\u{fffd}");
    }

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
        r#"{"v":1,"time":"2026-01-01T12:01:11.000000007Z","event":"stuck","conn":3,"netns":4026531840,"#,
        r#""cookie":71,"local":"10.0.0.9:8899","#,
        r#""remote":"10.0.0.5:51920","role":"server","state":"close_wait","age_s":61,"unread_bytes":0,"#,
        r#""process":{"pid":812,"comm":"nginx"},"#,
        r#""hint":"the process has read to the end and does not call close()"}"#,
        "\n"
    );
    const STUCK_UNACCEPTED: &str = concat!(
        r#"{"v":1,"time":"2026-01-01T12:01:11.000000007Z","event":"stuck","conn":3,"netns":4026531840,"#,
        r#""cookie":71,"local":"10.0.0.9:8899","#,
        r#""remote":"10.0.0.5:51920","role":"server","state":"close_wait","age_s":7300,"unread_bytes":2000,"#,
        r#""hint":"it waits in the accept queue: the process does not call accept()"}"#,
        "\n"
    );
}
