//! Each event carries the number of its connection and the namespace where it happened. Both ends
//! of a connection have one number, and connections with equal addresses in different namespaces
//! have different ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::support::{
    agent::{Agent, Event, Report, Watch},
    namespace::Namespace,
    peer::{Ends, Peer},
    topology::{Network, Topology},
    traffic::connected_pair,
    trial::{self, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "connections with equal addresses in two namespaces have numbers of their own",
            &[trial::AGENT],
            equal_addresses,
        ),
        trial(
            "both ends of a connection between two namespaces have one number",
            &[trial::AGENT],
            between_namespaces,
        ),
    ]
}

/// The connections are open at the same time, and differ only in their namespace, their payload and
/// who closes first.
fn equal_addresses() -> Result<()> {
    let namespaces = [Namespace::new()?, Namespace::new()?];
    let agent = Agent::start(Watch::AllOf(&[&namespaces[0], &namespaces[1]]), &format!("--port {PORT}"))?;
    let [mut first, mut second] = [Connection::open(&namespaces[0])?, Connection::open(&namespaces[1])?];
    ensure!(first.ends == second.ends, "{:?} is not {:?}", first.ends, second.ends);
    first.transfer(SENT_IN_FIRST)?;
    second.transfer(SENT_IN_SECOND)?;
    first.client.close()?;
    second.server.close()?;
    for namespace in &namespaces {
        namespace.await_state(PORT, "fin_wait2")?;
    }
    first.server.close()?;
    second.client.close()?;
    for namespace in &namespaces {
        namespace.await_no_traffic(PORT)?;
    }
    let ends = first.ends;
    let report = agent.stop()?;

    let events = of_connection(&report, ends);
    let numbers = numbers_by_namespace(&events)?;
    let [first, second] = [numbers.get(&namespaces[0].inode()?), numbers.get(&namespaces[1].inode()?)];
    ensure!(
        numbers.len() == 2
            && first.is_some_and(|numbers| numbers.len() == 1)
            && second.is_some_and(|numbers| numbers.len() == 1)
            && first != second,
        "one number in each of the two namespaces expected: {numbers:?}"
    );
    for (namespace, sent, [by_client, by_server]) in [
        (&namespaces[0], SENT_IN_FIRST, ["local", "remote"]),
        (&namespaces[1], SENT_IN_SECOND, ["remote", "local"]),
    ] {
        check_life(&events, namespace, "client", by_client, [sent as u64, 0])?;
        check_life(&events, namespace, "server", by_server, [0, sent as u64])?;
    }
    Ok(())
}

fn between_namespaces() -> Result<()> {
    let network = Network::new(Topology::VethV4)?;
    let agent = Agent::start(Watch::AllOf(&[&network.client, &network.server]), &format!("--port {PORT}"))?;
    let (mut server, mut client) = connected_pair(&network, PORT)?;
    client.send(SENT_IN_FIRST)?;
    server.read(SENT_IN_FIRST)?;
    client.close()?;
    network.client.await_state(PORT, "fin_wait2")?;
    server.close()?;
    network.await_no_traffic(PORT)?;
    let report = agent.stop()?;

    let events: Vec<_> = report.events.iter().filter(|event| ends(event).is_some()).collect();
    let numbers: BTreeSet<_> = events.iter().map(|event| number(event)).collect::<Result<_>>()?;
    ensure!(numbers.len() == 1, "one number expected, not {numbers:?}: {events:#?}");
    check_life(&events, &network.client, "client", "local", [SENT_IN_FIRST as u64, 0])?;
    check_life(&events, &network.server, "server", "remote", [0, SENT_IN_FIRST as u64])
}

/// A connection over loopback, from a port that is the same in each namespace.
struct Connection {
    server: Peer,
    client: Peer,
    /// The client's local address, and the server's.
    ends: Ends,
}

impl Connection {
    fn open(namespace: &Namespace) -> Result<Self> {
        let address = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let mut server = Peer::spawn(namespace, "server")?;
        let mut client = Peer::spawn(namespace, "client")?;
        server.listen(address(PORT))?;
        client.begin_connect_from(address(CLIENT_PORT), address(PORT))?;
        let ends = client.end_connect()?;
        server.accept()?;
        Ok(Self { server, client, ends })
    }

    fn transfer(&mut self, bytes: usize) -> Result<()> {
        self.client.send(bytes)?;
        self.server.read(bytes)
    }
}

/// The events whose addresses are these, in either order.
fn of_connection(report: &Report, connection: Ends) -> Vec<&Event> {
    let is_of =
        |ends: Ends| ends == connection || (ends.local, ends.remote) == (connection.remote, connection.local);
    report.events.iter().filter(|event| ends(event).is_some_and(is_of)).collect()
}

/// The addresses of an event: of a socket, or of a segment.
fn ends(event: &Event) -> Option<Ends> {
    let address = |name: &str| event[name].as_str()?.parse().ok();
    let socket = address("local").zip(address("remote"));
    let (local, remote) = socket.or_else(|| address("src").zip(address("dst")))?;
    Some(Ends { local, remote })
}

fn number(event: &Event) -> Result<u64> {
    event["conn"].as_u64().with_context(|| format!("no conn: {event}"))
}

fn netns(event: &Event) -> Result<u64> {
    event["netns"].as_u64().with_context(|| format!("no netns: {event}"))
}

fn numbers_by_namespace(events: &[&Event]) -> Result<BTreeMap<u64, BTreeSet<u64>>> {
    let mut numbers: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for event in events {
        numbers.entry(netns(event)?).or_default().insert(number(event)?);
    }
    Ok(numbers)
}

/// In this namespace, the socket of this role has one `handshake` and one `closed`, with these
/// bytes sent and received.
fn check_life(
    events: &[&Event],
    namespace: &Namespace,
    role: &str,
    closed_by: &str,
    [sent, received]: [u64; 2],
) -> Result<()> {
    let inode = namespace.inode()?;
    let of_kind = |kind| -> Vec<_> {
        let is_of =
            |event: &&&Event| event["event"] == kind && event["netns"] == inode && event["role"] == role;
        events.iter().filter(is_of).collect()
    };
    ensure!(of_kind("handshake").len() == 1, "{role}, handshakes: {:#?}", of_kind("handshake"));
    let closed = of_kind("closed");
    ensure!(
        closed.len() == 1
            && closed[0]["closed_by"] == closed_by
            && closed[0]["bytes_sent"] == sent
            && closed[0]["bytes_received"] == received,
        "{role}: closed once by {closed_by} after {sent} bytes sent and {received} received expected: {closed:#?}"
    );
    Ok(())
}

const PORT: u16 = 8899;
/// Below the ephemeral ports.
const CLIENT_PORT: u16 = 10_001;
/// Bytes.
const SENT_IN_FIRST: usize = 10;
const SENT_IN_SECOND: usize = 2_000;
