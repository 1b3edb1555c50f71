//! Connections opened before monitoring started: tracked from the state in which the agent finds
//! them, and reported as partial.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::{
    agent::{Agent, Report, Watch},
    deadline::{Deadline, poll_by},
    namespace::Namespace,
    scrape::samples,
    topology::{Network, Topology},
    traffic::connected_pair,
    trial::{self, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial(
            "the role of an accepted socket follows from its listener where the socket does not show it",
            &[trial::AGENT],
            behind_a_backlog_of_zero,
        ),
        trial(
            "a timewait socket in FIN_WAIT2 found at the start is reported until it ends",
            &[trial::AGENT],
            fin_wait2_timewait_socket,
        ),
        trial(
            "connections that change while the agent starts leave no entry in the tracker",
            &[trial::AGENT],
            changing_meanwhile,
        ),
    ];
    for topology in [Topology::LoopbackV4, Topology::LoopbackMapped, Topology::VethV6] {
        trials.push(trial(
            format!(
                "connections {} opened before monitoring started are reported as partial",
                topology.phrase()
            ),
            &[trial::AGENT],
            move || open_before(topology),
        ));
    }
    trials
}

/// One is established, and closed by the server. Of the other, the client has shut down its side
/// before.
fn open_before(topology: Topology) -> Result<()> {
    let network = Network::new(topology)?;
    let (mut server, mut client) = connected_pair(&network, PORT)?;
    server.send(13)?;
    client.read(13)?;
    client.send(7)?;
    server.read(7)?;
    let (mut late_server, mut early_client) = connected_pair(&network, OTHER_PORT)?;
    early_client.send(5)?;
    late_server.read(5)?;
    early_client.shut_down_write()?;
    network.server.await_state(OTHER_PORT, "close_wait")?;

    let agent = Agent::start(Watch::Named(&network.server), &format!("--port {PORT},{OTHER_PORT}"))?;
    ensure!(agent.events.so_far().is_empty(), "existing connections are not reported");
    client.send(2)?;
    server.read(2)?;
    server.close()?;
    ensure!(client.read_to_end()? == 0, "data after the end");
    client.close()?;
    late_server.send(3)?;
    early_client.read(3)?;
    late_server.close()?;
    for port in [PORT, OTHER_PORT] {
        network.await_no_traffic(port)?;
        agent
            .events
            .wait_for("the end of the server's socket", |events| closed(events, port, "server").map(drop))?;
    }
    let report = agent.stop()?;
    for (port, closed_by, sent, received) in [(PORT, "local", 13, 9), (OTHER_PORT, "remote", 3, 5)] {
        let closed = closed(&report.events, port, "server").context("awaited above")?;
        let expected = [
            ("closed_by", closed_by.into()),
            ("partial", true.into()),
            ("bytes_sent", sent.into()),
            ("bytes_received", received.into()),
            ("duration_us", Value::Null),
        ];
        for (name, expected) in expected {
            ensure!(closed[name] == expected, "{name} is not {expected}: {closed}");
        }
    }
    Ok(())
}

/// With `listen(fd, 0)` an accepted socket inherits the same backlog limit as a client's has, which
/// is 0.
fn behind_a_backlog_of_zero() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let (listener, mut client) = network.server.enter(|| {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.bind(&network.listen_address(PORT).into())?;
        listener.listen(0)?;
        Ok((TcpListener::from(listener), TcpStream::connect(network.connect_address(PORT))?))
    })?;
    let (mut server, _) = listener.accept()?;
    let agent = Agent::start(Watch::Named(&network.server), &format!("--port {PORT}"))?;
    server.write_all(b"hello")?;
    client.read_exact(&mut [0; 5])?;
    drop(server);
    drop(client);
    network.await_no_traffic(PORT)?;
    let closed = agent
        .events
        .wait_for("the end of the server's socket", |events| closed(events, PORT, "server").cloned())?;
    ensure!(closed["bytes_sent"] == 5 && closed["partial"] == true, "{closed}");
    agent.stop()?;
    Ok(())
}

/// The client's application has closed. A timewait socket waits for the server's FIN, which is sent
/// or is not.
fn fin_wait2_timewait_socket() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    network.server.enter(|| Ok(fs::write("/proc/sys/net/ipv4/tcp_fin_timeout", "10")?))?;
    let (mut server, mut client) = connected_pair(&network, PORT)?;
    let (_late_server, mut leaving_client) = connected_pair(&network, OTHER_PORT)?;
    client.close()?;
    leaving_client.close()?;
    for port in [PORT, OTHER_PORT] {
        network.server.await_state(port, "fin_wait2")?;
    }
    let agent = Agent::start(Watch::Inside(&network.server), &format!("--port {PORT},{OTHER_PORT}"))?;
    server.close()?;
    network.server.await_state(PORT, "time_wait")?;
    let report = await_closed(agent, &[PORT, OTHER_PORT])?;
    for (port, to, evidence) in [(PORT, "time_wait", "segment"), (OTHER_PORT, "close", "timer")] {
        let left = report
            .of_kind("state")
            .find(|event| event["from"] == "fin_wait2" && remote_port(event) == Some(port));
        let left = left.with_context(|| format!("no end of FIN_WAIT2: {:#?}", report.events))?;
        ensure!(left["to"] == to && left["evidence"] == evidence && left["role"] == "client", "{left}");
        let closed = closed(&report.events, port, "client").context("awaited")?;
        ensure!(closed["partial"] == true && closed["bytes_sent"].is_null(), "{closed}");
    }
    Ok(())
}

