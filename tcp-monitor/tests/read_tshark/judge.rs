//! A capture as tshark describes it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{End, Stream};

/// All streams, by their number.
#[derive(Default)]
pub(crate) struct Judged {
    pub(crate) streams: Vec<JudgedStream>,
    /// How many segments there are.
    pub(crate) segments: usize,
    /// How many are in the table of conversations.
    pub(crate) conversing: usize,
    /// Source, destination and sequence number of each segment, by its frame number.
    pub(crate) frames: BTreeMap<u64, (SocketAddr, SocketAddr, u64)>,
}

/// A stream and where in the capture it is.
pub(crate) struct JudgedStream {
    pub(crate) said: Stream,
    /// Nanoseconds since the epoch.
    pub(crate) begin: u64,
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    from_syn: bool,
    frames: Vec<Frame>,
}

/// One segment, as tshark describes it.
struct Frame {
    stream: usize,
    time: u64,
    since_begin_of_file: u64,
    src: SocketAddr,
    dst: SocketAddr,
    flags: u32,
    len: u64,
    seq: u64,
    ack: u64,
    completeness: u32,
    /// A retransmission of any kind, or out of order.
    is_behind: bool,
    initial_rtt: Option<u64>,
    /// `frame.number`.
    number: u64,
    /// The sequence number in the header.
    seq_raw: u64,
}

pub(crate) fn streams(path: &Path) -> Result<Judged> {
    let fields = FIELDS.iter().flat_map(|field| ["-e", field]);
    let output = Command::new("tshark").args(OPTIONS).args(fields).arg("-r").arg(path).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let said = String::from_utf8(output.stdout)?;
    // First a line a segment, then the table.
    let (segments, table) = said.split_once(TABLE).context("no table of conversations")?;
    let mut by_stream = BTreeMap::<usize, Vec<Frame>>::new();
    for line in segments.lines() {
        let frame = Frame::parse(line).with_context(|| line.to_owned())?;
        by_stream.entry(frame.stream).or_default().push(frame);
    }
    let frames = by_stream.values().flatten();
    let frames = frames.map(|frame| (frame.number, (frame.src, frame.dst, frame.seq_raw))).collect();
    let conversations: Vec<_> = table.lines().filter_map(Conversation::parse).collect();
    let segments = by_stream.values().map(Vec::len).sum();
    let conversing = conversations.iter().map(|conversation| conversation.frames).sum();
    let streams =
        by_stream.into_values().map(|frames| describe(frames, &conversations)).collect::<Result<_>>()?;
    Ok(Judged { streams, segments, conversing, frames })
}

fn describe(frames: Vec<Frame>, conversations: &[Conversation]) -> Result<JudgedStream> {
    let Some(first) = frames.first() else { bail!("a stream without frames") };
    // Who sent the SYN; in a stream met midway, who has the higher port.
    let opener = frames.iter().find_map(|frame| match frame.flags & (SYN | ACK) {
        SYN => Some((frame.src, frame.dst)),
        SYN_ACK => Some((frame.dst, frame.src)),
        _ => None,
    });
    let [low, high] =
        if first.src.port() < first.dst.port() { [first.src, first.dst] } else { [first.dst, first.src] };
    let (client, server) = opener.unwrap_or((high, low));

    let conversation = conversations.iter().find(|conversation| conversation.is_of(first));
    let completeness = frames.iter().fold(0, |all, frame| all | frame.completeness);
    let fins: Vec<_> = frames.iter().filter(|frame| frame.is_fin()).collect();
    let reset = frames.iter().position(|frame| frame.flags & RST != 0);
    let until_reset = &frames[..reset.unwrap_or(frames.len())];
    let first_fins = [client, server].map(|address| fins.iter().find(|fin| fin.src == address));
    let is_closed_by = |frames: &[Frame]| {
        first_fins
            .iter()
            .all(|fin| fin.is_some_and(|fin| highest_ack_to(fin.src, frames) > fin.seq + fin.len))
    };
    let closed = (1..=until_reset.len()).find(|count| is_closed_by(&frames[..*count]));
    let ended_by = if closed.is_some() { closer(&fins, client) } else { reset.map(|_| "reset") };
    let from_syn = first.flags & (SYN | ACK) == SYN;
    let is_complete = completeness & HANDSHAKE == HANDSHAKE;
    // Data and acknowledgments after the end are no events.
    let end = closed.or(reset).unwrap_or(frames.len());
    let has_stragglers = frames[end..].iter().any(|frame| frame.flags & (FIN | RST) == 0);
    let said = Stream {
        ends: [client, server].map(|address| (address, End::of(address, &frames, end))).into(),
        handshake_completed: is_complete,
        handshake: frames.iter().find_map(|frame| frame.initial_rtt).filter(|_| from_syn).map(|rtt| {
            // It counts from the last SYN that was sent.
            let is_syn = |frame: &&Frame| frame.flags & (SYN | ACK) == SYN;
            frames.iter().rfind(is_syn).map_or(0, |last| last.time - first.time) + rtt
        }),
        ended_by,
        bytes: None,
        duration: conversation
            .map(|conversation| conversation.duration)
            .filter(|_| from_syn && ended_by.is_some() && !has_stragglers),
    };
    Ok(JudgedStream { said, begin: first.time, client, server, from_syn, frames })
}

