//! Outputs: events as a text log, as JSON lines, as views of whole connections, as packets with
//! comments.
//!
//! An output is an [`EventSink`], which turns events into items (a line, a diagram, a packet), and
//! a [`Destination`], which takes the items. A [`FanOut`] passes each event to all outputs. A new
//! output implements one of the two traits, or both, and is added where `cmd/outputs.rs` makes the
//! fan-out.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use crate::clock::{WallClock, WallTime};
use crate::lifecycle::{Event, Time};

mod append;
mod details;
mod fan_out;
mod human;
mod json;
mod pcapng;
mod style;
mod text;
mod view;
mod whole;

pub use fan_out::FanOut;
pub(crate) use human::Period;
pub use json::Json;
pub use pcapng::Pcapng;
pub use style::Style;
pub use text::Text;
pub use view::{Shape, View};
pub use whole::{Skipped, WholeConnections};

/// Turns events into items of one format.
pub trait EventSink: Send {
    /// Processes `event`. Events come in order of time.
    fn event(&mut self, event: &Event, context: &Context<'_>, to: &mut dyn Destination);

    /// The events of some connections do not come, because it takes too long to write all.
    fn skipped(&mut self, skipped: Skipped, time: Time, context: &Context<'_>, to: &mut dyn Destination) {
        let (_, _, _, _) = (skipped, time, context, to);
    }

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

    /// Whether it keeps up with what it is given. Otherwise, events of connections that were not
    /// begun are best kept from it.
    fn has_room(&self) -> bool {
        true
    }

    /// Passes on what it has taken: no item follows soon.
    ///
    /// # Errors
    /// If it cannot take any more, and the run is to end for that.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// As [`flush`](Self::flush), and waits until all is written: no item follows.
    ///
    /// # Errors
    /// If it could not write all.
    fn drain(&mut self) -> io::Result<()> {
        self.flush()
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

/// What outputs show and events do not carry: wall clock time, and names. To be made for each batch
/// of events: names are as they were when they were first asked for.
pub struct Context<'a> {
    /// `None` while a capture has no times.
    clock: Option<&'a WallClock>,
    names: &'a dyn Names,
    interface: LastName<(u32, u32)>,
    netns: LastName<u32>,
}

/// The name that was looked up last.
type LastName<K> = RefCell<Option<(K, Option<Rc<str>>)>>;

impl<'a> Context<'a> {
    /// Of a clock and names.
    #[must_use]
    pub fn new(clock: &'a WallClock, names: &'a dyn Names) -> Self {
        Self { clock: Some(clock), names, interface: RefCell::default(), netns: RefCell::default() }
    }

    /// Of names, where the time of events is not known.
    #[must_use]
    pub fn without_clock(names: &'a dyn Names) -> Self {
        Self { clock: None, names, interface: RefCell::default(), netns: RefCell::default() }
    }

    /// What the wall clock showed at `time`, if that is known.
    #[must_use]
    pub fn wall_time(&self, time: Time) -> Option<WallTime> {
        self.clock.map(|clock| clock.at(time))
    }

    /// The name of the interface with index `ifindex` in the network namespace `netns`, if it is
    /// known.
    #[must_use]
    pub fn interface(&self, netns: u32, ifindex: u32) -> Option<Rc<str>> {
        last_or(&self.interface, (netns, ifindex), || self.names.interface(netns, ifindex))
    }

    /// The name of a network namespace, if more than one is watched.
    #[must_use]
    pub fn netns(&self, netns: u32) -> Option<Rc<str>> {
        if netns == 0 { None } else { last_or(&self.netns, netns, || self.names.netns(netns)) }
    }
}

/// The name of `key`: the last one, or as `look_up` finds it.
fn last_or<K: Copy + PartialEq>(
    last: &LastName<K>,
    key: K,
    look_up: impl FnOnce() -> Option<String>,
) -> Option<Rc<str>> {
    let mut last = last.borrow_mut();
    match last.as_ref() {
        Some((known, name)) if *known == key => name.clone(),
        Some(_) | None => {
            let name = look_up().map(Rc::from);
            *last = Some((key, name.clone()));
            name
        }
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