fn await_closed(agent: Agent, ports: &[u16]) -> Result<Report> {
    for port in ports {
        agent
            .events
            .wait_for("the end of the client's socket", |events| closed(events, *port, "client").map(drop))
            .with_context(|| format!("port {port}: {:#?}", agent.events.so_far()))?;
    }
    agent.stop()
}

/// Connections are opened and closed in all ways, about a thousand a second, while the agent
/// attaches and dumps sockets. A socket that closes between dump and merge must not stay in the
/// tracker.
fn changing_meanwhile() -> Result<()> {
    let agents = (0..ROUNDS).map(|_| start_amid_traffic()).collect::<Result<Vec<_>>>()?;
    for (namespace, agent) in agents {
        // For as long as TIME_WAIT lasts, nothing need change.
        let observe = || Ok((tracked(&namespace)?, namespace.sockets(PORT)?));
        poll_by(Deadline::after(TIME_WAIT), "an empty tracker", observe, |(tracked, _)| *tracked == 0)?;
        let report = agent.stop()?;
        ensure!(report.of_kind("lost").count() == 0, "records were lost");
    }
    Ok(())
}

fn start_amid_traffic() -> Result<(Namespace, Agent)> {
    let namespace = Namespace::new()?;
    let listener = namespace.enter(|| Ok(TcpListener::bind(ADDRESS)?))?;
    let stop = AtomicBool::new(false);
    let agent = thread::scope(|scope| {
        let server = scope.spawn(|| serve(&listener));
        let clients: Vec<_> =
            (0..2).map(|_| scope.spawn(|| namespace.enter(|| keep_connecting(&stop)))).collect();
        let agent = Agent::start(Watch::Inside(&namespace), &format!("--port {PORT} --ring-size 64M"));
        // Some connections begin after the start.
        thread::sleep(Duration::from_millis(100));
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        namespace.enter(|| Ok(TcpStream::connect(ADDRESS)?.write_all(b"q")?))?;
        server.join().map_err(|_| anyhow!("the server panicked"))??;
        agent
    })?;
    namespace.await_no_traffic(PORT)?;
    Ok((namespace, agent))
}

/// How many connections the tracker has.
fn tracked(namespace: &Namespace) -> Result<u64> {
    samples(namespace)?.sum("tracker_connections", &[])
}

/// Accepts, reads to the end and closes, until a client sends `q`.
fn serve(listener: &TcpListener) -> Result<()> {
    loop {
        let (mut connection, _) = listener.accept()?;
        let mut byte = [0];
        match connection.read(&mut byte) {
            Ok(1) if byte == *b"q" => return Ok(()),
            // The server closes first.
            Ok(1) if byte == *b"s" => {}
            Ok(_) | Err(_) => {
                let _ = connection.read_to_end(&mut Vec::new());
            }
        }
    }
}

fn keep_connecting(stop: &AtomicBool) -> Result<()> {
    for round in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // No more than the agent can read: lost records would leave entries in the tracker.
        thread::sleep(Duration::from_micros(500));
        let mut client = TcpStream::connect(ADDRESS)?;
        match round % 4 {
            0 => {}
            1 => {
                client.write_all(b"s")?;
                let _ = client.read(&mut [0]);
            }
            2 => SockRef::from(&client).set_linger(Some(Duration::ZERO))?,
            _ => {
                client.shutdown(Shutdown::Write)?;
                let _ = client.read(&mut [0]);
            }
        }
    }
    Ok(())
}

/// The `closed` event of the end with this role, of a connection of `port`.
fn closed<'a>(events: &'a [Value], port: u16, role: &str) -> Option<&'a Value> {
    let service = if role == "server" { "local" } else { "remote" };
    events.iter().find(|event| {
        event["event"] == "closed" && event["role"] == role && port_of(event, service) == Some(port)
    })
}

fn remote_port(event: &Value) -> Option<u16> {
    port_of(event, "remote")
}

fn port_of(event: &Value, end: &str) -> Option<u16> {
    Some(event[end].as_str()?.parse::<SocketAddr>().ok()?.port())
}

const PORT: u16 = 8899;
const OTHER_PORT: u16 = 8898;
const ADDRESS: (std::net::Ipv4Addr, u16) = (std::net::Ipv4Addr::LOCALHOST, PORT);
const ROUNDS: usize = 4;
/// Kernel: `TCP_TIMEWAIT_LEN`.
const TIME_WAIT: Duration = Duration::from_secs(60);
