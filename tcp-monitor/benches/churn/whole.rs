//! How many connections a log in JSON reports with every event that they have.

use std::collections::HashMap;
use std::io::BufRead;

use anyhow::Result;
use serde::Deserialize;

/// The fields of an event that say what it is of.
#[derive(Deserialize)]
struct Event<'a> {
    event: &'a str,
    conn: Option<u64>,
    step: Option<&'a str>,
}

/// Events of one connection.
#[derive(Clone, Copy, Default)]
struct Events {
    states: u32,
    segments: u32,
    handshakes: u32,
    resets: u32,
    closed: u32,
    has_rst: bool,
}

impl Events {
    fn count(&mut self, event: &Event<'_>) {
        match event.event {
            "state" => self.states += 1,
            "segment" => self.segments += 1,
            "handshake" => self.handshakes += 1,
            "reset" => self.resets += 1,
            "closed" => self.closed += 1,
            _ => {}
        }
        self.has_rst |= event.step == Some("rst");
    }

    /// Whether nothing is missing of a connection, of which so many ends are watched.
    ///
    /// One that was closed has SYN, SYN-ACK, ACK, two FINs and the ACK of the second. The first may
    /// be acknowledged by the second, or by a segment more. Each end has five transitions before
    /// TIME_WAIT ends. One that was reset has SYN, SYN-ACK, ACK and RST, and three transitions.
    fn are_whole(self, ends: u32) -> bool {
        let (states, segments, resets) = if self.has_rst { (3, 4, 1) } else { (5, 6, 0) };
        self.states >= states * ends
            && self.segments >= segments
            && self.handshakes >= ends
            && self.resets >= resets * ends
            && self.closed >= ends
    }
}

/// Connections in `log` that are reported whole.
///
/// # Errors
/// If a line cannot be read or is no event.
pub(crate) fn count(mut log: impl BufRead, ends: u32) -> Result<u64> {
    let mut connections: HashMap<u64, Events> = HashMap::new();
    let mut line = Vec::new();
    while log.read_until(b'\n', &mut line)? > 0 {
        let event: Event<'_> = serde_json::from_slice(&line)?;
        if let Some(id) = event.conn {
            connections.entry(id).or_default().count(&event);
        }
        line.clear();
    }
    Ok(connections.into_values().filter(|events| events.are_whole(ends)).count() as u64)
}
