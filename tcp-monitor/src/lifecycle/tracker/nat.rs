//! Connections whose addresses are translated on their way through this host: the same initial
//! sequence number comes in with some addresses and leaves with others.

use std::time::Duration;

use crate::lifecycle::map::Map;
use crate::lifecycle::time::Time;
use crate::lifecycle::tuple::Tuple;

/// What translations are known from: moments, all of them.
#[derive(Debug)]
pub(super) struct Nat {
    /// SYNs that came in lately, by network namespace and initial sequence number.
    came_in: Map<(u32, u32), (Opener, Time), 1>,
    /// Connections that began as a SYN which came in under other addresses, and was translated.
    translations: Map<Tuple, Translation, 1>,
}

/// The end of a connection that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opener {
    pub(super) tuple: Tuple,
    pub(super) end: usize,
}

/// A connection before and behind the translation of its addresses.
#[derive(Clone, Copy, Debug)]
struct Translation {
    before: Opener,
    behind: usize,
}

impl Nat {
    pub(super) fn new() -> Self {
        Self { came_in: Map::new(MAX_MOMENTARY), translations: Map::new(MAX_MOMENTARY) }
    }

    /// Notes the SYN that `opener` sent, as it came into a namespace.
    pub(super) fn come_in(&mut self, netns: u32, isn: u32, opener: Opener, now: Time) {
        self.came_in.insert((netns, isn), (opener, now), 0, now);
    }

    /// Notes the SYN that `opener` sent, as it left the namespace and was not seen under these
    /// addresses before.
    pub(super) fn go_out(&mut self, netns: u32, isn: u32, opener: Opener, now: Time) {
        let came_in = self.came_in.find(&(netns, isn)).and_then(|place| self.came_in.get(place));
        if let Some((before, time)) = came_in.copied()
            && before.tuple != opener.tuple
            && now.since(time) <= TRANSLATED_WITHIN
        {
            self.translations.insert(opener.tuple, Translation { before, behind: opener.end }, 0, now);
        }
    }

    /// The other end sent the first answer to a translated SYN. Returns who opened the connection,
    /// before the translation.
    pub(super) fn answer(&mut self, tuple: &Tuple, from: usize) -> Option<Opener> {
        if self.translations.is_empty() {
            return None;
        }
        let translation = self.translations.get(self.translations.find(tuple)?)?;
        if translation.behind == from {
            return None;
        }
        self.translations.remove(tuple).map(|translation| translation.before)
    }
}

/// SYNs between two interfaces, or that await their answer: moments.
const MAX_MOMENTARY: usize = 1 << 12;
/// More than a packet takes through one host.
const TRANSLATED_WITHIN: Duration = Duration::from_millis(500);
