//! What may happen in a script.

use tcp_monitor::lifecycle::InferFrom;

/// The rules of one script.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) infer_from: InferFrom,
    /// There are sockets that the kernel reports.
    pub(crate) sockets: bool,
    /// There are segments.
    pub(crate) segments: bool,
    /// The kernel reports impossible transitions, too.
    pub(crate) nonsense: bool,
    /// Sockets are established before their first event.
    pub(crate) begins_midway: bool,
    /// Time goes back now and then.
    pub(crate) time_goes_back: bool,
    /// Connections beyond this number are evicted.
    pub(crate) max_connections: usize,
}

impl Rules {
    pub(crate) fn from_byte(byte: u8) -> Self {
        let (infer_from, sockets, segments) = match byte & 7 {
            0 => (InferFrom::Nothing, true, false),
            1 => (InferFrom::Nothing, true, true),
            2 | 3 => (InferFrom::AllSegments, false, true),
            4 => (InferFrom::AllSegments, true, true),
            5 => (InferFrom::ControlSegments, false, true),
            _ => (InferFrom::ControlSegments, true, true),
        };
        Self {
            infer_from,
            sockets,
            segments,
            nonsense: byte & 8 != 0,
            begins_midway: byte & 64 != 0,
            time_goes_back: byte & 16 != 0,
            max_connections: if byte & 32 == 0 { 1 << 18 } else { 2 },
        }
    }
}
