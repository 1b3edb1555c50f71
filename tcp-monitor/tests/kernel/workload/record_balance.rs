//! Records for the log: each one that was made was read, or is counted as lost.

use anyhow::{Context, Result, ensure};

use crate::{support::scrape::Samples, workload::identities::Mismatches};

/// Compares the agent's counters of one namespace, in which nothing changes any more, with the
/// number of records that it `read`.
pub(crate) fn check_records(samples: &Samples, read: u64) -> Result<()> {
    let sum = |metric, labels: &[(&str, &str)]| samples.sum_or_zero(metric, labels);
    let of_kind = |kind| {
        ["events_total", "events_lost_total", "events_suppressed_total"]
            .map(|metric| sum(metric, &[("kind", kind)]))
            .into_iter()
            .sum::<u64>()
    };
    let mut mismatches = Mismatches::default();
    mismatches.equal("records read", read, sum("events_total", &[]));

    let transitions = |labels: &[(&str, &str)]| sum("state_transitions_total", labels);
    // Half-open connections and TIME_WAIT have no full socket. A socket that entered FIN_WAIT2 has
    // left it, whatever state the connection is in.
    let without_socket = transitions(&[("from", "new_syn_recv")])
        + transitions(&[("to", "new_syn_recv")])
        + transitions(&[("from", "time_wait")]);
    let reported = transitions(&[]) - without_socket - transitions(&[("from", "fin_wait2")])
        + transitions(&[("to", "fin_wait2")]);
    mismatches.equal("records of states", of_kind("state"), reported);

    let resets = sum("resets_total", &[("direction", "sent")]);
    ensure!(of_kind("reset") >= resets, "{resets} RSTs were sent, of {} there are records", of_kind("reset"));
    mismatches.none()
}

/// The number of records that the agent prints when it exits.
pub(crate) fn records_read(messages: &[String]) -> Result<u64> {
    let number = messages.iter().find_map(|line| {
        let (before, _) = line.split_once(" records read").or(line.split_once(" record read"))?;
        before.rsplit(' ').next()?.parse().ok()
    });
    number.with_context(|| format!("the agent does not print how many records it read: {messages:#?}"))
}
