//! Where events go: a text log, JSON lines, packets with comments.

use std::io;

use crate::lifecycle::Event;

mod human;
mod json;
mod pcapng;
mod text;

pub use json::Json;
pub use pcapng::{Annotated, Pcapng};
pub use text::Text;

/// Writes events in a format of its own. Buffering and flushing are the caller's.
pub trait Sink: Send {
    /// Writes what is to be said of `event`: whole lines, or nothing.
    ///
    /// # Errors
    /// Those of `out`.
    fn write(&mut self, event: &Event, out: &mut dyn io::Write) -> io::Result<()>;
}

#[cfg(test)]
mod samples;
