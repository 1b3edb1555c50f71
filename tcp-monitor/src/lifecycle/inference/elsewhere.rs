//! One connection in several places: in other network namespaces, and under other addresses.

use std::time::Duration;

use super::Connections;
use crate::lifecycle::flow::FlowKey;
use crate::lifecycle::queues::{Place, Queues};
use crate::lifecycle::time::Time;

/// Where connections are seen besides the place where they are known.
#[derive(Debug)]
pub(super) struct Elsewhere {
    /// The namespace in which a flow seen in this one is known.
    homes: Queues<FlowKey, u32, 1>,
    /// From so many on, those of connections that are over go at once.
    crowd: usize,
    /// SYNs that came in lately, by network namespace and initial sequence number.
    came_in: Queues<(u32, u32), (Opener, Time), 1>,
    /// Connections that began as a SYN which came in under other addresses, and was translated.
    translations: Queues<FlowKey, Translation, 1>,
}

/// The end of a connection that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opener {
    pub(super) key: FlowKey,
    pub(super) end: usize,
}

/// A connection before and behind the translation of its addresses.
#[derive(Clone, Copy, Debug)]
struct Translation {
    before: Opener,
    behind: usize,
}

impl Elsewhere {
    /// Knows the other places of at most `limit` connections. Those of connections that are over linger, unless there are more
    /// than `crowd` places.
    pub(super) fn new(limit: usize, crowd: usize) -> Self {
        Self {
            homes: Queues::new(limit),
            crowd,
            came_in: Queues::new(MAX_MOMENTARY),
            translations: Queues::new(MAX_MOMENTARY),
        }
    }

    /// The connection that a flow is of, and the key under which it is known.
    pub(super) fn resolve(&self, flow: &FlowKey, connections: &Connections) -> Option<(FlowKey, Place)> {
        if let Some(place) = connections.find(flow) {
            return Some((*flow, place));
        }
        let home = self.homes.get(self.homes.find(flow)?)?;
        let key = flow.in_netns(*home);
        Some((key, connections.find(&key)?))
    }

    /// Takes in that `flow` is of the connection known under `key`.
    pub(super) fn note(&mut self, flow: FlowKey, key: FlowKey, now: Time, connections: &Connections) {
        match self.homes.find(&flow).filter(|place| self.homes.get(*place) == Some(&key.netns())) {
            Some(place) => self.homes.queue(place, 0, now, ORDERED_TO),
            None => {
                self.homes.insert(flow, key.netns(), 0, now);
                self.sweep(now, connections);
            }
        }
    }

    /// Takes in the SYN that `opener` sent, as it came into a namespace.
    pub(super) fn come_in(&mut self, netns: u32, isn: u32, opener: Opener, now: Time) {
        self.came_in.insert((netns, isn), (opener, now), 0, now);
    }

    /// Takes in the SYN that `opener` sent, as it left the namespace and was not seen under these addresses before.
    pub(super) fn go_out(&mut self, netns: u32, isn: u32, opener: Opener, now: Time) {
        let came_in = self.came_in.find(&(netns, isn)).and_then(|place| self.came_in.get(place));
        if let Some((before, time)) = came_in.copied()
            && before.key != opener.key
            && now.since(time) <= TRANSLATED_WITHIN
        {
            self.translations.insert(opener.key, Translation { before, behind: opener.end }, 0, now);
        }
    }

    /// The other end sent the first answer to a translated SYN. Returns who opened the connection, before the translation.
    pub(super) fn answer(&mut self, key: &FlowKey, from: usize) -> Option<Opener> {
        let translation = self.translations.get(self.translations.find(key)?)?;
        if translation.behind == from {
            return None;
        }
        self.translations.remove(key).map(|translation| translation.before)
    }

    /// Forgets flows of connections that are over: more than come in.
    fn sweep(&mut self, now: Time, connections: &Connections) {
        for _ in 0..2 {
            let lingers = if self.homes.len() > self.crowd { Duration::ZERO } else { LINGERS };
            let Some((_, place)) = self.homes.front(0).filter(|(queued, _)| *queued + lingers <= now) else {
                return;
            };
            if self.homes.key(place).is_some_and(|flow| self.resolve(flow, connections).is_some()) {
                self.homes.queue(place, 0, now, Duration::ZERO);
            } else {
                self.homes.remove_at(place);
            }
        }
    }
}

/// SYNs between two interfaces, or that await their answer: moments.
const MAX_MOMENTARY: usize = 1 << 12;
/// More than a packet takes through one host.
const TRANSLATED_WITHIN: Duration = Duration::from_millis(500);
/// How long the places of a connection may outlive it.
const LINGERS: Duration = Duration::from_secs(60);
/// Within this time it does not matter which of two flows was used last.
const ORDERED_TO: Duration = Duration::from_secs(1);