impl JudgedStream {
    /// Payload of client and server that was acknowledged until `time`; `None` in a stream met
    /// midway.
    pub(crate) fn bytes_until(&self, time: u64) -> Option<[u64; 2]> {
        let frames = &self.frames[..self.frames.partition_point(|frame| frame.time <= time)];
        self.from_syn.then(|| {
            [self.client, self.server].map(|address| {
                let acked = highest_ack_to(address, frames);
                let mut fins = frames.iter().filter(|frame| frame.src == address && frame.is_fin());
                let acked_fin = fins.next().is_some_and(|fin| acked > fin.seq + fin.len);
                acked.saturating_sub(1 + u64::from(acked_fin))
            })
        })
    }
}

/// Whose FIN came first; `both` if neither acknowledges the other.
fn closer(fins: &[&Frame], client: SocketAddr) -> Option<&'static str> {
    let first = fins.first()?;
    let answer = fins.iter().find(|fin| fin.src != first.src)?;
    Some(if answer.ack <= first.seq + first.len {
        "both"
    } else if first.src == client {
        "client"
    } else {
        "server"
    })
}

/// The highest acknowledgment number of what `address` sent, counted from its SYN. That of a RST
/// counts for nothing.
fn highest_ack_to(address: SocketAddr, frames: &[Frame]) -> u64 {
    let acks = frames.iter().filter(|frame| frame.dst == address && frame.flags & (ACK | RST) == ACK);
    acks.map(|frame| frame.ack).max().unwrap_or_default()
}

impl End {
    /// What `address` sent. Retransmissions after the end are not counted.
    fn of(address: SocketAddr, frames: &[Frame], end_of_stream: usize) -> Self {
        let count = |is: &dyn Fn(&Frame) -> bool| {
            frames.iter().filter(|frame| frame.src == address && is(frame)).count()
        };
        let mut end = Self {
            syns: count(&|frame| frame.flags & (SYN | RST) == SYN),
            fins: count(&Frame::is_fin),
            rsts: count(&|frame| frame.flags & RST != 0),
            ..Self::default()
        };
        let mut seen = BTreeSet::new();
        for frame in frames[..end_of_stream].iter().filter(|frame| frame.src == address) {
            let mut numbers = frame.seq..frame.seq + frame.space();
            let was_seen = numbers.clone().all(|number| seen.contains(&number));
            match (frame.is_behind, was_seen) {
                (true, true) => end.retransmissions += 1,
                (true, false) => end.gaps_filled += 1,
                (false, _) => {}
            }
            seen.extend(&mut numbers);
        }
        end
    }
}

