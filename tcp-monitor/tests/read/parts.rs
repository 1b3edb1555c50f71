//! Several files, and which connections of them are told.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use super::run::{bytes, packets, path, read, read_from};

/// The files of a ring, as of `tcpdump -C`: a capture cut between two packets of a connection.
fn ring() -> (TempDir, [String; 2]) {
    let folder = TempDir::new().expect("a temporary folder");
    let (header, packets) = packets("ethernet.pcap");
    let halves = packets.split_at(packets.len() / 4);
    let names = [halves.0, halves.1].into_iter().enumerate().map(|(number, half)| {
        let file = folder.path().join(format!("ring{number}"));
        fs::write(&file, [header.clone(), half.concat()].concat()).expect("a temporary file");
        file.to_string_lossy().into_owned()
    });
    let names: Vec<_> = names.collect();
    (folder, names.try_into().expect("two halves"))
}

#[test]
fn files_in_their_order_are_parts_of_one_capture() {
    let (_folder, [first, second]) = ring();
    let whole = read(&["-o", "json", &path("ethernet.pcap")]);
    let parts = read(&["-o", "json", &first, &second]);
    assert_eq!((parts.out, parts.err, parts.code), (whole.out.clone(), whole.err.clone(), Some(0)));
    // One of them may be standard input.
    let second = fs::read(second).expect("it was written");
    let parts = read_from(&["-o", "json", &first, "-"], &second);
    assert_eq!((parts.out, parts.err), (whole.out, whole.err));
}

#[test]
fn a_file_that_begins_before_the_one_before_it_ended_is_a_capture_of_its_own() {
    let ethernet = read(&["-o", "json", &path("ethernet.pcap")]);
    let twice = read(&["-o", "json", &path("ethernet.pcap"), &path("ethernet.pcap")]);
    assert!(twice.out == ethernet.out.repeat(2), "nothing is taken to be sent again:\n{}", twice.out);
    assert_eq!(twice.code, Some(0));
    assert_eq!(twice.err.matches("begins 0.5 s before the latest packet so far").count(), 1, "{}", twice.err);
    let count = |said: &str| said.lines().find(|line| line.contains(" connections: ")).map(str::to_owned);
    assert_eq!(count(&ethernet.err), Some("4 connections: 2 closed · 2 failed".into()));
    assert_eq!(count(&twice.err), Some("8 connections: 4 closed · 4 failed".into()));
}

#[test]
fn time_that_goes_back_within_a_file_does_no_harm() {
    let (header, packets) = packets("ethernet.pcap");
    let (begin, end) = packets.split_at(packets.len() / 2);
    let swapped = [header, end.concat(), begin.concat()].concat();
    let said = read_from(&["-o", "json", "-"], &swapped);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.lines().any(|line| line.contains(r#""event":"handshake""#)));
}

#[test]
fn a_port_selects_whole_connections_by_either_end_and_changes_nothing_of_them() {
    let all = read(&["-o", "json", &path("merged.pcapng")]);
    for (port, least) in [("8899", 50), ("81", 10), ("47730", 10)] {
        let selected = read(&["-o", "json", "-p", port, &path("merged.pcapng")]);
        let ending = format!(":{port}");
        let expected = all.out.lines().filter(|line| {
            let event: Value = serde_json::from_str(line).expect("it is JSON");
            let ends = ["src", "dst", "local", "remote"]
                .map(|end| event[end].as_str().unwrap_or_default().to_owned());
            ends.iter().any(|end| end.ends_with(&ending))
        });
        let expected: Vec<_> = expected.collect();
        assert!(expected.len() >= least, "{port}: {}", expected.len());
        assert_eq!(selected.out.lines().collect::<Vec<_>>(), expected, "{port}");
    }
    let nothing = read(&["-p", "9", &path("merged.pcapng")]);
    assert_eq!((nothing.out.as_str(), nothing.code), ("", Some(0)));
    assert!(nothing.err.contains("\n0 connections\n"), "{}", nothing.err);
}

#[test]
fn count_ends_it_and_none_writes_nothing() {
    let all = read(&["-o", "json", &path("ethernet.pcap")]);
    let some = read(&["-o", "json", "-c", "3", &path("ethernet.pcap")]);
    assert_eq!(some.out, all.out.lines().take(3).map(|line| format!("{line}\n")).collect::<String>());
    // The line with the date is none.
    let text = read(&["-c", "3", &path("ethernet.pcap")]);
    assert_eq!((text.out.lines().count(), text.code), (4, Some(0)), "{}", text.out);
    let none = read(&["-o", "none", &path("ethernet.pcap")]);
    assert_eq!((none.out, none.err, none.code), (String::new(), all.err, Some(0)));
}

#[test]
fn colour_is_for_terminals_or_whoever_asks() {
    let plain = read(&[&path("ethernet.pcap")]);
    let coloured = read(&["--color", "always", &path("ethernet.pcap")]);
    assert!(!plain.out.contains('\x1b') && coloured.out.contains("\x1b[36mSYN"));
}

#[test]
fn interfaces_have_the_names_that_the_file_gives_them() {
    let said = read_from(&["-o", "json", "-"], &bytes("sections.pcapng"));
    let segments: Vec<Value> = said
        .out
        .lines()
        .map(|line| serde_json::from_str(line).expect("it is JSON"))
        .filter(|event: &Value| event["event"] == "segment")
        .collect();
    assert!(!segments.is_empty() && segments.iter().all(|segment| segment["interface"] == "left0"));
}
