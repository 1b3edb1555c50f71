//! Packets without a time: the Simple Packet Blocks of pcapng.

use serde_json::Value;

use super::run::{packets, read_from};

/// The packets of a capture without their times, but for those from number `timed` on.
fn pcapng(timed: usize) -> Vec<u8> {
    const SECTION: u32 = 0x0a0d_0d0a;
    const INTERFACE: u32 = 1;
    const SIMPLE_PACKET: u32 = 3;
    const ENHANCED_PACKET: u32 = 6;
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let block = |kind: u32, body: &[u8]| {
        let padding = vec![0; body.len().next_multiple_of(4) - body.len()];
        let len = 12 + (body.len() + padding.len()) as u32;
        [&words(&[kind, len]), body, &padding, &words(&[len])].concat()
    };
    let section = block(SECTION, &words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]));
    // Ethernet, and no snap length.
    let interface = block(INTERFACE, &words(&[1, 0]));
    let (_, packets) = packets("ethernet.pcap");
    let packets = packets.iter().enumerate().map(|(number, packet)| {
        let (_, bytes) = packet.split_at(16);
        let len = bytes.len() as u32;
        if number < timed {
            return block(SIMPLE_PACKET, &[&words(&[len]), bytes].concat());
        }
        // In microseconds: the year 2025.
        let time = 1_750_000_000_000_000 + number as u64;
        let header = words(&[0, (time >> 32) as u32, time as u32, len, len]);
        block(ENHANCED_PACKET, &[&header, bytes].concat())
    });
    [section, interface].into_iter().chain(packets).collect::<Vec<_>>().concat()
}

fn times(json: &str) -> Vec<Option<String>> {
    let events = json.lines().map(|line| serde_json::from_str::<Value>(line).expect("it is JSON"));
    events.map(|event| event.get("time").map(|time| time.as_str().expect("text").to_owned())).collect()
}

#[test]
fn where_no_packet_has_a_time_none_is_shown() {
    let capture = pcapng(usize::MAX);
    let json = read_from(&["-o", "json", "-"], &capture);
    let times = times(&json.out);
    assert!(!times.is_empty() && times.iter().all(Option::is_none), "{times:?}");
    assert!(json.err.contains("the times of"), "{}", json.err);
    for view in ["log", "ladder", "table"] {
        let shown = read_from(&["--view", view, "-"], &capture);
        assert!(shown.out.contains("--:--:--.------"), "{}", shown.out);
        for text in [&shown.out, &shown.err] {
            assert!(!text.contains("1970") && !text.contains("00:00:00"), "{text}");
        }
    }
    let ladder = read_from(&["--view", "ladder", "-"], &capture).out;
    assert!(!ladder.contains("0.000000"), "{ladder}");
}

#[test]
fn events_have_times_from_the_first_packet_that_has_one() {
    let json = read_from(&["-o", "json", "-"], &pcapng(3));
    let times = times(&json.out);
    let untimed = times.iter().take_while(|time| time.is_none()).count();
    let (_, timed) = times.split_at(untimed);
    assert!(untimed > 0 && !timed.is_empty(), "{times:?}");
    assert!(
        timed.iter().all(|time| time.as_ref().is_some_and(|time| time.starts_with("2025-"))),
        "{times:?}"
    );
}
