//! Where events go: a text log, JSON lines, views of whole connections, packets with comments.

use std::io;

use crate::lifecycle::{Event, Time};

mod human;
mod json;
mod pcapng;
mod style;
mod text;
mod view;

pub(crate) use human::Timestamps;
pub use json::Json;
pub use pcapng::{Annotated, Pcapng};
pub use style::Style;
pub use text::Text;
pub use view::{Shape, View};

/// Writes events in a format of its own. Buffering and flushing are the caller's.
pub trait Sink: Send {
    /// Writes what is to be said of `event`: whole lines, or nothing.
    ///
    /// # Errors
    /// Those of `out`.
    fn write(&mut self, event: &Event, out: &mut dyn io::Write) -> io::Result<()>;

    /// Writes the first thing that waited to be said until now, or nothing. To be called until it writes nothing, before the
    /// first event later than `now`, and whenever time passes without events.
    ///
    /// # Errors
    /// Those of `out`.
    fn advance(&mut self, now: Time, out: &mut dyn io::Write) -> io::Result<()> {
        let (_, _) = (now, out);
        Ok(())
    }

    /// No event follows: writes the first thing that is still to be said, or nothing. To be called until it writes nothing.
    ///
    /// # Errors
    /// Those of `out`.
    fn finish(&mut self, out: &mut dyn io::Write) -> io::Result<()> {
        let _ = out;
        Ok(())
    }
}

#[cfg(test)]
mod samples;
