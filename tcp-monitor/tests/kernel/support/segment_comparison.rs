//! Compares the agent's `segment` events with the steps that a capture shows.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::{
    agent::Event,
    steps::Step,
    tshark_packet::{ACK, Options},
};

/// What identifies a segment: step, addresses, flags, sequence and acknowledgement number.
type Identity = (String, SocketAddr, SocketAddr, Vec<String>, u64, u64);

/// Whether the agent and tcpdump see the same checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// Both see the packet as the sender's stack left it, or both as it arrived.
    Same,
    /// The device cannot compute checksums: the kernel does so after the classifier and before the
    /// capture.
    CompletedBetween,
}

/// Every step was printed once, with the numbers that tshark shows, and no other segment was.
pub(crate) fn compare(steps: &[Step], events: &[Event], checksum: Checksum) -> Result<()> {
    let mut printed: BTreeMap<Identity, Vec<&Event>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["event"] == "segment") {
        let identity = identity_of_event(event).with_context(|| format!("in {event}"))?;
        printed.entry(identity).or_default().push(event);
    }
    let mut mismatches = Vec::new();
    for step in steps {
        match printed.get_mut(&identity_of_step(step)).filter(|events| !events.is_empty()) {
            Some(events) => {
                let event = events.remove(0);
                mismatches.extend(
                    details(step, event, checksum).into_iter().map(|fault| format!("{fault}, in {event}")),
                );
            }
            None => mismatches.push(format!("not printed: {:?}", identity_of_step(step))),
        }
    }
    for event in printed.values().flatten() {
        mismatches.push(format!("printed, but no step of the capture: {event}"));
    }
    ensure!(
        mismatches.is_empty(),
        "{} of {} steps differ:\n{}",
        mismatches.len(),
        steps.len(),
        mismatches.join("\n")
    );
    Ok(())
}

fn identity_of_step(step: &Step) -> Identity {
    let packet = &step.packet;
    (
        step.name.to_owned(),
        packet.src,
        packet.dst,
        packet.flag_names().iter().map(|name| (*name).to_owned()).collect(),
        packet.seq.into(),
        if packet.has(ACK) { packet.ack.into() } else { 0 },
    )
}

fn identity_of_event(event: &Event) -> Result<Identity> {
    let text = |name: &str| event[name].as_str().with_context(|| format!("no {name}"));
    let flags = event["flags"].as_array().context("no flags")?;
    let flags: Vec<String> = flags.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let ack =
        if flags.iter().any(|flag| flag == "ACK") { event["ack"].as_u64().context("no ack")? } else { 0 };
    Ok((
        text("step")?.to_owned(),
        text("src")?.parse()?,
        text("dst")?.parse()?,
        flags,
        event["seq"].as_u64().context("no seq")?,
        ack,
    ))
}

/// The numbers that differ between tshark and the agent.
fn details(step: &Step, event: &Event, checksum: Checksum) -> Vec<String> {
    let packet = &step.packet;
    let mut mismatches = Vec::new();
    let mut check = |name: &str, ours: Option<u64>, tshark: Option<u64>| {
        if ours != tshark {
            mismatches.push(format!("{name} is {ours:?}, tshark shows {tshark:?}"));
        }
    };
    check("len", event["len"].as_u64(), Some(packet.len.into()));
    for (name, value) in packet.header {
        let ours = event[name].as_u64();
        match name {
            "checksum" if checksum == Checksum::CompletedBetween => {}
            // An urgent pointer means nothing without URG.
            "urgent" if ours.is_none() && value == 0 => {}
            _ => check(name, ours, Some(value)),
        }
    }
    // Without a zero to count from, Wireshark guesses; the agent leaves the number out.
    if step.seq_start_seen {
        check("seq_rel", event["seq_rel"].as_u64(), Some(packet.seq_rel.into()));
    }
    if step.ack_start_seen && packet.has(ACK) {
        check("ack_rel", event["ack_rel"].as_u64(), Some(packet.ack_rel.into()));
    }
    let options = &event["options"];
    let ours = Options {
        mss: options["mss"].as_u64(),
        wscale: options["wscale"].as_u64(),
        sack_permitted: options["sack_permitted"] == true,
        ts_val: options["ts_val"].as_u64(),
        ts_ecr: options["ts_ecr"].as_u64(),
    };
    if ours != packet.options {
        mismatches.push(format!("options are {ours:?}, tshark shows {:?}", packet.options));
    }
    if packet.retransmission != (event["retransmission"] == true) {
        mismatches.push(format!("tshark marks it as a retransmission: {}", packet.retransmission));
    }
    mismatches
}
