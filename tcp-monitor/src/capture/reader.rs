//! Reads a capture: the file's format, its packets, the segments in them.

use std::{
    fs::File,
    io::{self, Read},
    iter::FusedIterator,
    net::SocketAddr,
    num::NonZeroU64,
    os::fd::AsFd,
    path::Path,
};

use super::{
    cursor::{Cursor, NotSegment},
    error::CaptureError,
    frame::{FileItem, FileItemResult, Frame},
    ip::{IpHeader, ip_header, tcp_header},
    pcap::Pcap,
    pcapng::PcapNg,
    statistics::Statistics,
    stream::ByteStream,
};
use crate::lifecycle::{Input, SegmentInput, Time};

/// Opens the file at `path`; `-` is standard input.
///
/// # Errors
/// If it cannot be opened, or is a directory.
pub fn open(path: &Path) -> Result<File, CaptureError> {
    if path.as_os_str() == "-" {
        return io::stdin().as_fd().try_clone_to_owned().map(File::from).map_err(CaptureError::Open);
    }
    let file = File::open(path).map_err(CaptureError::Open)?;
    // Opening a directory works.
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(CaptureError::Open(io::ErrorKind::IsADirectory.into()));
    }
    Ok(file)
}

/// A capture that is being read: an iterator over its TCP segments, which ends after the first
/// error.
///
/// A segment's `frame` is the packet's number as Wireshark's `frame.number`, which also counts the
/// custom blocks of pcapng. Its `ifindex` is the index of the interface on the capturing host if
/// the packet has one (Linux cooked capture, version 2); otherwise it stands for an interface of
/// the file, and [`interface_name`](Self::interface_name) finds the name.
pub struct Capture {
    stream: ByteStream,
    format: Format,
    statistics: Statistics,
    /// Of the packet read last.
    frame: u64,
    time: Time,
    interface: u32,
    /// The earliest and the latest time.
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
        let mut stream = ByteStream::new(source)?;
        let format = Format::recognise(&mut stream)?;
        Ok(Self {
            stream,
            format,
            statistics: Statistics::default(),
            frame: 0,
            time: Time::default(),
            interface: 0,
            times: None,
            ended: false,
        })
    }

    /// Counts packets from `frames` on: those of the files before.
    #[must_use]
    pub fn after(self, frames: u64) -> Self {
        Self { frame: frames, ..self }
    }

    /// How many packets Wireshark counts so far, those of the files before included.
    #[must_use]
    pub const fn frames(&self) -> u64 {
        self.frame
    }

    /// The name of an interface by the `ifindex` of the segment read last; pcap has none.
    #[must_use]
    pub fn interface_name(&self, ifindex: u32) -> Option<&str> {
        match &self.format {
            Format::Pcap(_) => None,
            Format::PcapNg(pcapng) => {
                pcapng.interface_name(ifindex.checked_sub(FILE_INTERFACES).unwrap_or(self.interface))
            }
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

    fn next_segment(&mut self) -> Result<Option<SegmentInput>, CaptureError> {
        loop {
            let frame = match self.format.step(&mut self.stream)? {
                FileItem::Frame(frame) => Some(frame),
                FileItem::Malformed => None,
                FileItem::Numbered => {
                    self.frame += 1;
                    continue;
                }
                FileItem::Other => continue,
                FileItem::End => return Ok(None),
            };
            self.frame += 1;
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
            self.interface = frame.interface;
            match segment(&frame, self.time) {
                Ok(segment) => {
                    self.statistics.tcp += 1;
                    self.statistics.untimed += u64::from(frame.time.is_none());
                    return Ok(Some(SegmentInput { frame: NonZeroU64::new(self.frame), ..segment }));
                }
                Err(reason) => self.statistics.count(reason, frame.link),
            }
        }
    }
}

impl Iterator for Capture {
    type Item = Result<Input, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let segment = self.next_segment().transpose();
        self.ended = !matches!(segment, Some(Ok(_)));
        segment.map(|segment| segment.map(Input::Segment))
    }
}

impl FusedIterator for Capture {}

impl Format {
    fn recognise(stream: &mut ByteStream) -> Result<Self, CaptureError> {
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

    fn step<'a>(&mut self, stream: &'a mut ByteStream) -> FileItemResult<'a> {
        match self {
            Self::Pcap(pcap) => pcap.step(stream),
            Self::PcapNg(pcapng) => pcapng.step(stream),
        }
    }
}

/// The segment in a packet, captured at `time`.
fn segment(frame: &Frame<'_>, time: Time) -> Result<SegmentInput, NotSegment> {
    let mut packet = Cursor::new(frame.bytes, frame.original_len as usize);
    let link = frame.link.skip_header(&mut packet)?;
    let IpHeader { src, dst } = ip_header(&mut packet)?;
    let header = tcp_header(packet)?;
    let payload_len = packet.original() - usize::from(header.header_len);
    Ok(SegmentInput {
        time,
        netns: 0,
        ifindex: link.ifindex.unwrap_or(FILE_INTERFACES.saturating_add(frame.interface)),
        direction: link.direction.or(frame.direction),
        src: SocketAddr::new(src, header.src_port),
        dst: SocketAddr::new(dst, header.dst_port),
        header,
        payload_len: u32::try_from(payload_len).unwrap_or(u32::MAX),
        acks_syn_ack: false,
        acks_fin: false,
        syn_cookie: false,
        frame: None,
    })
}

/// The first `ifindex` that stands for an interface of the file: no host has that many interfaces.
pub(super) const FILE_INTERFACES: u32 = 1 << 31;
