//! The summary of a connection in words: how it ended, its bytes, notes.

use std::time::Duration;

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::Role;

use super::connections::Occasion;
use super::record::{EndRecord, Record, ViewEntry};
use crate::lifecycle::event::{ClosedBy, Evidence, Handshake, Step};
use crate::output::append::Append;
use crate::output::details::Details;
use crate::output::human::{Ending, Human, Name, NetnsLabel, Spaced};
use crate::output::style::{Color, Style};

/// Both ends, the client first.
pub(super) fn ends(record: &Record) -> [(Role, &EndRecord); 2] {
    let client = record.client();
    [(Role::Client, &record.ends[client as usize]), (Role::Server, &record.ends[client.other() as usize])]
}

/// How the connection ended, in a sentence, and the colour of that.
pub(super) fn outcome(record: &Record, occasion: Occasion, style: Style) -> (Color, Details) {
    let mut text = Details::new(style);
    let color = match end_of(record) {
        Some(Reported::One(end)) => {
            text.phrase(end);
            end.color()
        }
        Some(Reported::Two([client, server])) => {
            text.phrase(("client: ", client, ", server: ", server));
            Color::Red
        }
        None => {
            text.phrase(match occasion {
                Occasion::EndOfEvents => "still open at the end",
                Occasion::CutShort => "still open; shown because there are too many connections",
                Occasion::Over | Occasion::Waited => "over, inferred from its segments",
            });
            Color::Yellow
        }
    };
    let handshake = ends(record).into_iter().find_map(|(_, end)| match end.handshake {
        Some(Handshake { result: Ok(()), duration, .. }) => duration,
        Some(Handshake { result: Err(_), .. }) | None => None,
    });
    if let Some(handshake) = handshake {
        text.phrase(("handshake ", Human(handshake)));
    }
    (color, text)
}

/// How a connection ended.
enum Reported {
    /// One reason, or the same by both ends.
    One(Ended),
    /// Client and server report different reasons.
    Two([Ended; 2]),
}

/// How an end of a connection ended.
#[derive(Clone, Copy)]
struct Ended {
    reason: Reason,
    after: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    Closed(Ending),
    Failed(HandshakeFailure),
}

impl Ended {
    /// If both opened at once, each is a client by its role; the view shows one of them as the
    /// server.
    fn of(shown_as: Role, end: &EndRecord) -> Option<Self> {
        if let Some(closed) = &end.closed {
            let reason = Reason::Closed(Ending::of(closed.closed_by, shown_as));
            return Some(Self { reason, after: closed.duration });
        }
        match end.handshake? {
            Handshake { result: Ok(()), .. } => None,
            Handshake { result: Err(failure), duration, .. } => {
                Some(Self { reason: Reason::Failed(failure), after: duration })
            }
        }
    }

    const fn color(&self) -> Color {
        match self.reason {
            Reason::Closed(Ending::ClosedBy(_) | Ending::ClosedByBoth) => Color::Blue,
            Reason::Closed(Ending::ResetBy(_) | Ending::TimedOut | Ending::Killed) | Reason::Failed(_) => {
                Color::Red
            }
        }
    }
}

impl Append for Ended {
    fn append_to(&self, to: &mut String) {
        match self.reason {
            Reason::Closed(ending) => ending.append_to(to),
            Reason::Failed(failure) => ("handshake failed: ", Spaced(failure.label())).append_to(to),
        }
        if let Some(after) = self.after {
            (" after ", Human(after)).append_to(to);
        }
    }
}

/// How it ended, if an end reports that, or a RST shows it.
fn end_of(record: &Record) -> Option<Reported> {
    match ends(record).map(|(role, end)| Ended::of(role, end)) {
        [Some(end), None] | [None, Some(end)] => Some(Reported::One(end)),
        // The two ends measure different durations.
        [Some(client), Some(server)] if client.reason == server.reason => Some(Reported::One(client)),
        // That is why the client was refused.
        [Some(client), Some(Ended { reason: Reason::Failed(HandshakeFailure::NoListener), .. })] => {
            Some(Reported::One(client))
        }
        [Some(client), Some(server)] => Some(Reported::Two([client, server])),
        [None, None] => {
            let rst = record.segments().find(|segment| segment.step == Step::Rst)?;
            let role = if rst.from == record.client() { Role::Client } else { Role::Server };
            Some(Reported::One(Ended { reason: Reason::Closed(Ending::ResetBy(role)), after: None }))
        }
    }
}

