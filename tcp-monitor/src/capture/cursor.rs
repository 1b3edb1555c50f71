//! A cursor over a captured packet, from header to header.

use thiserror::Error;

/// Why no segment was found in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum NotSegment {
    #[error("it is of another protocol")]
    OtherProtocol,
    #[error("it is a fragment other than the first")]
    LaterFragment,
    #[error("the capture kept too little of it")]
    Truncated,
    #[error("its headers contradict its length, or each other")]
    Malformed,
    #[error("its link type is not known")]
    UnknownLink,
}

/// The rest of a packet, from some header on.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    /// The captured part.
    bytes: &'a [u8],
    /// Its length on the wire.
    original: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8], original: usize) -> Self {
        Self { bytes, original }
    }

    /// Takes the next `N` bytes.
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], NotSegment> {
        let Some((first, rest)) = self.bytes.split_first_chunk::<N>() else { return Err(self.too_short(N)) };
        self.bytes = rest;
        self.original = self.original.saturating_sub(N);
        Ok(*first)
    }

    /// Moves past `len` bytes.
    pub(super) fn skip(&mut self, len: usize) -> Result<(), NotSegment> {
        self.bytes = self.bytes.get(len..).ok_or(self.too_short(len))?;
        self.original = self.original.saturating_sub(len);
        Ok(())
    }

    /// Ends the packet after `len` bytes: what follows is padding.
    pub(super) fn limit(&mut self, len: usize) {
        self.bytes = self.bytes.get(..len).unwrap_or(self.bytes);
        self.original = self.original.min(len);
    }

    pub(super) const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(super) const fn original(&self) -> usize {
        self.original
    }

    /// Why there are fewer than `len` bytes left.
    const fn too_short(&self, len: usize) -> NotSegment {
        if self.original < len { NotSegment::Malformed } else { NotSegment::Truncated }
    }
}
