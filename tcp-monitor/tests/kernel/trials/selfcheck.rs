//! The comparisons of the suite find faults: without these trials, a comparison that never fails
//! would go unnoticed.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::support::{
    agent::Event,
    capture::Capture,
    read_comparison,
    segment_comparison::{Checksum, compare},
    steps::{Step, steps},
    topology::{Network, Topology},
    traffic,
    trial::{self, trial},
    tshark_packet::ACK,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a missing, additional or wrong segment is noticed",
            &[trial::AGENT, trial::CAPTURE],
            faults_are_noticed,
        ),
        trial(
            "an event that differs between agent and capture is noticed",
            &[trial::AGENT, trial::CAPTURE],
            differences_are_noticed,
        ),
    ]
}

fn faults_are_noticed() -> Result<()> {
    let network = Network::new(Topology::LoopbackV6)?;
    let capture = Capture::start(&network.client, network.interface, network.address_behind)?;
    traffic::greeting(&network, PORT)?;
    network.await_no_traffic(PORT)?;
    let packets = capture.finish()?.packets;
    let steps = steps(&packets);
    let right: Vec<Event> = steps.iter().map(as_event).collect();
    compare(&steps, &right, Checksum::Same)?;

    ensure!(packets.len() > steps.len(), "no plain data among {packets:#?}");
    for i in 0..right.len() {
        let mut missing = right.clone();
        let one = missing.remove(i);
        ensure!(compare(&steps, &missing, Checksum::Same).is_err(), "{one} may be missing");
        let twice = [&right[..], &[one]].concat();
        ensure!(compare(&steps, &twice, Checksum::Same).is_err(), "{} may come twice", right[i]);
        for name in ["seq", "seq_rel", "window", "checksum", "header_len", "len", "step"] {
            let mut wrong = right.clone();
            wrong[i][name] = json!(1_234_567);
            ensure!(compare(&steps, &wrong, Checksum::Same).is_err(), "{name} of {} may be wrong", right[i]);
        }
    }
    Ok(())
}

fn differences_are_noticed() -> Result<()> {
    let network = Network::new(Topology::LoopbackV6)?;
    let capture = Capture::start(&network.client, network.interface, network.address_behind)?;
    traffic::greeting(&network, PORT)?;
    traffic::client_resets(&network, PORT)?;
    network.await_no_traffic(PORT)?;
    let reported = read_comparison::read(&capture.finish()?.file)?.events;
    read_comparison::compare_events(&reported, &reported, |_| true)?;

    for (kind, fields) in read_comparison::COMPARED {
        for (i, event) in reported.iter().enumerate().filter(|(_, event)| event["event"] == kind) {
            let mut missing = reported.clone();
            missing.remove(i);
            ensure!(
                read_comparison::compare_events(&missing, &reported, |_| true).is_err(),
                "{event} may be missing"
            );
            for field in fields {
                let mut wrong = reported.clone();
                wrong[i][field] = json!("wrong");
                ensure!(
                    read_comparison::compare_events(&wrong, &reported, |_| true).is_err(),
                    "{field} may differ in {event}"
                );
            }
        }
    }
    Ok(())
}

/// What the agent is to print of a step.
fn as_event(step: &Step) -> Event {
    let packet = &step.packet;
    let mut event = json!({
        "v": 1, "time": "", "event": "segment", "step": step.name,
        "src": packet.src.to_string(), "dst": packet.dst.to_string(), "flags": packet.flag_names(),
        "seq": packet.seq, "seq_rel": packet.seq_rel, "len": packet.len,
        "options": {
            "mss": packet.options.mss, "wscale": packet.options.wscale,
            "sack_permitted": packet.options.sack_permitted,
            "ts_val": packet.options.ts_val, "ts_ecr": packet.options.ts_ecr,
        },
    });
    if packet.has(ACK) {
        event["ack"] = packet.ack.into();
        event["ack_rel"] = packet.ack_rel.into();
    }
    for (name, value) in packet.header {
        event[name] = Value::from(value);
    }
    event
}

const PORT: u16 = 8899;
