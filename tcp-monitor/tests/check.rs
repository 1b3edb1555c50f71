//! The check of sequence and acknowledgment numbers, on recorded captures: kernels get them right.

use std::path::Path;

use tcp_monitor::capture::Capture;
use tcp_monitor::lifecycle::event::{Check, Step};
use tcp_monitor::lifecycle::{EventKind, InferFrom, Options, Tracker};

#[test]
fn no_number_in_the_recorded_captures_is_wrong() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let mut checked = 0;
    for file in folder.read_dir().expect("the captures are there") {
        let file = file.expect("a file").path();
        if file.extension().is_none_or(|extension| extension != "pcap" && extension != "pcapng") {
            continue;
        }
        for (step, check) in steps(&file) {
            assert!(check.holds(), "{}: {step:?} {check:?}", file.display());
            checked += usize::from(check.ack.is_some());
        }
    }
    assert!(checked > 100, "{checked} numbers were checked");
}

#[test]
fn every_syn_ack_to_a_syn_that_was_seen_is_checked() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures/ethernet.pcap");
    let steps = steps(&file);
    let of_syn_acks: Vec<_> = steps.iter().filter(|(step, _)| *step == Step::SynAck).collect();
    assert!(!of_syn_acks.is_empty() && of_syn_acks.iter().all(|(_, check)| check.ack.is_some()), "{steps:?}");
}

/// The steps of a capture with their checks.
fn steps(file: &Path) -> Vec<(Step, Check)> {
    let mut tracker = Tracker::with(Options { infer_from: InferFrom::AllSegments, ..Options::default() });
    let mut events = Vec::new();
    for input in Capture::open(file).expect("a capture").map_while(Result::ok) {
        tracker.handle(input, &mut events);
    }
    let steps = events.iter().filter_map(|event| match &event.kind {
        EventKind::Segment(segment) => Some((segment.step, segment.check)),
        EventKind::State(_)
        | EventKind::Handshake(_)
        | EventKind::Reset(_)
        | EventKind::Retransmit(_)
        | EventKind::Closed(_)
        | EventKind::Stuck(_)
        | EventKind::Lost(_) => None,
    });
    steps.collect()
}
