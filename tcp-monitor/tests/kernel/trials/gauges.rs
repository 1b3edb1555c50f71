//! Gauges equal the sockets that `ss` shows, and a stuck socket is reported with the process that
//! holds it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::support::{
    agent::{Agent, Watch},
    child_process::output,
    deadline::poll_until,
    namespace::Namespace,
    peer::Peer,
    scrape::samples,
    topology::{Network, Topology},
    trial::{self, OutOfTime, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "gauges equal ss for sockets in every state, including existing ones",
            &[trial::AGENT],
            every_state,
        ),
        trial("a port without a label of its own is counted as other", &[trial::AGENT], other_ports),
        trial("a stuck socket names the process that does not close it", &[trial::AGENT], stuck_unclosed),
        trial("a stuck socket that is not accepted names the listener", &[trial::AGENT], stuck_unaccepted),
    ]
}

fn every_state() -> Result<()> {
    let namespace = Namespace::new()?;
    let mix = SocketMix::new(&namespace)?;
    // The agent finds these sockets when it starts.
    let agent = Agent::start(Watch::Inside(&namespace), &format!("--port {PORT}"))?;
    let states = agree_with_ss(&namespace, &mix.states())?;
    ensure!(states == mix.states(), "ss shows {states:?}, made were {:?}", mix.states());
    let gauges = samples(&namespace)?;
    let port = PORT.to_string();
    let of_port = [("port", port.as_str())];
    ensure!(gauges.sum("half_open", &of_port)? == SocketMix::HALF_OPEN, "half open");
    let queues = output(namespace.command("ss").args(["-ltnH", "sport", "=", &format!(":{PORT}")]))?;
    let mut queue = queues.split_whitespace().skip(1).map(str::parse::<u64>);
    let (length, limit) = (queue.next().context("Recv-Q")??, queue.next().context("Send-Q")??);
    ensure!(
        gauges.sum("accept_queue_length", &of_port)? == length && length == SocketMix::UNACCEPTED,
        "{queues}"
    );
    ensure!(gauges.sum("accept_queue_limit", &of_port)? == limit && limit == SocketMix::BACKLOG, "{queues}");

    drop(mix);
    agree_with_ss(&namespace, &BTreeMap::new())?;
    let gauges = samples(&namespace)?;
    ensure!(gauges.sum("accept_queue_limit", &of_port).is_err(), "there is no listener any more");
    agent.stop()?;
    Ok(())
}

fn other_ports() -> Result<()> {
    let namespace = Namespace::new()?;
    // Two ports in use and one in the range from which clients get theirs: only the first is within
    // the limit.
    let _listeners = namespace.enter(|| {
        Ok([PORT, PORT + 1, 40_000].map(|port| TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port)))))
    })?;
    let agent = Agent::start(Watch::Inside(&namespace), "--max-ports 1")?;
    let gauges = samples(&namespace)?;
    let listeners = |port: &str| gauges.sum("connections", &[("port", port), ("state", "listen")]);
    ensure!(listeners(&PORT.to_string())? == 1, "a port in use has a label from the start");
    // The agent's own is the third.
    ensure!(listeners("other")? == 3, "all others are other");
    agent.stop()?;
    Ok(())
}

fn stuck_unclosed() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let mut server = Peer::spawn(&network.server, "sloppy")?;
    server.listen(network.listen_address(PORT))?;
    let mut client = Peer::spawn(&network.client, "client")?;
    let ends = client.connect(network.connect_address(PORT))?;
    server.accept()?;
    client.send(5)?;
    client.shut_down_write()?;
    network.server.await_state(PORT, "close_wait")?;
    let closed = Instant::now();
    let agent = Agent::start(Watch::Inside(&network.server), &format!("--port {PORT} --stuck-after 2"))?;
    let stuck = await_stuck(&agent)?;
    let in_close_wait = closed.elapsed();
    expect(
        &stuck,
        &[
            ("local", ends.remote.to_string().into()),
            ("remote", ends.local.to_string().into()),
            ("state", "close_wait".into()),
            ("unread_bytes", 5.into()),
        ],
    )?;
    expect(&stuck["process"], &[("pid", server.pid().into()), ("comm", "sloppy".into())])?;
    let age = stuck["age_s"].as_u64().context("no age")?;
    ensure!(
        (2..=in_close_wait.as_secs() + 1).contains(&age),
        "{age} s, at most {in_close_wait:?} are correct"
    );

    let gauges = samples(&network.server)?;
    let port = PORT.to_string();
    let by_sloppy = [("port", port.as_str()), ("process", "sloppy")];
    ensure!(gauges.sum("close_wait_stuck", &by_sloppy)? == 1, "close_wait_stuck");
    // The time in CLOSE_WAIT before the agent started is known from the peer's last
    // acknowledgement.
    let oldest = gauges.sum("close_wait_oldest_seconds", &[("port", &port)])?;
    ensure!(oldest >= in_close_wait.as_secs(), "{oldest} s, {in_close_wait:?} are correct");

    // It has read to the end, and does not close.
    server.read(5)?;
    ensure!(server.read_to_end()? == 0, "no more data");
    server.close()?;
    let stuck = || {
        let gauges = samples(&network.server)?;
        let oldest = gauges.sum_or_zero("close_wait_oldest_seconds", &[("port", &port)]);
        Ok((gauges.sum("close_wait_stuck", &[])?, oldest))
    };
    poll_until("nothing to be stuck", stuck, |stuck| *stuck == (0, 0))?;
    agent.stop()?;
    Ok(())
}

