//! A capture as `tcp-monitor read` describes it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde_json::Value;

use super::Stream;
use super::judge::Judged;

pub(crate) struct Ours {
    /// In the order of tshark's.
    pub(crate) streams: Vec<Stream>,
    pub(crate) segments: usize,
    /// Events whose frame is another segment's for tshark.
    pub(crate) wrong_frames: Vec<String>,
}

/// Each event goes to the stream with its addresses that began last.
pub(crate) fn streams(path: &Path, judged: &Judged) -> Result<Ours> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_tcp-monitor")).args(["read", "-o", "json"]).arg(path).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{said}");
    }
    let segments =
        said.lines().find_map(summed_up).with_context(|| format!("no number of segments in: {said}"))?;
    let mut gathered: Vec<_> = judged.streams.iter().map(|_| Gathered::default()).collect();
    let mut wrong_frames = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let event: Value = serde_json::from_str(line)?;
        if !has_right_frame(&event, judged)? {
            wrong_frames.push(line.to_owned());
        }
        let (time, ends) = (time_of(&event)?, ends_of(&event)?);
        // What ends a connection at the first segment of the next is of the one that ends.
        let is_end = matches!(event["event"].as_str(), Some("closed"));
        let number = judged
            .streams
            .iter()
            .rposition(|stream| {
                let began = if is_end { stream.begin < time } else { stream.begin <= time };
                began && (ends == [stream.client, stream.server] || ends == [stream.server, stream.client])
            })
            .or_else(|| {
                judged
                    .streams
                    .iter()
                    .position(|stream| ends.contains(&stream.client) && ends.contains(&stream.server))
            })
            .with_context(|| format!("an event of no stream: {line}"))?;
        let client = judged.streams[number].client;
        gathered[number].take(&event, time, ends[0], client);
    }
    let streams = gathered.into_iter().map(Gathered::stream).collect();
    Ok(Ours { streams, segments, wrong_frames })
}

/// Whether tshark has the segment at the frame of its event, and for another event a segment of the
/// same connection.
fn has_right_frame(event: &Value, judged: &Judged) -> Result<bool> {
    let ends = ends_of(event)?;
    let Some(frame) = event["frame"].as_u64() else {
        // A timeout has no packet.
        return Ok(event["event"] != "segment");
    };
    Ok(judged.frames.get(&frame).is_some_and(|(src, dst, seq)| {
        if event["event"] == "segment" {
            ends == [*src, *dst] && event["seq"] == *seq
        } else {
            ends == [*src, *dst] || ends == [*dst, *src]
        }
    }))
}

/// The events of one stream.
#[derive(Default)]
struct Gathered {
    stream: Stream,
    /// There was a RST.
    is_reset: bool,
    first: Option<u64>,
    last: Option<u64>,
}

impl Gathered {
    /// `src` is who sent the segment, or the end that the event is of.
    fn take(&mut self, event: &Value, time: u64, src: SocketAddr, client: SocketAddr) {
        let end = self.stream.ends.entry(src).or_default();
        let number = |name: &str| event[name].as_u64();
        match event["event"].as_str().unwrap_or_default() {
            "segment" => {
                self.first.get_or_insert(time);
                self.last = Some(time);
                match event["step"].as_str().unwrap_or_default() {
                    "syn" | "syn_ack" => end.syns += 1,
                    "fin" => end.fins += 1,
                    "rst" => {
                        end.rsts += 1;
                        self.is_reset = true;
                    }
                    _ => {}
                }
            }
            "retransmit" if !self.is_reset => end.retransmissions += 1,
            "handshake" if src == client => {
                self.stream.handshake_completed = event["result"] == "completed";
                if event["result"] == "refused" {
                    self.stream.ended_by = Some("reset");
                }
                self.stream.handshake = number("duration_us")
                    .filter(|_| self.stream.handshake_completed)
                    .map(|micros| micros * 1000);
            }
            "closed" if src == client => {
                self.stream.ended_by = match event["closed_by"].as_str() {
                    Some("local") => Some("client"),
                    Some("remote") => Some("server"),
                    Some("both") => Some("both"),
                    Some("local_reset" | "remote_reset") => Some("reset"),
                    _ => None,
                };
                let bytes = number("bytes_sent").zip(number("bytes_received")).map(<[u64; 2]>::from);
                self.stream.bytes = bytes.map(|bytes| (time, bytes));
            }
            _ => {}
        }
    }

    fn stream(self) -> Stream {
        let duration = self.first.zip(self.last).map(|(first, last)| last - first);
        Stream { duration, ..self.stream }
    }
}

/// Since 1970; 0 without a time, as for tshark's frames.
fn time_of(event: &Value) -> Result<u64> {
    let Some(time) = event.get("time") else { return Ok(0) };
    let time: Timestamp = time.as_str().context("a time that is no string")?.parse()?;
    Ok(u64::try_from(time.as_nanosecond())?)
}

fn ends_of(event: &Value) -> Result<[SocketAddr; 2]> {
    let address = |name: &str| Some(event[name].as_str()?.parse::<SocketAddr>());
    let ends = address("src").zip(address("dst")).or_else(|| address("local").zip(address("remote")));
    let (this, other) = ends.context("no addresses")?;
    Ok([this?, other?])
}

/// `read 50 packets, 41 of them TCP segments`
fn summed_up(line: &str) -> Option<usize> {
    line.strip_prefix("read ")?.split_once(" packets, ")?.1.split(' ').next()?.parse().ok()
}
