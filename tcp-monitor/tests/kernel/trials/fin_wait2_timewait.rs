//! A connection whose application has closed stays in FIN_WAIT2 for the counters too, until it
//! leaves it, whatever ends it.

use std::{
    io::Read,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::Stdio,
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::support::{
    deadline::poll_until,
    namespace::Namespace,
    outside_host::{INSIDE_V4, INSIDE_V6, OutsideHost, OutsideNetwork},
    packet_builder::{ACK, FIN, RST, Segment},
    scraped_agent::ScrapedAgent,
    topology::{Network, Topology},
    traffic::connected_pair,
    trial::{self, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for topology in Topology::ALL {
        let name = format!("the peer's FIN ends FIN_WAIT2 of a timewait socket {}", topology.phrase());
        trials.push(trial(name, &[trial::AGENT], move || peer_closes(topology)));
    }
    let needs = &[trial::AGENT, trial::TUN];
    for (what, end) in ENDS {
        trials.push(trial(format!("FIN_WAIT2 of a timewait socket ends with {what}"), needs, move || {
            end_of_timewait_socket(INSIDE_V4.into(), end)?;
            end_of_timewait_socket(INSIDE_V6.into(), end)
        }));
    }
    trials.push(trial(
        "data that acknowledges a FIN after close() makes no timewait socket",
        needs,
        data_after_close,
    ));
    trials
}

fn peer_closes(topology: Topology) -> Result<()> {
    let network = Network::new(topology)?;
    let agent = count(&network.client)?;
    let (mut server, mut client) = connected_pair(&network, PORT)?;
    client.close()?;
    network.client.await_state(PORT, "fin_wait2")?;
    ensure!(left(&agent)? == UNROUTED, "{:?} while ss shows it in FIN_WAIT2", left(&agent)?);
    ensure!(closed_by_local(&agent)? == 1, "the application has closed");
    server.close()?;
    network.await_no_traffic(PORT)?;
    await_left(&agent, FOR_TIME_WAIT)?;
    agent.stop()?;
    Ok(())
}

/// What ends a timewait socket in FIN_WAIT2. Returns how many left FIN_WAIT2 for TIME_WAIT and for
/// CLOSE.
type End = fn(&mut OutsideHost<'_>) -> Result<[u64; 2]>;

const ENDS: [(&str, End); 5] = [
    ("a FIN that is retransmitted", |host| {
        host.fin();
        host.await_acknowledgement()?;
        host.seq = host.seq.wrapping_sub(1);
        host.fin();
        host.await_acknowledgement()?;
        Ok(FOR_TIME_WAIT)
    }),
    ("a FIN behind data that was received before", |host| {
        let seq = host.seq.wrapping_sub(DATA as u32);
        host.send(Segment { flags: FIN | ACK, seq, ack: host.ack, len: DATA });
        host.seq = host.seq.wrapping_add(1);
        host.await_acknowledgement()?;
        Ok(FOR_TIME_WAIT)
    }),
    ("a RST", |host| {
        host.rst();
        Ok(FOR_CLOSE)
    }),
    ("data", |host| {
        host.data(DATA);
        host.await_rst()?;
        Ok(FOR_CLOSE)
    }),
    ("a FIN behind data", |host| {
        host.send(Segment { flags: FIN | ACK, seq: host.seq, ack: host.ack, len: DATA });
        host.await_rst()?;
        Ok(FOR_CLOSE)
    }),
];

fn end_of_timewait_socket(here: IpAddr, end: End) -> Result<()> {
    let namespace = Namespace::new()?;
    let outside = OutsideNetwork::new(&namespace)?;
    let agent = count(&namespace)?;
    let (server, mut host) = accepted(&namespace, &outside, SocketAddr::new(here, PORT))?;
    host.data(DATA);
    host.await_acknowledgement()?;
    (&server).read_exact(&mut [0; DATA])?;
    drop(server);
    host.await_fin()?;
    host.acknowledge();
    namespace.await_state(PORT, "fin_wait2")?;
    // A FIN out of order, and a RST out of window, are of no effect.
    host.send(Segment::new(FIN | ACK, host.seq.wrapping_sub(1), host.ack));
    host.send(Segment::new(RST, host.seq.wrapping_sub(100_000), 0));
    ensure!(left(&agent)? == UNROUTED, "{:?} while ss shows it in FIN_WAIT2", left(&agent)?);
    let expected = end(&mut host)?;
    await_left(&agent, expected)?;
    ensure!(closed_by_local(&agent)? == 1, "the application has closed");
    agent.stop()?;
    Ok(())
}

fn data_after_close() -> Result<()> {
    let namespace = Namespace::new()?;
    let outside = OutsideNetwork::new(&namespace)?;
    let agent = count(&namespace)?;
    let (server, mut host) = accepted(&namespace, &outside, SocketAddr::new(INSIDE_V4.into(), PORT))?;
    drop(server);
    host.await_fin()?;
    host.data(DATA);
    host.await_rst()?;
    await_left(&agent, FOR_CLOSE)?;
    agent.stop()?;
    Ok(())
}

fn count(namespace: &Namespace) -> Result<ScrapedAgent> {
    ScrapedAgent::start(namespace, &format!("--output none --port {PORT}"), Stdio::null())
}

/// A connection with an outside host.
fn accepted<'a>(
    namespace: &Namespace,
    outside: &'a OutsideNetwork,
    address: SocketAddr,
) -> Result<(TcpStream, OutsideHost<'a>)> {
    let listener = namespace.enter(|| Ok(TcpListener::bind(address)?))?;
    let mut host = outside.new_host(address, 1_000_000);
    host.open()?;
    host.acknowledge();
    Ok((listener.accept()?.0, host))
}

/// How many connections left FIN_WAIT2 for TIME_WAIT and for CLOSE, as counted.
fn left(agent: &ScrapedAgent) -> Result<[u64; 2]> {
    let samples = agent.samples()?;
    let to = |state| samples.sum("state_transitions_total", &[("from", "fin_wait2"), ("to", state)]);
    Ok([to("time_wait")?, to("close")?])
}

fn await_left(agent: &ScrapedAgent, expected: [u64; 2]) -> Result<()> {
    poll_until(&format!("{expected:?} to have left FIN_WAIT2"), || left(agent), |left| *left == expected)?;
    Ok(())
}

fn closed_by_local(agent: &ScrapedAgent) -> Result<u64> {
    agent.samples()?.sum("connections_closed_total", &[("closed_by", "local")])
}

const UNROUTED: [u64; 2] = [0, 0];
const FOR_TIME_WAIT: [u64; 2] = [1, 0];
const FOR_CLOSE: [u64; 2] = [0, 1];
/// Bytes.
const DATA: usize = 5;
const PORT: u16 = 8899;
