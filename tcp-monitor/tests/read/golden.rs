//! The output for captures, to the letter.
//!
//! After an intended change: `BLESS=1 cargo test -p tcp-monitor --test read`, then read the
//! difference.

use std::path::Path;
use std::{env, fs};

use super::run::{path, read};

#[test]
fn text_is_as_it_was() {
    for capture in ["ethernet.pcap", "lossy.pcap", "headers.pcap", "cooked2.pcap"] {
        check(capture, &["--output", "text"], "txt");
    }
}

#[test]
fn text_and_ladder_of_every_scenario_are_as_they_were() {
    let scenarios = fs::read_dir(path("scenarios")).expect("it is checked in");
    let mut names: Vec<_> = scenarios
        .map(|entry| entry.expect("its entries").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    assert!(names.len() >= 27, "{names:?}");
    for name in names {
        let capture = format!("scenarios/{name}");
        check(&capture, &["--output", "text"], "txt");
        check(&capture, &["--view", "ladder"], "ladder.txt");
    }
}

#[test]
fn json_is_as_it_was() {
    for capture in ["ethernet.pcap", "sections.pcapng", "short.pcap"] {
        check(capture, &["--output", "json"], "jsonl");
    }
}

#[test]
fn the_document_shows_what_is_printed() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/captures.md");
    let document = fs::read_to_string(document).expect("it is checked in");
    let said = read(&[&path("scenarios/lost_fin.pcap")]);
    let example = format!("```\n{}{}```\n", said.out, said.err);
    assert!(document.contains(&example), "not in docs/captures.md:\n{example}");
}

fn check(capture: &str, options: &[&str], ending: &str) {
    let said = read(&[options, &[&path(capture)]].concat());
    assert_eq!(said.code, Some(0), "{}", said.err);
    // The summary goes to another place, and belongs to the picture.
    let printed = format!("{}--- standard error ---\n{}", said.out, said.err);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/read/{capture}.{ending}"));
    if env::var_os("BLESS").is_some() {
        fs::write(&golden, &printed).expect("the golden file is written");
    }
    let expected = fs::read_to_string(&golden).expect("it is checked in");
    for (line, expected) in printed.lines().zip(expected.lines()) {
        assert_eq!(line, expected, "{capture}");
    }
    assert_eq!(printed.len(), expected.len(), "{capture}: one of the two goes on");
}