fn stuck_unaccepted() -> Result<()> {
    let network = Network::new(Topology::LoopbackMapped)?;
    let mut server = Peer::spawn(&network.server, "server \"1\"")?;
    server.listen(network.listen_address(PORT))?;
    let agent = Agent::start(Watch::Inside(&network.server), "--stuck-after 1")?;
    let mut client = Peer::spawn(&network.client, "client")?;
    client.connect(network.connect_address(PORT))?;
    client.close()?;
    let stuck = await_stuck(&agent)?;
    expect(&stuck, &[("unread_bytes", 0.into()), ("role", "server".into())])?;
    expect(&stuck["process"], &[("pid", server.pid().into()), ("comm", "server \"1\"".into())])?;
    let hint = stuck["hint"].as_str().unwrap_or_default();
    ensure!(hint.contains("accept()"), "{stuck}");
    agent.stop()?;
    Ok(())
}

/// Waits for a stuck socket with its process, for which the agent searches for at most 100 ms.
fn await_stuck(agent: &Agent) -> Result<Value> {
    let stuck = agent.events.wait_for("a stuck socket", |events| {
        events.iter().find(|event| event["event"] == "stuck").cloned()
    })?;
    ensure!(!stuck["process"].is_null(), OutOfTime(format!("no process of {stuck}")));
    Ok(stuck)
}

fn expect(value: &Value, fields: &[(&str, Value)]) -> Result<()> {
    for (name, expected) in fields {
        ensure!(&value[name] == expected, "{name} is not {expected}: {value}");
    }
    Ok(())
}

/// Waits until gauges and `ss` show the same number of sockets in each state, at least one where
/// `made` has one, and returns them.
fn agree_with_ss(namespace: &Namespace, made: &BTreeMap<String, u64>) -> Result<BTreeMap<String, u64>> {
    let port = PORT.to_string();
    let shown = || -> Result<BTreeMap<String, u64>> {
        let mut shown = BTreeMap::new();
        for row in namespace.all_sockets()?.into_iter().filter(|row| row.is_of(PORT)) {
            *shown.entry(row.state).or_default() += 1;
        }
        Ok(shown)
    };
    let counted = || -> Result<BTreeMap<String, u64>> {
        let gauges = samples(namespace)?;
        let mut counted = BTreeMap::new();
        for state in STATES {
            counted
                .insert(state.to_owned(), gauges.sum("connections", &[("port", &port), ("state", state)])?);
        }
        counted.retain(|_, count| *count > 0);
        Ok(counted)
    };
    let what = "gauges that equal ss";
    let (counted, _) = poll_until(
        what,
        || Ok((counted()?, shown()?)),
        |(counted, shown)| counted == shown && made.keys().all(|state| shown.contains_key(state)),
    )?;
    Ok(counted)
}

/// Sockets in every state, both ends of each connection in one namespace.
struct SocketMix {
    _open: Vec<(TcpStream, TcpStream)>,
    _half_closed: Vec<(TcpStream, TcpStream)>,
    _unaccepted: Vec<TcpStream>,
    _unanswered: Socket,
    _unreachable: Vec<TcpStream>,
    _listener: TcpListener,
}

impl SocketMix {
    const OPEN: u64 = 3;
    const HALF_CLOSED: u64 = 2;
    const TIME_WAIT: u64 = 4;
    const UNACCEPTED: u64 = 2;
    const HALF_OPEN: u64 = 5;
    const BACKLOG: u64 = 7;

