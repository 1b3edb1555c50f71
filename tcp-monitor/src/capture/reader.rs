//! Reading a capture: the file's format, its packets, the segments in them.

use std::{
    fs::File,
    io::{self, Read},
    iter::FusedIterator,
    net::SocketAddr,
    os::fd::AsFd,
    path::Path,
};

use tcp_monitor_common::record::Direction;

use super::{
    error::CaptureError,
    frame::{Frame, Step, StepResult},
    ip,
    pcap::Pcap,
    pcapng::PcapNg,
    reach::{NotSegment, Reach},
    statistics::Statistics,
    stream::Stream,
};
use crate::lifecycle::{TcpHeader, Time};

/// A TCP segment as a capture has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its number in the file, from 1: Wireshark's `frame.number`, which also counts the custom blocks of pcapng.
    pub number: u64,
    /// When it was captured.
    pub time: Time,
    /// The interface it was captured on, counted through the whole file from 0.
    pub interface: u32,
    /// The index of the interface on the capturing host, if the packet says so (Linux cooked capture, version 2).
    pub ifindex: Option<u32>,
    /// Which way it went, if the packet or the file says so.
    pub direction: Option<Direction>,
    /// Source. A v4-mapped address is given as IPv4.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// The TCP header, with those options that were captured.
    pub header: TcpHeader,
    /// Payload on the wire, bytes, however much of it was captured; of this fragment only if `fragmented`.
    pub payload_len: u32,
    /// More of the segment follows in other IP packets, which are not read.
    pub fragmented: bool,
}

/// Opens the file at `path`; `-` is standard input.
///
/// # Errors
/// If it cannot be opened, or is a directory.
pub fn open(path: &Path) -> Result<File, CaptureError> {
    if path.as_os_str() == "-" {
        return io::stdin().as_fd().try_clone_to_owned().map(File::from).map_err(CaptureError::Open);
    }
    let file = File::open(path).map_err(CaptureError::Open)?;
    // Opening one works.
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(CaptureError::Open(io::ErrorKind::IsADirectory.into()));
    }
    Ok(file)
}

/// A capture that is being read. Ends after the first error.
pub struct Capture {
    stream: Stream,
    format: Format,
    statistics: Statistics,
    /// Number of the packet before.
    number: u64,
    /// Time of the packet before.
    time: Time,
    times: Option<(Time, Time)>,
    ended: bool,
}

enum Format {
    Pcap(Pcap),
    PcapNg(PcapNg),
}

impl Capture {
    /// Reads the capture at `path`; see [`open`].
    ///
    /// # Errors
    /// If it cannot be opened or does not begin like a capture.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        Self::read(open(path)?)
    }

    /// Reads a capture from `source`, in large pieces: buffering it is of no use.
    ///
    /// # Errors
    /// If it cannot be read or does not begin like a capture.
    pub fn read(source: impl Read + Send + 'static) -> Result<Self, CaptureError> {
        let mut stream = Stream::new(source)?;
        let format = Format::recognise(&mut stream)?;
        Ok(Self {
            stream,
            format,
            statistics: Statistics::default(),
            number: 0,
            time: Time::default(),
            times: None,
            ended: false,
        })
    }

    /// The name of an interface by the number that [`Packet::interface`] has, of the section that is being read; pcap has none.
    #[must_use]
    pub fn interface_name(&self, interface: u32) -> Option<&str> {
        match &self.format {
            Format::Pcap(_) => None,
            Format::PcapNg(pcapng) => pcapng.interface_name(interface),
        }
    }

    /// What became of the packets so far.
    #[must_use]
    pub const fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// The earliest and the latest time of the packets so far, of those that have one.
    #[must_use]
    pub const fn times(&self) -> Option<(Time, Time)> {
        self.times
    }

    /// How much was read so far, bytes after decompression.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.stream.offset()
    }

    fn next_segment(&mut self) -> Result<Option<Packet>, CaptureError> {
        loop {
            let frame = match self.format.step(&mut self.stream)? {
                Step::Frame(frame) => Some(frame),
                Step::Malformed => None,
                Step::Numbered => {
                    self.number += 1;
                    continue;
                }
                Step::Other => continue,
                Step::End => return Ok(None),
            };
            self.number += 1;
            self.statistics.packets += 1;
            let Some(frame) = frame else {
                self.statistics.malformed += 1;
                continue;
            };
            if let Some(time) = frame.time {
                self.time = time;
                let (earliest, latest) = self.times.unwrap_or((time, time));
                self.times = Some((earliest.min(time), latest.max(time)));
            }
            match dissect(&frame, self.number, self.time) {
                Ok(packet) => {
                    self.statistics.tcp += 1;
                    self.statistics.untimed += u64::from(frame.time.is_none());
                    return Ok(Some(packet));
                }
                Err(reason) => self.statistics.count(reason, frame.link),
            }
        }
    }
}

impl Iterator for Capture {
    type Item = Result<Packet, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let packet = self.next_segment().transpose();
        self.ended = !matches!(packet, Some(Ok(_)));
        packet
    }
}

impl FusedIterator for Capture {}

impl Format {
    fn recognise(stream: &mut Stream) -> Result<Self, CaptureError> {
        let start = stream.peek(4)?;
        let Some(&magic) = start.first_chunk::<4>() else {
            return Err(if start.is_empty() {
                CaptureError::Empty
            } else {
                CaptureError::Format { start: start.to_vec() }
            });
        };
        if Pcap::recognises(magic) {
            return Pcap::begin(stream).map(Self::Pcap);
        }
        if PcapNg::recognises(magic) {
            return Ok(Self::PcapNg(PcapNg::begin()));
        }
        Err(match magic {
            [0x28, 0xb5, 0x2f, 0xfd] => CaptureError::Compression("zstd"),
            [0x04, 0x22, 0x4d, 0x18] => CaptureError::Compression("lz4"),
            [0xfd, b'7', b'z', b'X'] => CaptureError::Compression("xz"),
            [b'B', b'Z', b'h', _] => CaptureError::Compression("bzip2"),
            start => CaptureError::Format { start: start.into() },
        })
    }

    fn step<'a>(&mut self, stream: &'a mut Stream) -> StepResult<'a> {
        match self {
            Self::Pcap(pcap) => pcap.step(stream),
            Self::PcapNg(pcapng) => pcapng.step(stream),
        }
    }
}

fn dissect(frame: &Frame<'_>, number: u64, time: Time) -> Result<Packet, NotSegment> {
    let mut reach = Reach::new(frame.bytes, frame.original_len as usize);
    let link = frame.link.skip_header(&mut reach)?;
    let ip::Segment { src, dst, header, payload_len, fragmented } = ip::segment(reach)?;
    Ok(Packet {
        number,
        time,
        interface: frame.interface,
        ifindex: link.ifindex,
        direction: link.direction.or(frame.direction),
        src,
        dst,
        header,
        payload_len,
        fragmented,
    })
}