/// Bytes that the client sent, and that the server sent, where they are known.
pub(super) fn bytes(record: &Record) -> [Option<u64>; 2] {
    let [(_, client), (_, server)] = ends(record);
    let sent = |end: &EndRecord| end.closed.as_ref()?.bytes_sent;
    let received = |end: &EndRecord| end.closed.as_ref()?.bytes_received;
    [sent(client).or(received(server)), sent(server).or(received(client))]
}

/// Retransmissions of data.
pub(super) fn retransmitted(record: &Record) -> Vec<String> {
    let ends = ends(record).into_iter().filter(|(_, end)| end.data_retransmits > 0);
    let words = |(role, end): (Role, &EndRecord)| match end.data_retransmits {
        1 => format!("{} retransmitted a data segment", role.label()),
        times => format!("{} retransmitted data segments {times} times", role.label()),
    };
    ends.map(words).collect()
}

/// What else there is to know.
pub(super) fn notes(record: &Record, occasion: Occasion) -> Vec<String> {
    let mut notes = Vec::new();
    for (role, end) in ends(record) {
        let role = role.label();
        if end.state == Some(TcpState::TimeWait) {
            notes.push(format!("the {role} stays in TIME_WAIT for 60 s"));
        }
        if let (Some(state), None) = (end.state, end.over) {
            match occasion {
                Occasion::Waited => notes.push(format!("the {role} was last seen in {state}")),
                Occasion::Over | Occasion::CutShort | Occasion::EndOfEvents => {}
            }
        }
    }
    if let Some(reason) = record.reset_reason.filter(|_| was_reset(record)) {
        notes.push(format!("reason of the reset: {}", Spaced(reason).to_text()));
    }
    if record.ends.iter().any(|end| end.closed.as_ref().is_some_and(|closed| closed.partial)) {
        notes.push("opened before monitoring started".into());
    }
    match record.omitted {
        0 => {}
        1 => notes.push("one more step is left out".into()),
        omitted => notes.push(format!("{omitted} more steps are left out")),
    }
    notes
}

/// Which states are inferred, and not reported by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inferred {
    Nothing,
    Some,
    All,
}

impl Inferred {
    pub(super) fn of(record: &Record) -> Self {
        let inferred = record.entries.iter().filter_map(|entry| match entry {
            ViewEntry::State { evidence, .. } => Some(*evidence != Evidence::Kernel),
            ViewEntry::Segment(_) => None,
        });
        let (mut any, mut all) = (false, true);
        for inferred in inferred {
            any |= inferred;
            all &= inferred;
        }
        match (any, all) {
            (false, _) => Self::Nothing,
            (true, false) => Self::Some,
            (true, true) => Self::All,
        }
    }
}

/// A RST ended it, and did not come after the end.
fn was_reset(record: &Record) -> bool {
    record.ends.iter().any(|end| {
        let closed_by = end.closed.as_ref().map(|closed| closed.closed_by);
        let was_reset = matches!(closed_by, Some(ClosedBy::LocalReset | ClosedBy::RemoteReset));
        was_reset || matches!(end.handshake, Some(Handshake { result: Err(_), .. }))
    })
}

/// An end in a few words: its role, the process that acted on it, its network namespace.
pub(super) fn name(role: Role, end: &EndRecord) -> String {
    let mut name = role.label().to_owned();
    if let Some(process) = end.process {
        name += &format!(" {}", Name(process).to_text());
    }
    if let Some(netns) = &end.netns {
        name += &format!(" {}", NetnsLabel(netns).to_text());
    }
    name
}

/// The address of an end; always known, since each event has both.
pub(super) fn address(end: &EndRecord) -> String {
    end.address.map_or_else(|| "?".to_owned(), |address| address.to_string())
}
