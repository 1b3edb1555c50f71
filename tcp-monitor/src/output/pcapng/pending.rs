//! Pending packets: each is held back for a moment, so that comments on what follows from it can be
//! added.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::clock::WallTime;
use crate::lifecycle::event::{Segment, Step};
use crate::lifecycle::{ConnectionId, End, Time};

/// Packets in the order of their events, and comments that come before their packet.
#[derive(Debug, Default)]
pub(super) struct PendingPackets {
    packets: VecDeque<Pending>,
    /// How many packets were taken out: with its place in `packets`, a packet's number.
    taken: u64,
    /// The number of the newest pending packet of each sender.
    newest: HashMap<ConnectionEnd, u64>,
    announced: HashMap<ConnectionEnd, Vec<Announcement>>,
    /// When each announcement was made.
    announced_at: VecDeque<(Time, ConnectionEnd)>,
}

/// A packet and its comments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// When it passed.
    pub(super) time: WallTime,
    /// The network namespace of its interface.
    pub(super) netns: u32,
    pub(super) segment: Segment,
    /// In the order of the log.
    pub(super) comments: Vec<String>,
}

#[derive(Debug)]
struct Pending {
    since: Time,
    sender: Option<ConnectionEnd>,
    packet: Packet,
}

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ConnectionEnd {
    pub(super) connection: ConnectionId,
    pub(super) end: End,
}

/// The packet that a comment belongs to, from the view of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommentTarget {
    /// The last of the connection, either way.
    Last,
    /// The last that it received.
    Received,
    /// The last that it sent, if it is of this kind.
    Sent(Step),
    /// The next of this kind that it sends: the kernel changes the state first.
    Next(Step),
    /// Its RST, sent already or not.
    Reset,
}

#[derive(Debug)]
struct Announcement {
    time: Time,
    step: Step,
    comments: Vec<String>,
}

impl ConnectionEnd {
    const fn peer(self) -> Self {
        Self { end: self.end.other(), ..self }
    }
}

impl PendingPackets {
    /// Adds a packet that `sender` sent, if that is known.
    pub(super) fn push(&mut self, time: Time, mut packet: Packet, sender: Option<ConnectionEnd>) {
        let comments = std::mem::take(&mut packet.comments);
        if let Some(sender) = sender {
            if let Some(announced) = self.announced.get_mut(&sender) {
                let step = packet.segment.step;
                for announcement in announced.extract_if(.., |announced| announced.step == step) {
                    packet.comment(announcement.comments);
                }
                if announced.is_empty() {
                    self.announced.remove(&sender);
                }
            }
            self.newest.insert(sender, self.taken + self.packets.len() as u64);
        }
        packet.comment(comments);
        self.packets.push_back(Pending { since: time, sender, packet });
    }

    /// Adds `comments` to the packet that `cause` means. If it is not pending, nor comes soon, they
    /// are dropped.
    pub(super) fn comment(
        &mut self,
        cause: CommentTarget,
        socket: ConnectionEnd,
        time: Time,
        comments: Vec<String>,
    ) {
        if comments.is_empty() {
            return;
        }
        let (sent, received) = (socket, socket.peer());
        let number = match cause {
            CommentTarget::Last => self.newest(sent).max(self.newest(received)),
            CommentTarget::Received => self.newest(received),
            CommentTarget::Sent(step) => self.newest(sent).filter(|number| self.is(*number, step)),
            CommentTarget::Reset => self.newest(sent).filter(|number| self.is(*number, Step::Rst)),
            CommentTarget::Next(_) => None,
        };
        match (number.and_then(|number| self.packet(number)), cause) {
            (Some(packet), _) => packet.comment(comments),
            (None, CommentTarget::Next(step)) => self.announce(sent, Announcement { time, step, comments }),
            (None, CommentTarget::Reset) => {
                self.announce(sent, Announcement { time, step: Step::Rst, comments });
            }
            (None, CommentTarget::Last | CommentTarget::Received | CommentTarget::Sent(_)) => {}
        }
    }

    /// Adds `comments` to the last packet of all.
    pub(super) fn comment_on_last(&mut self, comments: Vec<String>) {
        if let Some(pending) = self.packets.back_mut() {
            pending.packet.comment(comments);
        }
    }

    /// Takes out the first packet, if it was pending for long enough at `now`, or there are too
    /// many.
    pub(super) fn pop(&mut self, now: Time) -> Option<Packet> {
        while let Some((time, socket)) = self.announced_at.front().copied()
            && (is_due(time, now) || self.announced_at.len() > MAX_PENDING)
        {
            self.announced_at.pop_front();
            if let Some(announced) = self.announced.get_mut(&socket) {
                announced.retain(|announcement| announcement.time > time);
                if announced.is_empty() {
                    self.announced.remove(&socket);
                }
            }
        }
        let too_many = self.packets.len() > MAX_PENDING;
        let first = self.packets.pop_front_if(|first| too_many || is_due(first.since, now))?;
        if let Some(sender) = first.sender
            && self.newest(sender) == Some(self.taken)
        {
            self.newest.remove(&sender);
        }
        self.taken += 1;
        Some(first.packet)
    }

    /// How many packets, and announcements, are pending.
    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.packets.len(), self.announced.values().map(Vec::len).sum())
    }

    fn announce(&mut self, socket: ConnectionEnd, announcement: Announcement) {
        self.announced_at.push_back((announcement.time, socket));
        self.announced.entry(socket).or_default().push(announcement);
    }

    fn newest(&self, sender: ConnectionEnd) -> Option<u64> {
        self.newest.get(&sender).copied()
    }

    fn is(&self, number: u64, step: Step) -> bool {
        let place = self.place(number);
        place
            .and_then(|place| self.packets.get(place))
            .is_some_and(|pending| pending.packet.segment.step == step)
    }

    fn packet(&mut self, number: u64) -> Option<&mut Packet> {
        let place = self.place(number)?;
        self.packets.get_mut(place).map(|pending| &mut pending.packet)
    }

    fn place(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.taken)?).ok()
    }
}

impl Packet {
    fn comment(&mut self, comments: Vec<String>) {
        let room = MAX_COMMENTS.saturating_sub(self.comments.len());
        self.comments.extend(comments.into_iter().take(room));
    }
}

fn is_due(time: Time, now: Time) -> bool {
    time + HOLD <= now
}

/// How long a packet is pending. The kernel reports what follows from it within microseconds, on a
/// busy CPU within a few milliseconds. A recorded packet is shown soon enough for a person who
/// watches.
pub(super) const HOLD: Duration = Duration::from_millis(100);
/// The most pending packets, and the most announcements: a burst is written earlier.
pub(super) const MAX_PENDING: usize = 4096;
/// A packet has up to half a dozen if both ends are on this host.
const MAX_COMMENTS: usize = 16;
