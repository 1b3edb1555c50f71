//! Files that are not captures, or damaged: the error is reported, earlier packets and other files
//! are processed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use tempfile::TempDir;

use super::run::{Said, bytes, capture, finish, packets, path, read, read_from};

#[test]
fn a_file_that_cannot_be_read_is_named_once_with_the_reason_and_the_others_are_read() {
    let whole = read(&[&path("ethernet.pcap")]);
    let folder = TempDir::new().expect("a temporary folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("a temporary file");
        path.to_string_lossy().into_owned()
    };
    for (bad, reason) in [
        ("/nowhere/x.pcap".to_owned(), "it cannot be opened: No such file or directory (os error 2)"),
        (folder.path().to_string_lossy().into_owned(), "it cannot be opened: is a directory"),
        (file("empty", b""), "it is empty: a capture has at least a header"),
        (
            file("notes.txt", b"to do: capture"),
            "it is neither pcap nor pcapng: it begins with the bytes [74, 6f, 20, 64]",
        ),
        (
            file("a.zst", b"\x28\xb5\x2f\xfd----"),
            "it is compressed by zstd: decompress it first, as in `zstd -dc FILE",
        ),
        (
            file("a.pcap", &bytes("ethernet.pcap")[..10]),
            "it is truncated: the file header at byte 0 has 24 bytes, the file only 10 of them",
        ),
    ] {
        let said = read(&[&bad, &path("ethernet.pcap")]);
        assert!(said.err.starts_with(&format!("tcp-monitor: {bad}: {reason}")), "{}", said.err);
        assert!(
            said.err.ends_with("\ntcp-monitor: 1 of 2 captures were not read to their end\n"),
            "{}",
            said.err
        );
        assert_eq!((said.out, said.code), (whole.out.clone(), Some(1)));
    }
}

#[test]
fn there_is_no_summary_if_no_file_could_be_read() {
    let missing =
        "tcp-monitor: /nowhere/x.pcap: it cannot be opened: No such file or directory (os error 2)\n";
    let said = read(&["/nowhere/x.pcap"]);
    assert_eq!(said.err, format!("{missing}tcp-monitor: the capture was not read to its end\n"));
    let said = read(&["/nowhere/x.pcap", "/nowhere/x.pcap"]);
    assert_eq!(
        said.err,
        format!("{missing}{missing}tcp-monitor: 2 of 2 captures were not read to their end\n")
    );
    // One that is whole and without a packet was read.
    let header = &bytes("ethernet.pcap")[..24];
    assert_eq!(read_from(&["-"], header).err, "read 0 packets, 0 of them TCP segments\n0 connections\n");
}

#[test]
fn for_a_truncated_capture_the_offset_is_reported_and_earlier_packets_are_processed() {
    let whole = bytes("ethernet.pcap");
    let (_, packets) = packets("ethernet.pcap");
    let last = packets.last().map_or(0, Vec::len);
    let said = read_from(&["-"], &whole[..whole.len() - 1]);
    let reason = format!(
        "tcp-monitor: -: it is truncated: the packet at byte {} has {last} bytes, the file only {} of them; \
         earlier packets were processed",
        whole.len() - last,
        last - 1
    );
    assert!(said.err.starts_with(&reason), "{}", said.err);
    assert!(said.err.ends_with("tcp-monitor: the capture was not read to its end\n"), "{}", said.err);
    let without = read_from(&["-"], &whole[..whole.len() - last]);
    assert_eq!((said.out, said.code, without.code), (without.out, Some(1), Some(0)));
}

#[test]
fn for_a_damaged_capture_the_offset_is_reported() {
    let whole = bytes("nanoseconds.pcapng");
    let mut damaged = whole.clone();
    // The length of the last block, at its end.
    let end = damaged.len() - 4;
    damaged[end..].copy_from_slice(&[1, 0, 0, 0]);
    let said = read_from(&["-o", "json", "-"], &damaged);
    assert!(said.err.contains("the block at byte "), "{}", said.err);
    assert!(
        said.err.contains("the file is damaged from there on; earlier packets were processed"),
        "{}",
        said.err
    );
    let events = read_from(&["-o", "json", "-"], &whole).out;
    assert!(!said.out.is_empty() && events.starts_with(&said.out) && said.code == Some(1), "{}", said.err);
}

#[test]
fn gzip_is_read_and_for_truncated_gzip_the_offset_is_reported() {
    let compressed = bytes("merged.pcapng.gz");
    let plain = read(&["-o", "json", &path("merged.pcapng")]);
    let whole = read_from(&["-o", "json", "-"], &compressed);
    assert_eq!((&plain.out, plain.code, plain.err), (&whole.out, whole.code, whole.err));
    let said = read_from(&["-o", "json", "-"], &compressed[..compressed.len() / 2]);
    assert!(
        said.err.contains("tcp-monitor: -: the gzip data is damaged or truncated at byte "),
        "{}",
        said.err
    );
    assert!(said.err.contains("`gzip -t` checks the file"), "{}", said.err);
    assert!(!said.out.is_empty() && plain.out.starts_with(&said.out) && said.code == Some(1));
}

#[test]
fn skipped_packets_are_counted_by_reason_and_reported_once() {
    let (mut header, packets) = packets("ethernet.pcap");
    // Enough for Ethernet, IP and half a TCP header.
    let cut: Vec<u8> = packets
        .iter()
        .flat_map(|packet| {
            let mut packet = packet[..packet.len().min(16 + 40)].to_vec();
            let captured = u32::try_from(packet.len() - 16).expect("it is short");
            packet[8..12].copy_from_slice(&captured.to_le_bytes());
            packet
        })
        .collect();
    let said = read_from(&["-"], &[header.clone(), cut].concat());
    assert_eq!(said.code, Some(0));
    assert!(said.out.is_empty(), "{}", said.out);
    assert!(
        said.err.contains(" truncated by the snap length before the end of the TCP header"),
        "{}",
        said.err
    );

    // NFLOG
    header[20..24].copy_from_slice(&239_u32.to_le_bytes());
    let said = read_from(&["-"], &[header, packets.concat()].concat());
    let skipped = format!("skipped: {} of NFLOG (239), which is not supported\n", packets.len());
    assert_eq!((said.err.matches(&skipped).count(), said.code), (1, Some(0)), "{}", said.err);
}

#[test]
fn a_file_without_read_permission_is_reported() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("secret.pcap");
    fs::copy(capture("ethernet.pcap"), &file).expect("a temporary file");
    fs::set_permissions(&file, Permissions::from_mode(0o0)).expect("it is ours");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcp-monitor"));
    if rustix::process::geteuid().is_root() {
        // Root may read everything, and an account without rights may not enter the folder of the
        // binary.
        let binary = folder.path().join("tcp-monitor");
        // Not by this process: what another test starts meanwhile would inherit it open for
        // writing.
        let copied = Command::new("cp")
            .args([env!("CARGO_BIN_EXE_tcp-monitor").as_ref(), binary.as_os_str()])
            .status();
        assert!(copied.is_ok_and(|status| status.success()), "there is room for it");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("it is ours");
        command = Command::new(binary);
        command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
    }
    let Said { code, err, .. } = finish(command.arg("read").arg(&file), b"");
    let reason =
        format!("tcp-monitor: {}: it cannot be opened: Permission denied (os error 13)\n", file.display());
    assert!(err.starts_with(&reason), "{err}");
    assert_eq!(code, Some(1));
}

const UNPRIVILEGED: u32 = 65534;
