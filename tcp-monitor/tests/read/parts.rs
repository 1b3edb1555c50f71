//! Several files, and the selection of connections and events.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use super::run::{bytes, command, finish, packets, path, read, read_from};

fn events(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
}

fn without(mut event: Value, field: &str) -> Value {
    if let Some(fields) = event.as_object_mut() {
        fields.remove(field);
    }
    event
}

fn without_numbers(event: &Value) -> Value {
    without(without(event.clone(), "conn"), "frame")
}

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
    let [first, both] = [&ethernet, &twice].map(|said| events(&said.out));
    assert_eq!(both.len(), 2 * first.len());
    for (event, expected) in both.iter().zip(first.iter().chain(&first)) {
        assert_eq!(without_numbers(event), without_numbers(expected), "nothing counts as retransmitted");
    }
    // Numbers go on: no connection of the second file has one of the first, and frames count all
    // packets.
    let (_, packets) = packets("ethernet.pcap");
    let (of_first, of_second) = both.split_at(first.len());
    assert_eq!(of_first, first);
    for (event, expected) in of_second.iter().zip(&first) {
        let number = |event: &Value, field: &str| event[field].as_u64();
        assert_eq!(number(event, "conn"), number(expected, "conn").map(|conn| conn + 4), "{event}");
        let frames = packets.len() as u64;
        assert_eq!(number(event, "frame"), number(expected, "frame").map(|frame| frame + frames), "{event}");
    }
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
        let expected = events(&all.out).into_iter().filter(|event| {
            let ends = ["src", "dst", "local", "remote"]
                .map(|end| event[end].as_str().unwrap_or_default().to_owned());
            ends.iter().any(|end| end.ends_with(&ending))
        });
        // Only the selected connections are counted.
        let expected: Vec<_> = expected.map(|event| without(event, "conn")).collect();
        assert!(expected.len() >= least, "{port}: {}", expected.len());
        let selected = events(&selected.out).into_iter().map(|event| without(event, "conn"));
        assert_eq!(selected.collect::<Vec<_>>(), expected, "{port}");
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
fn the_c_locale_means_ascii() {
    let unicode = read(&[&path("ethernet.pcap")]);
    let option = read(&["--ascii", &path("ethernet.pcap")]);
    assert!(!unicode.out.is_ascii() && option.out.is_ascii() && option.out.contains(" -> "));
    for (variables, is_ascii) in [
        ([("LC_ALL", "C"), ("LC_CTYPE", "en_US.UTF-8"), ("LANG", "en_US.UTF-8")], true),
        ([("LC_ALL", ""), ("LC_CTYPE", "POSIX"), ("LANG", "en_US.UTF-8")], true),
        ([("LC_ALL", ""), ("LC_CTYPE", ""), ("LANG", "C")], true),
        ([("LC_ALL", "C.UTF-8"), ("LC_CTYPE", "C"), ("LANG", "C")], false),
    ] {
        let said = finish(command().envs(variables).arg(path("ethernet.pcap")), b"");
        let expected = if is_ascii { &option.out } else { &unicode.out };
        assert_eq!(&said.out, expected, "{variables:?}");
        assert_eq!(said.err.is_ascii(), is_ascii, "{}", said.err);
    }
    // The views, too.
    let ladder = finish(command().env("LC_ALL", "C").args(["--view", "ladder", &path("ethernet.pcap")]), b"");
    assert!(ladder.out.is_ascii(), "{}", ladder.out);
}

#[test]
fn colour_is_for_terminals_or_on_request() {
    let plain = read(&[&path("ethernet.pcap")]);
    let coloured = read(&["--color", "always", &path("ethernet.pcap")]);
    assert!(!plain.out.contains('\x1b') && coloured.out.contains("\x1b[36mSYN"));
}

#[test]
fn interfaces_have_the_names_that_the_file_gives_them() {
    let said = read_from(&["-o", "json", "-"], &bytes("sections.pcapng"));
    let segments: Vec<_> =
        events(&said.out).into_iter().filter(|event| event["event"] == "segment").collect();
    assert!(!segments.is_empty() && segments.iter().all(|segment| segment["interface"] == "left0"));
}
