//! The binary, and captures to feed it with.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// `tcp-monitor read`, in UTC and without the environment's wishes.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcp-monitor"));
    command
        .arg("read")
        .env("TZ", "UTC")
        .env("LC_ALL", "C.UTF-8")
        .env_remove("NO_COLOR")
        .env_remove("RUST_LOG");
    command
}

pub(crate) fn read(arguments: &[&str]) -> Said {
    read_from(arguments, b"")
}

/// With `input` on standard input.
pub(crate) fn read_from(arguments: &[&str], input: &[u8]) -> Said {
    finish(command().args(arguments), input)
}

pub(crate) fn finish(command: &mut Command, input: &[u8]) -> Said {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = piped.expect("the binary starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    let output = thread::scope(|scope| {
        // It may stop reading before the end.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().expect("it ends")
    });
    let text = |bytes| String::from_utf8(bytes).expect("it writes UTF-8");
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

pub(crate) fn capture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures").join(name)
}

pub(crate) fn path(name: &str) -> String {
    capture(name).to_string_lossy().into_owned()
}

pub(crate) fn bytes(name: &str) -> Vec<u8> {
    fs::read(capture(name)).expect("it is checked in")
}

/// The header of a little-endian pcap file and its packets.
pub(crate) fn packets(name: &str) -> (Vec<u8>, Vec<Vec<u8>>) {
    let file = bytes(name);
    let (header, mut rest) = file.split_at(24);
    let mut packets = Vec::new();
    while let Some(&[a, b, c, d]) = rest.get(8..12) {
        let (packet, others) = rest.split_at(16 + u32::from_le_bytes([a, b, c, d]) as usize);
        packets.push(packet.to_vec());
        rest = others;
    }
    (header.to_vec(), packets)
}
