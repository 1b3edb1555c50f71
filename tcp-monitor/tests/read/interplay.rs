//! Pipes and signals: input that comes slowly, readers that go away, Ctrl-C.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::run::{bytes, command, path, read};

/// A reader of a capture through a pipe that is still open; it has printed its first event.
fn waiting() -> (Child, ChildStdin, BufReader<ChildStdout>) {
    let piped = command()
        .args(["-o", "json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = piped.expect("the binary starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(&bytes("ethernet.pcap")).expect("it is read");
    let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = String::new();
    // Would wait for ever if nothing were written before the end of the input.
    stdout.read_line(&mut line).expect("an event is written");
    assert!(line.contains(r#""event":"segment""#), "{line}");
    (child, stdin, stdout)
}

fn said(mut child: Child) -> (Option<i32>, String) {
    let mut err = String::new();
    let mut stderr = child.stderr.take().expect("it is piped");
    stderr.read_to_string(&mut err).expect("it writes UTF-8");
    (child.wait().expect("it ends").code(), err)
}

#[test]
fn a_signal_ends_the_wait_for_input_and_earlier_packets_are_processed() {
    for signal in [Signal::INT, Signal::TERM] {
        let (child, stdin, mut stdout) = waiting();
        kill_process(Pid::from_child(&child), signal).expect("it runs");
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).expect("it writes UTF-8");
        let (code, err) = said(child);
        assert_eq!(code, Some(0), "{err}");
        assert!(err.contains("\n4 connections: 2 closed · 2 failed\n"), "{err}");
        let all = read(&["-o", "json", &path("ethernet.pcap")]).out.lines().count();
        assert_eq!(rest.lines().count(), all - 1);
        drop(stdin);
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_even_while_it_waits_for_input() {
    let (child, stdin, stdout) = waiting();
    drop(stdout);
    let (code, err) = said(child);
    assert_eq!(code, Some(0), "{err}");
    drop(stdin);
}
