//! Packets in hand: each is kept back for a moment, so that what follows from it can still be noted on it.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::lifecycle::event::{Segment, Step};
use crate::lifecycle::{Event, Time};

/// Packets in the order they were told of, and comments that come before their packet.
#[derive(Debug, Default)]
pub(super) struct Held {
    packets: VecDeque<Annotated>,
    /// How many there were before the first in hand: with its place in `packets`, a packet's number.
    gone: u64,
    /// The number of the newest packet in hand, each way.
    newest: HashMap<Flow, u64>,
    announced: HashMap<Flow, Vec<Announcement>>,
    /// When each announcement was made.
    waiting: VecDeque<(Time, Flow)>,
}

/// A packet and what is to be said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotated {
    /// When it passed.
    pub time: Time,
    /// Inode number of the network namespace of its interface.
    pub netns: u32,
    /// The packet.
    pub segment: Segment,
    /// In the order of the log.
    pub comments: Vec<String>,
}

/// The packet that a comment is of, seen from a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The last of the connection, either way.
    Last,
    /// The last that it received.
    Received,
    /// The last that it sent, if that was this.
    Sent(Step),
    /// The next of this kind that it sends: the kernel changes the state first.
    Next(Step),
    /// Its RST, which may have been sent already or not.
    Reset,
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flow {
    src: SocketAddr,
    dst: SocketAddr,
}

#[derive(Debug)]
struct Announcement {
    time: Time,
    step: Step,
    comments: Vec<String>,
}

impl Held {
    /// Takes in a packet.
    pub(super) fn push(&mut self, event: &Event, segment: Segment, comments: Vec<String>) {
        let flow = Flow { src: segment.src, dst: segment.dst };
        let mut packet = Annotated { time: event.time, netns: event.netns, segment, comments: Vec::new() };
        if let Some(announced) = self.announced.get_mut(&flow) {
            for announcement in announced.extract_if(.., |announced| announced.step == segment.step) {
                packet.note(announcement.comments);
            }
            if announced.is_empty() {
                self.announced.remove(&flow);
            }
        }
        packet.note(comments);
        self.newest.insert(flow, self.gone + self.packets.len() as u64);
        self.packets.push_back(packet);
    }

    /// Notes `comments` on the packet of the socket with these addresses that `cause` means. If it is not in hand, nor comes
    /// soon, they are dropped.
    pub(super) fn note(
        &mut self,
        cause: Cause,
        (local, remote): (SocketAddr, SocketAddr),
        time: Time,
        comments: Vec<String>,
    ) {
        if comments.is_empty() {
            return;
        }
        let (sent, received) = (Flow { src: local, dst: remote }, Flow { src: remote, dst: local });
        let number = match cause {
            Cause::Last => self.newest(sent).max(self.newest(received)),
            Cause::Received => self.newest(received),
            Cause::Sent(step) => self.newest(sent).filter(|number| self.is(*number, step)),
            Cause::Reset => self.newest(sent).filter(|number| self.is(*number, Step::Rst)),
            Cause::Next(_) => None,
        };
        match (number.and_then(|number| self.packet(number)), cause) {
            (Some(packet), _) => packet.note(comments),
            (None, Cause::Next(step)) => self.announce(sent, Announcement { time, step, comments }),
            (None, Cause::Reset) => self.announce(sent, Announcement { time, step: Step::Rst, comments }),
            (None, Cause::Last | Cause::Received | Cause::Sent(_)) => {}
        }
    }

    /// Notes `comments` on the last packet of all.
    pub(super) fn note_on_last(&mut self, comments: Vec<String>) {
        if let Some(packet) = self.packets.back_mut() {
            packet.note(comments);
        }
    }

    /// Hands out the first packet, if it was held for long enough at `now`, or there are too many.
    pub(super) fn pop(&mut self, now: Time) -> Option<Annotated> {
        while let Some((time, flow)) = self.waiting.front().copied()
            && (is_due(time, now) || self.waiting.len() > MAX_HELD)
        {
            self.waiting.pop_front();
            if let Some(announced) = self.announced.get_mut(&flow) {
                announced.retain(|announcement| announcement.time > time);
                if announced.is_empty() {
                    self.announced.remove(&flow);
                }
            }
        }
        let first = self.packets.front()?;
        if !is_due(first.time, now) && self.packets.len() <= MAX_HELD {
            return None;
        }
        let packet = self.packets.pop_front()?;
        let flow = Flow { src: packet.segment.src, dst: packet.segment.dst };
        if self.newest(flow) == Some(self.gone) {
            self.newest.remove(&flow);
        }
        self.gone += 1;
        Some(packet)
    }

    /// How many packets and announcements are in hand.
    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.packets.len(), self.announced.values().map(Vec::len).sum())
    }

    fn announce(&mut self, flow: Flow, announcement: Announcement) {
        self.waiting.push_back((announcement.time, flow));
        self.announced.entry(flow).or_default().push(announcement);
    }

    fn newest(&self, flow: Flow) -> Option<u64> {
        self.newest.get(&flow).copied()
    }

    fn is(&self, number: u64, step: Step) -> bool {
        self.packets.get((number - self.gone) as usize).is_some_and(|packet| packet.segment.step == step)
    }

    fn packet(&mut self, number: u64) -> Option<&mut Annotated> {
        self.packets.get_mut((number - self.gone) as usize)
    }
}

impl Annotated {
    fn note(&mut self, comments: Vec<String>) {
        let room = MAX_COMMENTS.saturating_sub(self.comments.len());
        self.comments.extend(comments.into_iter().take(room));
    }
}

fn is_due(time: Time, now: Time) -> bool {
    time + HOLD <= now
}

/// How long a packet waits for what follows from it. The kernel tells that within microseconds, a busy CPU in a few
/// milliseconds; a packet that is recorded by then is still soon enough for who watches.
pub(super) const HOLD: Duration = Duration::from_millis(100);
/// The most packets in hand, and the most announcements: a burst goes out earlier.
pub(super) const MAX_HELD: usize = 4096;
/// One packet has up to half a dozen where both ends are on this host.
const MAX_COMMENTS: usize = 16;