    fn new(namespace: &Namespace) -> Result<Self> {
        for arguments in [
            &format!("addr add {SERVER}/32 dev lo"),
            &format!("addr add {REMOVED}/32 dev lo"),
            // Packets to it are dropped.
            &format!("route add {UNROUTED}/32 dev lo"),
        ] {
            namespace.ip(arguments)?;
        }
        let listener = namespace.enter(|| {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            listener.bind(&SocketAddr::from((SERVER, PORT)).into())?;
            listener.listen(i32::try_from(Self::BACKLOG)?)?;
            Ok(TcpListener::from(listener))
        })?;
        let client = |from: Ipv4Addr| -> Result<TcpStream> {
            namespace.enter(|| {
                let client = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
                client.bind(&SocketAddr::from((from, 0)).into())?;
                client.connect(&SocketAddr::from((SERVER, PORT)).into())?;
                Ok(client.into())
            })
        };
        let pair = |from| -> Result<(TcpStream, TcpStream)> {
            let client = client(from)?;
            Ok((client, listener.accept()?.0))
        };
        let open = (0..Self::OPEN).map(|_| pair(SERVER)).collect::<Result<Vec<_>>>()?;
        let half_closed = (0..Self::HALF_CLOSED).map(|_| pair(SERVER)).collect::<Result<Vec<_>>>()?;
        for (client, _) in &half_closed {
            SockRef::from(client).shutdown(std::net::Shutdown::Write)?;
        }
        for _ in 0..Self::TIME_WAIT {
            let (client, server) = pair(SERVER)?;
            drop(client);
            drop(server);
        }
        // The server closes first or second, and its FIN is never acknowledged.
        let (first, second) = (pair(REMOVED)?, pair(REMOVED)?);
        SockRef::from(&second.0).shutdown(std::net::Shutdown::Write)?;
        namespace.await_sockets(PORT, "the client's FIN", |rows| {
            let closed = rows.iter().filter(|row| row.state == "close_wait").count() as u64;
            closed == Self::HALF_CLOSED + 1
        })?;
        namespace.ip(&format!("addr del {REMOVED}/32 dev lo"))?;
        namespace.ip(&format!("route add {REMOVED}/32 dev lo"))?;
        drop((first.1, second.1));
        let unaccepted = (0..Self::UNACCEPTED).map(|_| client(SERVER)).collect::<Result<Vec<_>>>()?;
        let unanswered = namespace.enter(|| {
            let client = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            client.set_nonblocking(true)?;
            // It is under way when this returns.
            let _ = client.connect(&SocketAddr::from((UNROUTED, PORT)).into());
            send_syns(Self::HALF_OPEN)?;
            Ok(client)
        })?;
        Ok(Self {
            _open: open,
            _half_closed: half_closed,
            _unaccepted: unaccepted,
            _unanswered: unanswered,
            _unreachable: vec![first.0, second.0],
            _listener: listener,
        })
    }

    /// How many sockets there are in each state.
    fn states(&self) -> BTreeMap<String, u64> {
        let both_ends = 2 * (Self::OPEN + Self::UNACCEPTED);
        [
            ("established", both_ends),
            // The clients that became unreachable receive the server's FIN, but their
            // acknowledgements are lost.
            ("close_wait", Self::HALF_CLOSED + 1),
            ("fin_wait2", Self::HALF_CLOSED),
            ("fin_wait1", 1),
            ("last_ack", 1),
            ("time_wait", Self::TIME_WAIT + 1),
            ("syn_recv", Self::HALF_OPEN),
            ("syn_sent", 1),
            ("listen", 1),
        ]
        .map(|(state, count)| (state.to_owned(), count))
        .into()
    }
}

/// Sends so many SYNs from an address that does not exist, so that the SYN-ACKs are not answered.
fn send_syns(count: u64) -> Result<()> {
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
    raw.set_header_included_v4(true)?;
    for source in (50_000_u16..).take(usize::try_from(count)?) {
        let mut packet = vec![0; 40];
        // The kernel fills in length, checksum and id of the IP header.
        (packet[0], packet[8], packet[9]) = (0x45, 64, 6);
        packet[12..16].copy_from_slice(&UNROUTED.octets());
        packet[16..20].copy_from_slice(&SERVER.octets());
        packet[20..22].copy_from_slice(&source.to_be_bytes());
        packet[22..24].copy_from_slice(&PORT.to_be_bytes());
        (packet[32], packet[33], packet[34]) = (0x50, 0x02, 0xff);
        // The checksum covers both addresses, the protocol and the length of the TCP header.
        let words = packet[12..].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum = words.sum::<u32>() + 6 + 20;
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16))?;
        packet[36..38].copy_from_slice(&checksum.to_be_bytes());
        raw.send_to(&packet, &SocketAddr::from((SERVER, 0)).into())?;
    }
    Ok(())
}

const PORT: u16 = 8899;
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// An address that is removed later.
const REMOVED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// An address that does not exist.
const UNROUTED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
const STATES: [&str; 11] = [
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
];
