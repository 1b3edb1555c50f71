//! The arithmetic of sequence and acknowledgement numbers (RFC 9293, 3.4), on one connection whose
//! payload is known.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::support::{
    agent::{Agent, Event, Watch},
    capture::Capture,
    topology::{Network, Topology},
    traffic,
    trial::{self, UnintendedTraffic, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "sequence and acknowledgement numbers of a greeting of 13 bytes add up",
        &[trial::AGENT, trial::CAPTURE],
        numbers_of_a_greeting_add_up,
    )]
}

fn numbers_of_a_greeting_add_up() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let agent = Agent::start(Watch::Inside(&network.server), &format!("--port {PORT}"))?;
    let capture = Capture::start(&network.client, network.interface, network.address_behind)?;
    traffic::greeting(&network, PORT)?;
    network.await_no_traffic(PORT)?;
    let packets = capture.finish()?.packets;
    let report = agent.stop()?;

    let from_server = |event: &Event| event["src"].as_str().is_some_and(|src| src.ends_with(":12345"));
    let segment = |step: &str, server: bool| {
        report
            .of_kind("segment")
            .find(|event| event["step"] == step && from_server(event) == server)
            .with_context(|| format!("no {step} in {:#?}", report.events))
    };
    let number =
        |event: &Event, name: &str| event[name].as_u64().with_context(|| format!("no {name} in {event}"));
    let next = |number: u64| (number + 1) & u64::from(u32::MAX);

    let (syn, syn_ack) = (segment("syn", false)?, segment("syn_ack", true)?);
    let handshake_ack = segment("handshake_ack", false)?;
    ensure!(number(syn_ack, "ack")? == next(number(syn, "seq")?), "{syn_ack} does not acknowledge {syn}");
    ensure!(
        number(handshake_ack, "ack")? == next(number(syn_ack, "seq")?)
            && handshake_ack["seq"] == syn_ack["ack"]
            && handshake_ack["ack_rel"] == 1
            && handshake_ack["seq_rel"] == 1,
        "{handshake_ack} does not acknowledge {syn_ack}"
    );

    // The client acknowledges 13 bytes with 14, the server's FIN with 15. The former is plain data
    // traffic: no step.
    let acknowledged = |ack: u32| {
        packets.iter().any(|packet| packet.dst.port() == PORT && packet.len == 0 && packet.ack_rel == ack)
    };
    ensure!(acknowledged(14) && acknowledged(15), UnintendedTraffic(format!("{packets:#?}")));
    ensure!(
        !report.of_kind("segment").any(|event| event["ack_rel"] == 14),
        "plain data: {:#?}",
        report.events
    );
    ensure!(
        segment("fin", true)?["seq_rel"] == 14,
        "the server's FIN follows 13 bytes: {:#?}",
        report.events
    );
    let answer = report
        .of_kind("segment")
        .find(|event| !from_server(event) && event["ack_rel"] == 15)
        .with_context(|| format!("nothing acknowledges the FIN in {:#?}", report.events))?;
    ensure!(answer["step"] == "ack_of_fin" || answer["step"] == "fin", "this acknowledges the FIN: {answer}");
    Ok(())
}

const PORT: u16 = 12345;
