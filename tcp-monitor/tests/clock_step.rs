//! A step of the wall clock changes the times in the output, and nothing else: no duration, no
//! timer, no order. The records are made up, the clock is set by hand.

use serde_json::Value;
use tcp_monitor::clock::{WallClock, WallTime};
use tcp_monitor::kernel::decode::decode;
use tcp_monitor::lifecycle::{Event, InferFrom, Options, Time, Tracker};
use tcp_monitor::output::{Context, EventSink, Json, NoNames};
use tcp_monitor_common::TcpState as S;
use tcp_monitor_common::record::{Header, Kind, Role, SocketRecord, flags};
use zerocopy::IntoBytes;

#[test]
fn a_step_of_the_wall_clock_changes_no_duration_and_no_order() {
    let steady = play(0);
    assert_eq!(steady.len(), 7, "{steady:#?}");
    let closed = steady.iter().find(|event| event["event"] == "closed").expect("the connection is closed");
    assert_eq!(closed["duration_us"], 1_002_000);
    for step in [HOUR, -HOUR, 120 * SECOND, -120 * SECOND] {
        let stepped = play(step);
        assert_eq!(stepped.len(), steady.len(), "{stepped:#?}");
        for (before, after) in steady.iter().zip(&stepped) {
            // The first three events were before the step.
            let expected = if nanos(before) < START + STEPPED_AT { 0 } else { step };
            assert_eq!(nanos(after) - nanos(before), expected, "{after}");
            assert_eq!(without_time(after), without_time(before));
        }
    }
}

#[test]
fn time_wait_lasts_its_60_seconds_whatever_the_wall_clock_does() {
    for step in [0, HOUR, -HOUR, 120 * SECOND] {
        let mut log = Log::new();
        log.play_connection(step);
        let entered = log.events.len();
        log.clock.set(at(2_000), wall(START + 2 * SECOND + step));
        for (ms, is_over) in [(1_504, false), (60_000, false), (61_003, false), (61_100, true)] {
            log.expire(ms);
            assert_eq!(
                log.events.len() > entered,
                is_over,
                "a step of {step} ns, {ms} ms: {:#?}",
                log.events
            );
        }
        let last = log.events.last().expect("there are events");
        assert_eq!(last["from"], "time_wait");
        assert_eq!(last["evidence"], "timer");
        assert_eq!(last["state_duration_us"], 60_000_000);
    }
}

/// The events of a connection that is open for a second, during which the wall clock is set.
fn play(step: i64) -> Vec<Value> {
    let mut log = Log::new();
    log.play_connection(step);
    log.events
}

struct Log {
    tracker: Tracker,
    clock: WallClock,
    events: Vec<Value>,
}

impl Log {
    fn new() -> Self {
        Self {
            tracker: Tracker::with(Options { infer_from: InferFrom::ControlSegments, ..Options::default() }),
            clock: WallClock::new(at(0), wall(START)),
            events: Vec::new(),
        }
    }

    fn play_connection(&mut self, step: i64) {
        self.process(1, S::Close, S::SynSent);
        self.process(2, S::SynSent, S::Established);
        // NTP, a resumed virtual machine or `date -s`.
        self.clock.set(at(500), wall(START + STEPPED_AT + step));
        self.process(1_002, S::Established, S::FinWait1);
        self.process(1_003, S::FinWait1, S::FinWait2);
        self.process(1_004, S::FinWait2, S::Close);
    }

    fn process(&mut self, ms: u64, from: S, to: S) {
        let mut events = Vec::new();
        let input = decode(record(ms, from, to).as_bytes()).expect("a valid record");
        self.tracker.handle(input, &mut events);
        self.write(&events);
    }

    fn expire(&mut self, ms: u64) {
        let mut events = Vec::new();
        self.tracker.expire(at(ms), &mut events);
        self.write(&events);
    }

    fn write(&mut self, events: &[Event]) {
        let mut lines = Vec::new();
        for event in events {
            Json::default().event(event, &Context::new(&self.clock, &NoNames), &mut lines);
        }
        let lines = String::from_utf8(lines).expect("JSON is UTF-8");
        self.events
            .extend(lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("it is JSON")));
    }
}

fn record(ms: u64, from: S, to: S) -> SocketRecord {
    let peer_closed = if from == S::FinWait2 { flags::PEER_CLOSED } else { 0 };
    SocketRecord {
        header: Header {
            time: ms * 1_000_000,
            netns: 1,
            kind: Kind::State as u8,
            ip_version: 4,
            reserved: [0; 2],
        },
        cookie: 7,
        sk: 1,
        local_addr: [10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        remote_addr: [10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        local_port: 40_000,
        remote_port: 80,
        role: Role::Client as u8,
        old_state: from as u8,
        new_state: to as u8,
        flags: flags::FULL_SOCKET | peer_closed,
        ..SocketRecord::default()
    }
}

fn at(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

fn wall(nanos: i64) -> WallTime {
    WallTime::from_unix_nanos(nanos.cast_unsigned())
}

fn nanos(event: &Value) -> i64 {
    let time: jiff::Timestamp = event["time"].as_str().expect("a time").parse().expect("RFC 3339");
    i64::try_from(time.as_nanosecond()).expect("before 2262")
}

fn without_time(event: &Value) -> Value {
    let mut event = event.clone();
    event["time"].take();
    event
}

const SECOND: i64 = 1_000_000_000;
const HOUR: i64 = 3600 * SECOND;
const START: i64 = 1_800_000_000 * SECOND;
const STEPPED_AT: i64 = SECOND / 2;
