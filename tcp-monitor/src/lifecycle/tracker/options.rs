//! What a tracker can be asked for.

/// What a tracker does, and how much it remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What is inferred from segments, with the evidence `segment` and `timer`. Of an end whose
    /// socket the kernel reports, nothing is inferred.
    pub infer_from: InferFrom,
    /// How many connections are remembered: so many sockets, those in TIME_WAIT included, and so
    /// many connections that are inferred. Of each, what is closed or in TIME_WAIT is evicted
    /// first, then what is half-open, then what was idle for longest. On a running agent one in 32
    /// at most may be half-open for want of an answer. A socket takes less than 600 bytes, an
    /// inferred connection less than 700.
    pub max_connections: usize,
}

impl Options {
    /// How many connections are remembered by default.
    pub const MAX_CONNECTIONS: u32 = 1 << 18;

    /// How many connections are remembered, on a running agent, that may be nothing but a SYN or
    /// two: any host can send those, from unused addresses and in any number. In a
    /// capture there are no more than there are.
    pub(super) fn max_unproven(&self) -> usize {
        match self.infer_from {
            InferFrom::Nothing | InferFrom::ControlSegments => self.max_connections.div_ceil(UNPROVEN),
            InferFrom::AllSegments => self.max_connections,
        }
    }
}

/// Of so many connections that are remembered, one may be unproven.
const UNPROVEN: usize = 32;

/// From which segments what the kernel does not report is inferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InferFrom {
    /// From none, but for the end of TIME_WAIT.
    Nothing,
    /// From those that the kernel programs record: SYN, FIN, RST and the first acknowledgments of
    /// SYN-ACK and FIN, at each interface that they pass. Inferred are half-open requests to a
    /// server here, and connections that pass through.
    ControlSegments,
    /// From all, plain data and acknowledgments included, as in a capture. The states of both ends
    /// of every connection are inferred.
    AllSegments,
}

impl Default for Options {
    /// What the kernel reports, of up to 262,144 connections.
    fn default() -> Self {
        Self { infer_from: InferFrom::Nothing, max_connections: Self::MAX_CONNECTIONS as usize }
    }
}
