//! Files that are not captures, or not whole: what is wrong is said, what came before it is told, the others are read.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use tempfile::TempDir;

use super::run::{Said, bytes, capture, finish, packets, path, read, read_from};

#[test]
fn what_cannot_be_read_is_named_once_with_its_reason_and_the_others_are_read() {
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
        (
            file("empty", b""),
            "there is nothing in it, not even the header of a capture: was it ever written to?",
        ),
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
            "it is cut off: the file header at byte 0 takes 24 bytes, and there are 10",
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
fn nothing_is_summed_up_where_no_file_could_be_read() {
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
fn of_a_capture_that_is_cut_off_the_place_is_said_and_all_before_it_told() {
    let whole = bytes("ethernet.pcap");
    let (_, packets) = packets("ethernet.pcap");
    let last = packets.last().map_or(0, Vec::len);
    let said = read_from(&["-"], &whole[..whole.len() - 1]);
    let reason = format!(
        "tcp-monitor: -: it is cut off: the packet at byte {} takes {last} bytes, and there are {}; what came before it was read",
        whole.len() - last,
        last - 1
    );
    assert!(said.err.starts_with(&reason), "{}", said.err);
    assert!(said.err.ends_with("tcp-monitor: the capture was not read to its end\n"), "{}", said.err);
    let without = read_from(&["-"], &whole[..whole.len() - last]);
    assert_eq!((said.out, said.code, without.code), (without.out, Some(1), Some(0)));
}

#[test]
fn damage_says_at_which_byte_it_begins() {
    let whole = bytes("nanoseconds.pcapng");
    let mut damaged = whole.clone();
    // The length of the last block, at its end.
    let end = damaged.len() - 4;
    damaged[end..].copy_from_slice(&[1, 0, 0, 0]);
    let said = read_from(&["-o", "json", "-"], &damaged);
    assert!(said.err.contains("the block at byte "), "{}", said.err);
    assert!(
        said.err.contains("the file is damaged from there on; what came before it was read"),
        "{}",
        said.err
    );
    let events = read_from(&["-o", "json", "-"], &whole).out;
    assert!(!said.out.is_empty() && events.starts_with(&said.out) && said.code == Some(1), "{}", said.err);
}

#[test]
fn gzip_is_read_and_where_it_is_cut_off_is_said() {
    let compressed = bytes("merged.pcapng.gz");
    let plain = read(&["-o", "json", &path("merged.pcapng")]);
    let whole = read_from(&["-o", "json", "-"], &compressed);
    assert_eq!((&plain.out, plain.code, plain.err), (&whole.out, whole.code, whole.err));
    let said = read_from(&["-o", "json", "-"], &compressed[..compressed.len() / 2]);
    assert!(
        said.err.contains("tcp-monitor: -: the gzip data are damaged or cut off where byte "),
        "{}",
        said.err
    );
    assert!(said.err.contains("`gzip -t` checks the file"), "{}", said.err);
    assert!(!said.out.is_empty() && plain.out.starts_with(&said.out) && said.code == Some(1));
}

#[test]
fn packets_that_are_left_out_are_counted_by_reason_and_said_once() {
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
        said.err.contains(" cut off by the snap length before the end of the TCP header"),
        "{}",
        said.err
    );

    // NFLOG
    header[20..24].copy_from_slice(&239_u32.to_le_bytes());
    let said = read_from(&["-"], &[header, packets.concat()].concat());
    let left_out = format!("left out: {} of NFLOG (239), which is not read here\n", packets.len());
    assert_eq!((said.err.matches(&left_out).count(), said.code), (1, Some(0)), "{}", said.err);
}

#[test]
fn a_file_that_only_others_may_read_says_so() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("secret.pcap");
    fs::copy(capture("ethernet.pcap"), &file).expect("a temporary file");
    fs::set_permissions(&file, Permissions::from_mode(0o0)).expect("it is ours");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcp-monitor"));
    if rustix::process::geteuid().is_root() {
        // Root may read everything, and nobody may not look where the binary is.
        let binary = folder.path().join("tcp-monitor");
        // Not by this process: what another test starts meanwhile would have it open for writing.
        let copied = Command::new("cp")
            .args([env!("CARGO_BIN_EXE_tcp-monitor").as_ref(), binary.as_os_str()])
            .status();
        assert!(copied.is_ok_and(|status| status.success()), "there is room for it");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("it is ours");
        command = Command::new(binary);
        command.uid(NOBODY).gid(NOBODY);
    }
    let Said { code, err, .. } = finish(command.arg("read").arg(&file), b"");
    let reason =
        format!("tcp-monitor: {}: it cannot be opened: Permission denied (os error 13)\n", file.display());
    assert!(err.starts_with(&reason), "{err}");
    assert_eq!(code, Some(1));
}

const NOBODY: u32 = 65534;
