//! JSON lines: the event contract, version 1. A field is never renamed or given another meaning
//! within a version.

use std::num::NonZeroU64;

use body::{
    add_closed, add_handshake, add_lost, add_reset, add_retransmit, add_skipped, add_state, add_stuck,
};
use jiff::Timestamp;
use object::{Object, Value};
use segment::add_segment;

use super::append::{Append, Digits, SecondText};
use super::{Context, Destination, EventSink, Skipped};
use crate::clock::WallTime;
use crate::lifecycle::event::EventKind;
use crate::lifecycle::{ConnectionId, Event, Time};

mod body;
mod object;
mod segment;

/// Emits one JSON object a line.
#[derive(Debug, Default)]
pub struct Json {
    line: String,
    second: SecondText,
}

impl EventSink for Json {
    fn event(&mut self, event: &Event, context: &Context<'_>, to: &mut dyn Destination) {
        self.write(event.time, name(&event.kind), context, to, |object| {
            object.optional("conn", event.connection.map(ConnectionId::get));
            object.optional("netns", Some(event.netns).filter(|netns| *netns != 0));
            object.optional("cookie", Some(event.cookie).filter(|cookie| *cookie != 0));
            object.optional("frame", event.frame.map(NonZeroU64::get));
            match &event.kind {
                EventKind::Segment(segment) => {
                    let interface = context.interface(event.netns, segment.ifindex);
                    add_segment(segment, interface.as_deref(), object);
                }
                EventKind::State(change) => add_state(change, object),
                EventKind::Handshake(handshake) => add_handshake(handshake, object),
                EventKind::Reset(reset) => add_reset(reset, object),
                EventKind::Retransmit(retransmit) => add_retransmit(retransmit, object),
                EventKind::Closed(closed) => add_closed(closed, object),
                EventKind::Stuck(stuck) => add_stuck(stuck, object),
                EventKind::Lost(lost) => add_lost(lost, object),
            }
        });
    }

    fn skipped(&mut self, skipped: Skipped, time: Time, context: &Context<'_>, to: &mut dyn Destination) {
        self.write(time, "skipped", context, to, |object| add_skipped(skipped, object));
    }
}

impl Json {
    /// Emits a line: an object with the fields that `add` adds after those that all have.
    fn write(
        &mut self,
        time: Time,
        name: &'static str,
        context: &Context<'_>,
        to: &mut dyn Destination,
        add: impl FnOnce(&mut Object<'_>),
    ) {
        let Self { line, second } = self;
        line.clear();
        Object::append(line, |object| {
            object.field("v", VERSION);
            object.optional("time", context.wall_time(time).map(|time| Rfc3339::of(time, second)));
            object.field("event", name);
            add(object);
        });
        line.push('\n');
        to.take(&mut |out| out.extend_from_slice(line.as_bytes()));
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

/// A time in UTC with nanoseconds.
struct Rfc3339<'a> {
    second: &'a str,
    nanos: u32,
}

impl<'a> Rfc3339<'a> {
    fn of(time: WallTime, second: &'a mut SecondText) -> Self {
        let (seconds, nanos) = (time.seconds(), time.nanos());
        let second = second.of(seconds, |text| {
            // 64 bits of nanoseconds end in 2554, long before a timestamp does.
            let begin = Timestamp::from_second(seconds.cast_signed()).unwrap_or(Timestamp::MAX);
            text.push_str(begin.to_string().trim_end_matches('Z'));
        });
        Self { second, nanos }
    }
}

impl Value for Rfc3339<'_> {
    fn append_value(self, to: &mut String) {
        ('"', (self.second, '.', Digits::<9>(self.nanos)), "Z\"").append_to(to);
    }
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
