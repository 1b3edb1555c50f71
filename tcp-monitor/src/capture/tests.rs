//! Capture files of every kind, valid and not.

mod build;
mod damage;
mod formats;
mod headers;
mod tshark;

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
};

use super::{Capture, CaptureError, Statistics};
use crate::lifecycle::{Input, SegmentInput};

/// All that can be read from these bytes.
fn read_all(bytes: &[u8]) -> (Vec<SegmentInput>, Statistics, Option<CaptureError>) {
    let mut capture = match Capture::read(Cursor::new(bytes.to_vec())) {
        Ok(capture) => capture,
        Err(error) => return (Vec::new(), Statistics::default(), Some(error)),
    };
    let (mut packets, mut error) = (Vec::new(), None);
    for packet in &mut capture {
        match packet {
            Ok(input) => {
                let Input::Segment(segment) = input else { panic!("{input:?} is no segment") };
                packets.push(segment);
            }
            Err(reason) => error = Some(reason),
        }
    }
    let statistics = capture.statistics().clone();
    assert_eq!(packets.len() as u64, statistics.tcp);
    (packets, statistics, error)
}

/// The checked-in captures, which `tests/captures/record` recorded.
fn recorded() -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let mut captures: Vec<_> = fs::read_dir(directory)
        .expect("the directory is checked in")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.contains(".pcap") && !name.ends_with(".tsv")
        })
        .map(|path| {
            let bytes = fs::read(&path).expect("it is checked in");
            (path, bytes)
        })
        .collect();
    captures.sort();
    assert!(captures.len() > 15, "{captures:?}");
    captures
}
