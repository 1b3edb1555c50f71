//! The bytes of a capture, decompressed, through a buffer of fixed size.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;

use super::error::CaptureError;

/// A source of bytes and a buffer.
pub(super) struct ByteStream {
    source: Box<dyn Read + Send>,
    gzip: bool,
    buffer: Box<[u8]>,
    /// The buffered bytes: `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Where `buffer[start]` lies in the capture.
    offset: u64,
}

impl ByteStream {
    /// Reads `source`, gzip or not.
    pub(super) fn new(mut source: impl Read + Send + 'static) -> Result<Self, CaptureError> {
        let mut first = Vec::with_capacity(GZIP_MAGIC.len());
        source
            .by_ref()
            .take(GZIP_MAGIC.len() as u64)
            .read_to_end(&mut first)
            .map_err(|source| CaptureError::Read { offset: 0, source })?;
        let gzip = first == GZIP_MAGIC;
        let source = io::Cursor::new(first).chain(source);
        Ok(Self {
            source: if gzip { Box::new(MultiGzDecoder::new(source)) } else { Box::new(source) },
            gzip,
            buffer: vec![0; CAPACITY].into(),
            start: 0,
            end: 0,
            offset: 0,
        })
    }

    /// Where the next byte lies in the capture.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next `len` bytes, at most [`CAPACITY`]; fewer only where the capture ends.
    ///
    /// Never waits for more bytes than these, so that a capture can be read while it is written.
    pub(super) fn peek(&mut self, len: usize) -> Result<&[u8], CaptureError> {
        let len = len.min(CAPACITY);
        if self.end - self.start < len {
            self.fill(len)?;
        }
        Ok(&self.buffer[self.start..self.end.min(self.start + len)])
    }

    /// Like [`peek`](Self::peek), and moves past them.
    pub(super) fn take(&mut self, len: usize) -> Result<&[u8], CaptureError> {
        let taken = self.peek(len)?.len();
        let start = self.start;
        self.start += taken;
        self.offset += taken as u64;
        Ok(&self.buffer[start..start + taken])
    }

    /// Moves past `len` bytes, and returns how many there were.
    pub(super) fn skip(&mut self, len: u64) -> Result<u64, CaptureError> {
        let mut left = len;
        while left > 0 {
            let taken = self.take(usize::try_from(left).unwrap_or(CAPACITY))?.len();
            if taken == 0 {
                break;
            }
            left -= taken as u64;
        }
        Ok(len - left)
    }

    /// Reads until `len` bytes are buffered or the source ends.
    fn fill(&mut self, len: usize) -> Result<(), CaptureError> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while self.end < len {
            // A decompressor that finds damage discards what it wrote in the same call: ask for
            // little.
            let room = if self.gzip { CAPACITY.min(self.end + GZIP_READ) } else { CAPACITY };
            match self.source.read(&mut self.buffer[self.end..room]) {
                Ok(0) => break,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failure(source)),
            }
        }
        Ok(())
    }

    fn failure(&self, source: io::Error) -> CaptureError {
        use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        let offset = self.offset + self.end as u64;
        if self.gzip && matches!(source.kind(), InvalidData | InvalidInput | UnexpectedEof) {
            CaptureError::Gzip { offset, source }
        } else {
            CaptureError::Read { offset, source }
        }
    }
}

/// The most bytes that can be peeked at once: twice the longest packet of tcpdump and Wireshark.
pub(super) const CAPACITY: usize = 512 << 10;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const GZIP_READ: usize = 32 << 10;
