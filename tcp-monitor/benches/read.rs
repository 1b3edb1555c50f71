//! How fast `tcp-monitor read` is, and how much memory it takes: 2 GB of connections through a
//! pipe, 3,000 new ones a second. Run by `cargo xtask bench read`.

use std::fs;
use std::io::{self, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    for output in ["none", "text", "json"] {
        let mut reader = Command::new(env!("CARGO_BIN_EXE_tcp-monitor"))
            .args(["read", "--output", output, "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let outcome = feed(&mut reader, output);
        // Closes its input; with that it ends.
        let status = reader.wait()?;
        outcome?;
        if !status.success() {
            bail!("tcp-monitor read: {status}");
        }
    }
    Ok(())
}

/// Writes the capture and prints how fast it is processed.
fn feed(reader: &mut Child, output: &str) -> Result<()> {
    let packets = template()?;
    let mut pipe = reader.stdin.take().context("no pipe")?;
    pipe.write_all(&RECORDED[..FILE_HEADER])?;
    let (begin, mut written, mut count, mut copies) = (Instant::now(), 0, 0, 0_u32);
    let mut peaks = Vec::new();
    for part in 1..=PARTS {
        let mut block = Vec::new();
        while written < TOTAL / PARTS * part {
            block.clear();
            for _ in 0..COPIES_AT_ONCE {
                copy(&packets, copies, &mut block);
                copies += 1;
            }
            pipe.write_all(&block)?;
            written += block.len();
            count += packets.len() * COPIES_AT_ONCE;
        }
        peaks.push(format!("{} MiB", peak_kib(reader.id())? >> 10));
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "--output {output}: {:.2} GB, {count} packets of {} connections in {seconds:.1} s, {:.2} million packets a second; \
         most memory after each quarter: {}",
        written as f64 / 1e9,
        3 * copies,
        count as f64 / seconds / 1e6,
        peaks.join(", ")
    );
    io::stdout().flush()?;
    Ok(())
}

/// The IPv4 packets of a recorded capture, with their headers of the file.
fn template() -> Result<Vec<&'static [u8]>> {
    let (mut packets, mut rest) = (Vec::new(), &RECORDED[FILE_HEADER..]);
    while let Some(&[a, b, c, d]) = rest.get(8..12) {
        let len = RECORD_HEADER + u32::from_le_bytes([a, b, c, d]) as usize;
        let (packet, others) = rest.split_at_checked(len).context("the capture is truncated")?;
        if packet.get(RECORD_HEADER + 12..).is_some_and(|ether| ether.starts_with(&[0x08, 0x00])) {
            packets.push(packet);
        }
        rest = others;
    }
    Ok(packets)
}

/// Writes the packets as of another client, a millisecond after the copy before.
fn copy(packets: &[&[u8]], number: u32, out: &mut Vec<u8>) {
    let [_, a, b, c] = number.to_be_bytes();
    for (position, packet) in (0_u64..).zip(packets) {
        let micros = u64::from(number) * 1000 + position * 20;
        let [seconds, micros] = [micros / 1_000_000, micros % 1_000_000].map(|part| part.to_le_bytes());
        out.extend_from_slice(&seconds[..4]);
        out.extend_from_slice(&micros[..4]);
        let start = out.len() - 8;
        out.extend_from_slice(&packet[8..]);
        for address in [SOURCE, DESTINATION] {
            let address = &mut out[start + address..][..4];
            if address == CLIENT {
                address.copy_from_slice(&[11, a, b, c]);
            }
        }
    }
}

/// The most memory that a process had at any time.
fn peak_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(peak.trim().trim_end_matches(" kB").parse()?)
}

/// A connection and two that are refused.
static RECORDED: &[u8] = include_bytes!("../tests/captures/ethernet.pcap");
const CLIENT: [u8; 4] = [10, 0, 0, 1];

const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
const SOURCE: usize = RECORD_HEADER + 14 + 12;
const DESTINATION: usize = SOURCE + 4;

const TOTAL: usize = 2_000_000_000;
const PARTS: usize = 4;
const COPIES_AT_ONCE: usize = 200;
