//! The bytes are a capture file.

use std::io::Cursor;
use std::num::NonZeroU64;

use tcp_monitor::capture::{Capture, CaptureError, Statistics};
use tcp_monitor::lifecycle::Input;

pub(crate) fn run(data: &[u8]) {
    // A compressed file can expand to a thousand times its length.
    let len = if data.starts_with(&[0x1f, 0x8b]) { 1100 * data.len() } else { data.len() };
    let mut capture = match Capture::read(Cursor::new(data.to_vec())) {
        Ok(capture) => capture,
        Err(error) => return describe(&error, len),
    };
    let (mut segments, mut number, mut offset) = (0, 0, capture.offset());
    while let Some(packet) = capture.next() {
        match packet {
            Ok(input) => {
                let Input::Segment(segment) = input else { panic!("{input:?} is not a segment") };
                let frame = segment.frame.map_or(0, NonZeroU64::get);
                assert!(frame > number, "frame numbers increase: {segment:?} after {number}");
                assert!((20..=60).contains(&segment.header.header_len), "{segment:?}");
                number = frame;
                segments += 1;
            }
            Err(error) => {
                describe(&error, len);
                assert!(capture.next().is_none(), "nothing comes after an error");
            }
        }
        assert!((offset..=len as u64).contains(&capture.offset()), "{} of {len}", capture.offset());
        offset = capture.offset();
    }
    let Statistics { packets, tcp, not_tcp, later_fragments, truncated, malformed, unknown_link, untimed } =
        capture.statistics();
    let unknown: u64 = unknown_link.values().sum();
    assert_eq!(
        *packets,
        tcp + not_tcp + later_fragments + truncated + malformed + unknown,
        "each counts once"
    );
    assert!(*tcp == segments && untimed <= tcp);
}

/// The offset of an error lies within the file.
fn describe(error: &CaptureError, len: usize) {
    assert!(!error.to_string().is_empty());
    assert!(error.offset().is_none_or(|offset| offset <= len as u64), "{error} in {len} bytes");
}