impl Frame {
    /// Fields as in [`FIELDS`].
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<_> = line.split('\t').collect();
        let [
            stream,
            time,
            relative,
            src4,
            src6,
            dst4,
            dst6,
            sport,
            dport,
            flags,
            len,
            seq,
            ack,
            completeness,
            again,
            disordered,
            rtt,
            number,
            seq_raw,
        ] = fields[..]
        else {
            return None;
        };
        let address = |v4: &str, v6: &str, port: &str| {
            let ip: IpAddr = if v4.is_empty() { v6 } else { v4 }.parse().ok()?;
            Some(SocketAddr::new(ip.to_canonical(), port.parse().ok()?))
        };
        Some(Self {
            stream: stream.parse().ok()?,
            time: nanoseconds(time),
            since_begin_of_file: nanoseconds(relative),
            src: address(src4, src6, sport)?,
            dst: address(dst4, dst6, dport)?,
            flags: u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok()?,
            len: len.parse().unwrap_or_default(),
            seq: seq.parse().unwrap_or_default(),
            ack: ack.parse().unwrap_or_default(),
            completeness: completeness.parse().unwrap_or_default(),
            is_behind: !again.is_empty() || !disordered.is_empty(),
            initial_rtt: (!rtt.is_empty()).then(|| nanoseconds(rtt)),
            number: number.parse().ok()?,
            seq_raw: seq_raw.parse().ok()?,
        })
    }

    /// How many sequence numbers it takes.
    fn space(&self) -> u64 {
        self.len + u64::from(self.flags & SYN != 0) + u64::from(self.is_fin())
    }

    fn is_fin(&self) -> bool {
        self.flags & (FIN | SYN | RST) == FIN
    }
}

/// A line of the table of conversations.
struct Conversation {
    ends: [String; 2],
    frames: usize,
    /// Nanoseconds since the first packet of the file.
    begin: u64,
    /// To the tenth of a millisecond.
    duration: u64,
}

impl Conversation {
    /// `A:PORT <-> B:PORT FRAMES BYTES UNIT FRAMES BYTES UNIT FRAMES BYTES UNIT BEGIN DURATION`
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [a, "<->", b, _, _, _, _, _, _, frames, _, _, begin, duration] = words[..] else { return None };
        Some(Self {
            ends: [a.to_owned(), b.to_owned()],
            frames: frames.parse().ok()?,
            begin: nanoseconds(begin),
            duration: nanoseconds(duration),
        })
    }

    fn is_of(&self, frame: &Frame) -> bool {
        // IPv6 has no brackets there.
        let name = |address: SocketAddr| format!("{}:{}", address.ip(), address.port());
        let (src, dst) = (name(frame.src), name(frame.dst));
        let is_pair = self.ends == [src.clone(), dst.clone()] || self.ends == [dst, src];
        is_pair && self.begin == frame.since_begin_of_file
    }
}

/// Of seconds with a decimal point; what is not there is 0.
fn nanoseconds(seconds: &str) -> u64 {
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let digits = format!("{fraction:0<9}");
    let whole: u64 = whole.parse().unwrap_or_default();
    whole * 1_000_000_000 + digits.get(..9).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Two passes, of which the second knows the whole stream. Fragments are not reassembled here, and
/// an ICMP error quotes the segment that it is about.
const OPTIONS: [&str; 15] = [
    "-2",
    "-n",
    "-o",
    "ip.defragment:FALSE",
    "-o",
    "ipv6.defragment:FALSE",
    "-o",
    "tcp.desegment_tcp_streams:FALSE",
    "-Y",
    "tcp && !icmp && !icmpv6",
    "-z",
    "conv,tcp",
    "-E",
    "occurrence=f",
    "-Tfields",
];
/// What the table of conversations begins with.
const TABLE: &str =
    "================================================================================\nTCP Conversations\n";
const FIELDS: [&str; 19] = [
    "tcp.stream",
    "frame.time_epoch",
    "frame.time_relative",
    "ip.src",
    "ipv6.src",
    "ip.dst",
    "ipv6.dst",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.flags",
    "tcp.len",
    "tcp.seq",
    "tcp.ack",
    "tcp.completeness",
    // Those that are fast or spurious are both.
    "tcp.analysis.retransmission",
    "tcp.analysis.out_of_order",
    "tcp.analysis.initial_rtt",
    "frame.number",
    "tcp.seq_raw",
];

const FIN: u32 = 0x01;
const SYN: u32 = 0x02;
const RST: u32 = 0x04;
const ACK: u32 = 0x10;
const SYN_ACK: u32 = SYN | ACK;

/// SYN, SYN-ACK and ACK were seen.
const HANDSHAKE: u32 = 0b111;
