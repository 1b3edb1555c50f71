//! What is said of a connection in words: how it ended, what it carried, what is to be known of it.

use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;
use tcp_monitor_common::record::Role;

use super::account::{Account, End, Entry};
use super::connections::Occasion;
use crate::lifecycle::event::{ClosedBy, Evidence, Handshake, Step};
use crate::output::human::{Human, Name, ended, spaced};
use crate::output::style::{Color, Phrases};

/// Both ends, the client first.
pub(super) fn ends(account: &Account) -> [(Role, &End); 2] {
    let client = account.client();
    [(Role::Client, &account.ends[client]), (Role::Server, &account.ends[1 - client])]
}

/// How it ended, in a sentence, and the colour of that.
pub(super) fn outcome(account: &Account, occasion: Occasion) -> (Color, String) {
    let mut text = Phrases::default();
    let color = match end_of(account) {
        Some((color, end)) => {
            text.add(end);
            color
        }
        None => {
            text.add(match occasion {
                Occasion::EndOfInput => "still open at the end",
                Occasion::CutShort => "still open, and shown because there are too many connections",
                Occasion::Over | Occasion::Waited => "over, as its segments tell",
            });
            Color::Yellow
        }
    };
    let handshake = ends(account).into_iter().find_map(|(_, end)| match end.handshake {
        Some(Handshake { result: Ok(()), duration, .. }) => duration,
        Some(Handshake { result: Err(_), .. }) | None => None,
    });
    if let Some(handshake) = handshake {
        text.add(format_args!("handshake {}", Human(handshake)));
    }
    (color, text.0)
}

/// How it ended, if an end or a RST says so.
fn end_of(account: &Account) -> Option<(Color, String)> {
    let told = ends(account).map(|(side, end)| end_told(side, end));
    match told {
        [Some((color, end)), None] | [None, Some((color, end))] => Some((color, end)),
        [Some((color, one)), Some((_, other))] if reason(&one) == reason(&other) => Some((color, one)),
        // That is why the client was refused.
        [Some((color, one)), Some(_)] if no_listener(account) => Some((color, one)),
        [Some((_, one)), Some((_, other))] => Some((Color::Red, format!("client: {one}, server: {other}"))),
        [None, None] => {
            let rst = account.segments().find(|segment| segment.step == Step::Rst)?;
            let who = if rst.from == account.client() { "client" } else { "server" };
            Some((Color::Red, format!("reset by {who}")))
        }
    }
}

fn no_listener(account: &Account) -> bool {
    let failure = |end: &End| end.handshake.and_then(|handshake| handshake.result.err());
    account.ends.iter().any(|end| failure(end) == Some(HandshakeFailure::NoListener))
}

/// What an end tells of its end. If both opened at once, each is a client to itself; here, one is shown as the server.
fn end_told(side: Role, end: &End) -> Option<(Color, String)> {
    let after = |what: &str, duration: Option<_>| match duration.map(Human) {
        Some(duration) => format!("{what} after {duration}"),
        None => what.to_owned(),
    };
    if let Some(closed) = &end.closed {
        let ended = ended(closed.closed_by, side);
        let color = if ended.starts_with("closed") { Color::Blue } else { Color::Red };
        return Some((color, after(ended, closed.duration)));
    }
    match end.handshake? {
        Handshake { result: Ok(()), .. } => None,
        Handshake { result: Err(failure), duration, .. } => {
            let what = format!("handshake failed: {}", spaced(failure.label()));
            Some((Color::Red, after(&what, duration)))
        }
    }
}

/// The two ends measure different times.
fn reason(end: &str) -> &str {
    end.split_once(" after ").map_or(end, |(reason, _)| reason)
}

/// Bytes that the client sent, and that the server sent, where they are known.
pub(super) fn bytes(account: &Account) -> [Option<u64>; 2] {
    let [(_, client), (_, server)] = ends(account);
    let sent = |end: &End| end.closed.as_ref()?.bytes_sent;
    let received = |end: &End| end.closed.as_ref()?.bytes_received;
    [sent(client).or(received(server)), sent(server).or(received(client))]
}

/// Data that was sent again.
pub(super) fn resent(account: &Account) -> Vec<String> {
    let resent = ends(account).into_iter().filter(|(_, end)| end.data_retransmits > 0);
    let words = |(role, end): (Role, &End)| match end.data_retransmits {
        1 => format!("{} sent a data segment again", role.label()),
        times => format!("{} sent data segments again {times} times", role.label()),
    };
    resent.map(words).collect()
}

/// What else is to be known.
pub(super) fn notes(account: &Account, occasion: Occasion) -> Vec<String> {
    let mut notes = Vec::new();
    for (role, end) in ends(account) {
        let role = role.label();
        if end.state == Some(TcpState::TimeWait) {
            notes.push(format!("the {role} stays in TIME_WAIT for 60 s"));
        }
        if let (Some(state), None) = (end.state, end.over) {
            match occasion {
                Occasion::Waited => notes.push(format!("the {role} was last heard of in {state}")),
                Occasion::Over | Occasion::CutShort | Occasion::EndOfInput => {}
            }
        }
    }
    if let Some(reason) = account.reset_reason.filter(|_| was_reset(account)) {
        notes.push(format!("reason of the reset: {}", spaced(reason)));
    }
    if account.ends.iter().any(|end| end.closed.as_ref().is_some_and(|closed| closed.partial)) {
        notes.push("it was open before it was first seen".into());
    }
    match account.omitted {
        0 => {}
        1 => notes.push("one more step is left out".into()),
        omitted => notes.push(format!("{omitted} more steps are left out")),
    }
    notes
}

/// Which states are inferred, and not told by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inferred {
    Nothing,
    Some,
    All,
}

impl Inferred {
    pub(super) fn of(account: &Account) -> Self {
        let inferred = account.entries.iter().filter_map(|entry| match entry {
            Entry::State { evidence, .. } => Some(*evidence != Evidence::Kernel),
            Entry::Segment(_) => None,
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
fn was_reset(account: &Account) -> bool {
    account.ends.iter().any(|end| {
        let closed_by = end.closed.as_ref().map(|closed| closed.closed_by);
        let was_reset = matches!(closed_by, Some(ClosedBy::LocalReset | ClosedBy::RemoteReset));
        was_reset || matches!(end.handshake, Some(Handshake { result: Err(_), .. }))
    })
}

/// An end in a word or two: its role, and the process that acted on it.
pub(super) fn name(role: Role, end: &End) -> String {
    match end.process {
        Some(process) => format!("{} {}", role.label(), Name(process)),
        None => role.label().to_owned(),
    }
}
