//! Outputs: events as a text log, as JSON lines, as views of whole connections, as packets with
//! comments.
//!
//! An output is an [`EventSink`], which turns events into items (a line, a diagram, a packet), and
//! a [`Destination`], which takes the items. A [`FanOut`] passes each event to all outputs. A new
//! output implements one of the two traits, or both, and is added where `cmd/outputs.rs` makes the
//! fan-out.

use std::io;

use crate::clock::{WallClock, WallTime};
use crate::lifecycle::{Event, Time};

mod details;
mod fan_out;
mod human;
mod json;
mod pcapng;
mod style;
mod text;
mod view;

pub use fan_out::FanOut;
pub(crate) use human::Period;
pub use json::Json;
pub use pcapng::Pcapng;
pub use style::Style;
pub use text::Text;
pub use view::{Shape, View};

/// Turns events into items of one format.
pub trait EventSink: Send {
    /// Processes `event`. Events come in order of time.
    fn event(&mut self, event: &Event, context: &Context<'_>, to: &mut dyn Destination);

    /// All events before `now` have come: emits items that were deferred until then. Called before
    /// each event, and while time passes without events.
    fn advance(&mut self, now: Time, context: &Context<'_>, to: &mut dyn Destination) {
        let (_, _, _) = (now, context, to);
    }

    /// No event follows: emits the items that are left.
    fn finish(&mut self, context: &Context<'_>, to: &mut dyn Destination) {
        let (_, _) = (context, to);
    }
}

/// Takes the items of an output.
pub trait Destination: Send {
    /// Takes an item, whose bytes `append` appends; or drops it, without calling `append`.
    fn take(&mut self, append: &mut dyn FnMut(&mut Vec<u8>));

    /// Whether it takes no more items, so that the run ends.
    fn is_full(&self) -> bool {
        false
    }

    /// Passes on what it has taken: no item follows soon.
    ///
    /// # Errors
    /// If it cannot take any more, and the run is to end for that.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// No item follows: waits until all are written.
    fn finish(self: Box<Self>) -> Outcome;
}

/// The result of an output, for the summary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What an item is, in the singular, and what happened to it, as in "12 packets recorded".
    pub items: (&'static str, &'static str),
    /// How many were taken.
    pub taken: u64,
    /// How many were dropped.
    pub dropped: u64,
    /// It failed before the end. The error has been printed.
    pub failed: bool,
}

/// What outputs show and events do not carry: wall clock time, and names.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    clock: &'a WallClock,
    names: &'a dyn Names,
}

impl<'a> Context<'a> {
    /// Of a clock and names.
    #[must_use]
    pub fn new(clock: &'a WallClock, names: &'a dyn Names) -> Self {
        Self { clock, names }
    }

    /// What the wall clock showed at `time`.
    #[must_use]
    pub fn wall_time(&self, time: Time) -> WallTime {
        self.clock.at(time)
    }

    /// The name of the interface with index `ifindex` in the network namespace `netns`, if it is
    /// known.
    #[must_use]
    pub fn interface(&self, netns: u32, ifindex: u32) -> Option<String> {
        self.names.interface(netns, ifindex)
    }

    /// The name of a network namespace, if more than one is watched.
    #[must_use]
    pub fn netns(&self, netns: u32) -> Option<String> {
        if netns == 0 { None } else { self.names.netns(netns) }
    }
}

/// Names of what events number.
pub trait Names {
    /// The name of the interface with index `ifindex` in the network namespace with inode `netns`.
    fn interface(&self, netns: u32, ifindex: u32) -> Option<String>;

    /// The name of the network namespace with inode `netns`; `None` if only one is watched.
    fn netns(&self, netns: u32) -> Option<String>;
}

/// Nothing has a name.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl Names for NoNames {
    fn interface(&self, _netns: u32, _ifindex: u32) -> Option<String> {
        None
    }

    fn netns(&self, _netns: u32) -> Option<String> {
        None
    }
}

/// For tests.
impl Destination for Vec<u8> {
    fn take(&mut self, append: &mut dyn FnMut(&mut Vec<u8>)) {
        append(self);
    }

    fn finish(self: Box<Self>) -> Outcome {
        Outcome::default()
    }
}

#[cfg(test)]
mod samples;
