//! tshark as the judge of `tcp-monitor read`: of every TCP stream in every capture here, both say
//! the same.
//!
//! One trial a capture. Without tshark they are ignored. A disagreement that is none of ours stands
//! in [`explained::EXPLAINED`], with its reason.

mod explained;
mod judge;
mod ours;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use explained::{EXPLAINED, Explained};
use judge::JudgedStream;

fn main() -> ExitCode {
    let has_tshark = Command::new("tshark").arg("--version").output().is_ok();
    let captures = match captures() {
        Ok(captures) => captures,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let trials = captures.into_iter().map(|(name, path)| {
        Trial::ignorable_test(format!("tshark_agrees_on_{name}"), move || {
            if !has_tshark {
                return Ok(Completion::ignored_with("needs tshark in the PATH"));
            }
            compare(&name, &path).map_err(|error| Failed::from(format!("{error:#}")))?;
            Ok(Completion::Completed)
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Every capture here, by its path from `tests/captures`.
fn captures() -> Result<BTreeMap<String, PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let mut captures = BTreeMap::new();
    for directory in [root.clone(), root.join("scenarios")] {
        let Ok(entries) = directory.read_dir() else { continue };
        for entry in entries {
            let path = entry?.path();
            let name = path.strip_prefix(&root)?.to_string_lossy().into_owned();
            if [".pcap", ".pcapng", ".pcapng.gz"].iter().any(|ending| name.ends_with(ending)) {
                captures.insert(name, path);
            }
        }
    }
    if captures.is_empty() {
        bail!("no capture in {}", root.display());
    }
    Ok(captures)
}

/// One end of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct End {
    syns: usize,
    fins: usize,
    rsts: usize,
    /// Retransmitted segments with payload, SYN or FIN, until both FINs are acknowledged or there
    /// is a RST.
    retransmissions: usize,
    /// Segments that fill a gap. For tshark they are out of order if they come soon, and else
    /// retransmissions; here, what was not seen before is not seen again.
    gaps_filled: usize,
}

/// A stream.
#[derive(Debug, Default)]
struct Stream {
    /// By the address that sent.
    ends: BTreeMap<SocketAddr, End>,
    handshake_completed: bool,
    /// Nanoseconds from SYN to the ACK of the SYN-ACK.
    handshake: Option<u64>,
    /// Whose FIN came first, `client`, `server` or `both`; or `reset`.
    ended_by: Option<&'static str>,
    /// Payload that was acknowledged until the client's end was closed, and when that was.
    bytes: Option<(u64, [u64; 2])>,
    /// Nanoseconds from the first segment to the last, of streams that were seen from SYN to end.
    duration: Option<u64>,
}

/// Fails with every disagreement that is not explained, and every explanation of none.
fn compare(name: &str, path: &Path) -> Result<()> {
    let judged = judge::streams(path).context("tshark")?;
    let ours = ours::streams(path, &judged).context("tcp-monitor")?;
    let mut found = Vec::new();
    for (number, (theirs, ours)) in judged.streams.iter().zip(&ours.streams).enumerate() {
        found.extend(disagreements(theirs, ours).into_iter().map(|said| (Some(number), said)));
    }
    for (field, theirs) in [("segments", judged.segments), ("segments in conversations", judged.conversing)] {
        if theirs != ours.segments {
            found.push((None, (field, theirs.to_string(), ours.segments.to_string())));
        }
    }
    if let [wrong, ..] = ours.wrong_frames.as_slice() {
        bail!("{} events with another frame than tshark's: {wrong}", ours.wrong_frames.len());
    }
    let known: Vec<_> = EXPLAINED.iter().filter(|known| known.capture == name).collect();
    let explains = |known: &Explained, stream: Option<usize>, field| {
        known.field == field && (known.stream.is_none() || known.stream == stream)
    };
    let unexplained = found
        .iter()
        .filter(|(stream, (field, ..))| !known.iter().any(|known| explains(known, *stream, *field)))
        .map(|(stream, (field, theirs, ours))| {
            let stream = stream.map_or("all".to_owned(), |number| format!("stream {number}"));
            format!("{stream}, {field}: tshark {theirs}, here {ours}")
        });
    let outdated = known
        .iter()
        .filter(|known| !found.iter().any(|(stream, (field, ..))| explains(known, *stream, field)))
        .map(|known| format!("{} agrees after all; it was thought: {}", known.field, known.reason));
    let complaints: Vec<_> = unexplained.chain(outdated).collect();
    if complaints.is_empty() {
        Ok(())
    } else {
        bail!(
            "
{}",
            complaints.join(
                "
"
            )
        )
    }
}

fn disagreements(judged: &JudgedStream, ours: &Stream) -> Vec<(&'static str, String, String)> {
    let theirs = &judged.said;
    let mut found = Vec::new();
    let mut check = |field, theirs: String, ours: String| {
        if theirs != ours {
            found.push((field, theirs, ours));
        }
    };
    check("handshake", theirs.handshake_completed.to_string(), ours.handshake_completed.to_string());
    for (address, their_end) in &theirs.ends {
        let nothing = End::default();
        let our_end = ours.ends.get(address).unwrap_or(&nothing);
        for (field, theirs, ours) in [
            ("SYNs", their_end.syns, our_end.syns),
            ("FINs", their_end.fins, our_end.fins),
            ("RSTs", their_end.rsts, our_end.rsts),
            (
                "retransmissions",
                // As many as could be fillers of gaps make no difference.
                our_end
                    .retransmissions
                    .clamp(their_end.retransmissions, their_end.retransmissions + their_end.gaps_filled),
                our_end.retransmissions,
            ),
        ] {
            check(field, format!("{theirs} from {address}"), format!("{ours} from {address}"));
        }
    }
    // Where one does not say, as of a stream that was met midway, there is nothing to compare.
    if let (Some(theirs), Some(ours)) = (theirs.handshake, ours.handshake) {
        // tshark counts in nanoseconds, the event in microseconds.
        check("handshake time", (theirs / 1000).to_string(), (ours / 1000).to_string());
    }
    check("end", format!("{:?}", theirs.ended_by), format!("{:?}", ours.ended_by));
    if let Some((time, bytes)) = ours.bytes
        && let Some(acked) = judged.bytes_until(time)
    {
        check("bytes", format!("{acked:?}"), format!("{bytes:?}"));
    }
    if let (Some(theirs), Some(ours)) = (theirs.duration, ours.duration)
        && theirs.abs_diff(ours) > CONVERSATION_DIGIT
    {
        check("duration", theirs.to_string(), ours.to_string());
    }
    found
}

/// The last digit of the table of conversations, in nanoseconds.
const CONVERSATION_DIGIT: u64 = 100_000;
