//! Compares what the agent reported of sockets with what `tcp-monitor read` reports of a capture of
//! the same traffic.

use std::{collections::BTreeMap, io::Write, net::SocketAddr, process::Command};

use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;

use crate::support::{
    agent::{Event, Report, agent_path, run_to_end},
    segment_comparison::{Checksum, compare},
    steps::Step,
};

/// Checks that the reader reports the steps that tshark shows, and what the agent reported of the
/// ends whose local address is `watched`.
///
/// # Errors
/// With every difference, by connection and end.
pub(crate) fn check_agreement(
    live: &Report,
    capture: &[u8],
    steps: &[Step],
    watched: impl Fn(SocketAddr) -> bool,
) -> Result<()> {
    let offline = read(capture)?;
    compare(steps, &offline.events, Checksum::Same).context("tcp-monitor read")?;
    let unexpected: Vec<_> = offline.events.iter().filter(|event| event["unexpected"].is_string()).collect();
    ensure!(unexpected.is_empty(), "no segment is unexpected, but {unexpected:#?}");
    compare_events(&live.events, &offline.events, watched)
}

/// Checks that the events of those ends are equal, live and from a capture.
pub(crate) fn compare_events(
    live: &[Event],
    offline: &[Event],
    watched: impl Fn(SocketAddr) -> bool,
) -> Result<()> {
    let (mut live, mut offline) = (events_by_end(live), events_by_end(offline));
    for reported in [&mut live, &mut offline] {
        reported.retain(|(local, _), _| watched(*local));
    }
    live.values_mut().for_each(allow_phase_of_reset_in_fin_wait2);
    ensure!(!live.is_empty() && live == offline, "reported live: {live:#?}\nof the capture: {offline:#?}");
    Ok(())
}

/// What `tcp-monitor read` reports of a capture file.
pub(crate) fn read(capture: &[u8]) -> Result<Report> {
    let mut file = NamedTempFile::new()?;
    file.write_all(capture)?;
    let mut command = Command::new(agent_path());
    let report = run_to_end(command.args(["read", "--output", "json"]).arg(file.path()))?;
    ensure!(report.status.success(), "tcp-monitor read: {}: {:#?}", report.status, report.messages);
    Ok(report)
}

/// The events of one end by kind, in order, each as its compared fields. The order of different
/// kinds may depend on the observation point.
type EndEvents = BTreeMap<&'static str, Vec<String>>;

/// The fields that both can have. A capture has no process, errno, listener or estimate of the
/// round trip.
fn events_by_end(events: &[Event]) -> BTreeMap<(SocketAddr, SocketAddr), EndEvents> {
    let mut events_by_end = BTreeMap::new();
    for event in events {
        let address = |name: &str| event[name].as_str()?.parse::<SocketAddr>().ok();
        let Some(ends) = address("local").zip(address("remote")) else { continue };
        let Some(kind) = event["event"].as_str() else { continue };
        let Some((kind, fields)) = COMPARED.iter().find(|(name, _)| *name == kind) else { continue };
        let words: Vec<String> = fields.iter().map(|name| format!("{name} {}", event[*name])).collect();
        let events_of_end: &mut EndEvents = events_by_end.entry(ends).or_default();
        events_of_end.entry(kind).or_default().push(words.join(", "));
    }
    events_by_end
}

/// After close(), the kernel keeps FIN_WAIT2 in a timewait socket. When that answers data with a
/// RST, the phase is `time_wait`, though that state was never entered.
fn allow_phase_of_reset_in_fin_wait2(live: &mut EndEvents) {
    let enters_time_wait = live
        .get("state")
        .is_some_and(|states| states.iter().any(|state| state.ends_with("to \"time_wait\"")));
    if !enters_time_wait && let Some(resets) = live.get_mut("reset") {
        for reset in resets {
            *reset = reset.replace("phase \"time_wait\"", "phase \"closing\"");
        }
    }
}

/// The fields of each kind of event.
pub(crate) const COMPARED: [(&str, &[&str]); 5] = [
    ("state", &["role", "from", "to"]),
    ("handshake", &["role", "result", "syn_retransmits"]),
    ("reset", &["direction", "phase"]),
    ("retransmit", &["kind", "state"]),
    ("closed", &["role", "closed_by", "bytes_sent", "bytes_received", "retransmits"]),
];
