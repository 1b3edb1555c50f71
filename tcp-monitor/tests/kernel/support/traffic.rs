//! Kinds of traffic: scripts for peers in which connections begin and end, and what a capture and
//! the agent must show of each.

use anyhow::{Result, ensure};

use crate::support::{
    peer::Peer,
    steps::{self, Step},
    topology::Network,
    trial::UnintendedTraffic,
};

/// One script and its expected outcome.
pub(crate) struct Traffic {
    /// Part of the name of a trial.
    pub(crate) phrase: &'static str,
    /// Part of the name of its capture.
    pub(crate) file: &'static str,
    pub(crate) port: u16,
    pub(crate) script: fn(&Network, u16) -> Result<()>,
    pub(crate) connections: usize,
    /// The sequences of steps that a connection may show.
    pub(crate) lifecycles: &'static [&'static str],
    /// The steps that at least one connection must show.
    pub(crate) shown: &'static str,
    /// `None` if the handshake is refused.
    pub(crate) ends: Option<[End; 2]>,
}

/// What the agent must report of one end.
#[derive(Clone, Copy)]
pub(crate) struct End {
    pub(crate) role: &'static str,
    /// States after ESTABLISHED, without a last CLOSE.
    pub(crate) states: &'static str,
    /// Any of these is correct.
    pub(crate) closed_by: &'static [&'static str],
    /// Payload bytes.
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

const ACTIVE_CLOSE: &str = "fin_wait1 fin_wait2 time_wait";
const PASSIVE_CLOSE: &str = "close_wait last_ack";

pub(crate) const ALL: &[Traffic] = &[
    Traffic {
        phrase: "five clients of an echo server that forks",
        file: "five_clients",
        port: 8899,
        script: five_clients_of_a_forking_echo_server,
        connections: 5,
        lifecycles: SERVER_CLOSES_FIRST,
        shown: ANY,
        ends: Some([
            End { role: "server", states: ACTIVE_CLOSE, closed_by: &["local"], sent: 5, received: 5 },
            End { role: "client", states: PASSIVE_CLOSE, closed_by: &["remote"], sent: 5, received: 5 },
        ]),
    },
    Traffic {
        phrase: "a server that sends a greeting and closes first",
        file: "server_closes_first",
        port: 12345,
        script: greeting,
        connections: 1,
        lifecycles: SERVER_CLOSES_FIRST,
        shown: ANY,
        ends: Some([
            End { role: "server", states: ACTIVE_CLOSE, closed_by: &["local"], sent: 13, received: 0 },
            End { role: "client", states: PASSIVE_CLOSE, closed_by: &["remote"], sent: 0, received: 13 },
        ]),
    },
    Traffic {
        phrase: "a client that closes first",
        file: "client_closes_first",
        port: 8899,
        script: client_closes_first,
        connections: 1,
        lifecycles: &["c:syn s:syn_ack c:handshake_ack c:fin s:ack_of_fin s:fin c:ack_of_fin"],
        shown: ANY,
        ends: Some([
            End { role: "server", states: PASSIVE_CLOSE, closed_by: &["remote"], sent: 2, received: 7 },
            End { role: "client", states: ACTIVE_CLOSE, closed_by: &["local"], sent: 7, received: 2 },
        ]),
    },
    Traffic {
        phrase: "a server whose FIN also acknowledges the client's",
        file: "fin_acknowledges_fin",
        port: 8899,
        script: server_closes_at_once_after_the_client,
        connections: 3,
        lifecycles: &[
            "c:syn s:syn_ack c:handshake_ack c:fin s:fin c:ack_of_fin",
            "c:syn s:syn_ack c:handshake_ack c:fin s:ack_of_fin s:fin c:ack_of_fin",
        ],
        shown: "c:syn s:syn_ack c:handshake_ack c:fin s:fin c:ack_of_fin",
        ends: Some([
            End { role: "server", states: PASSIVE_CLOSE, closed_by: &["remote"], sent: 0, received: 0 },
            End { role: "client", states: ACTIVE_CLOSE, closed_by: &["local"], sent: 0, received: 0 },
        ]),
    },
    Traffic {
        phrase: "a half-closed connection with data still to come",
        file: "half_close",
        port: 8899,
        script: half_close,
        connections: 1,
        lifecycles: &["c:syn s:syn_ack c:handshake_ack c:fin s:ack_of_fin s:fin c:ack_of_fin"],
        shown: ANY,
        ends: Some([
            End { role: "server", states: PASSIVE_CLOSE, closed_by: &["remote"], sent: 200, received: 3 },
            End { role: "client", states: ACTIVE_CLOSE, closed_by: &["local"], sent: 3, received: 200 },
        ]),
    },
    Traffic {
        phrase: "a request to a server that has closed",
        file: "request_to_closed_server",
        port: 8899,
        script: request_to_closed_server,
        connections: 1,
        lifecycles: &["c:syn s:syn_ack c:handshake_ack s:fin c:ack_of_fin s:rst"],
        shown: ANY,
        ends: Some([
            End {
                role: "server",
                states: "fin_wait1 fin_wait2",
                closed_by: &["local", "local_reset"],
                sent: 0,
                received: 0,
            },
            End {
                role: "client",
                states: "close_wait",
                closed_by: &["remote", "remote_reset"],
                sent: 0,
                received: 0,
            },
        ]),
    },
    Traffic {
        phrase: "a refused port",
        file: "refused",
        port: 8899,
        script: refused_port,
        connections: 1,
        lifecycles: &["c:syn s:rst"],
        shown: ANY,
        ends: None,
    },
    Traffic {
        phrase: "a client that resets instead of closing",
        file: "client_resets",
        port: 8899,
        script: client_resets,
        connections: 1,
        lifecycles: &["c:syn s:syn_ack c:handshake_ack c:rst"],
        shown: ANY,
        ends: Some([
            End { role: "server", states: "", closed_by: &["remote_reset"], sent: 0, received: 4 },
            End { role: "client", states: "", closed_by: &["local_reset"], sent: 4, received: 0 },
        ]),
    },
    Traffic {
        phrase: "a client killed with data unread",
        file: "client_killed",
        port: 8899,
        script: client_killed_with_data_unread,
        connections: 1,
        lifecycles: &["c:syn s:syn_ack c:handshake_ack c:rst"],
        shown: ANY,
        ends: Some([
            End { role: "server", states: "", closed_by: &["remote_reset"], sent: 100, received: 0 },
            End { role: "client", states: "", closed_by: &["local_reset"], sent: 0, received: 100 },
        ]),
    },
];

impl Traffic {
    /// Checks that the capture shows the steps that the script is to produce.
    pub(crate) fn check_capture(&self, steps: &[Step], port: u16) -> Result<()> {
        let lifecycles = steps::lifecycles(steps, port);
        ensure!(
            lifecycles.len() == self.connections
                && lifecycles.iter().all(|line| self.lifecycles.contains(&line.as_str()))
                && lifecycles.iter().any(|line| line.starts_with(self.shown)),
            UnintendedTraffic(format!("{lifecycles:#?}"))
        );
        Ok(())
    }
}

const SERVER_CLOSES_FIRST: &[&str] = &[
    "c:syn s:syn_ack c:handshake_ack s:fin c:fin s:ack_of_fin",
    "c:syn s:syn_ack c:handshake_ack s:fin c:ack_of_fin c:fin s:ack_of_fin",
];

/// The beginning of every sequence.
const ANY: &str = "c:syn";

/// A server that listens and a client that is connected to it.
pub(crate) fn connected_pair(network: &Network, port: u16) -> Result<(Peer, Peer)> {
    let mut server = Peer::spawn(&network.server, "server")?;
    let mut client = Peer::spawn(&network.client, "client")?;
    server.listen(network.listen_address(port))?;
    let from_client = client.connect(network.connect_address(port))?;
    let from_server = server.accept()?;
    ensure!(from_client.local == from_server.remote, "{from_client:?} is not {from_server:?}");
    Ok((server, client))
}

/// Waits until each side has acknowledged what the other sent.
fn await_acknowledgement(network: &Network, port: u16) -> Result<()> {
    for namespace in [&network.client, &network.server] {
        namespace.await_sockets(port, "the acknowledgement", |rows| {
            rows.iter().all(|row| row.unacknowledged == 0)
        })?;
    }
    Ok(())
}

pub(crate) fn five_clients_of_a_forking_echo_server(network: &Network, port: u16) -> Result<()> {
    let mut server = Peer::spawn(&network.server, "server")?;
    server.listen(network.listen_address(port))?;
    server.begin_echo(5)?;
    for _ in 0..5 {
        let mut client = Peer::spawn(&network.client, "client")?;
        client.connect(network.connect_address(port))?;
        client.send(5)?;
        ensure!(client.read_to_end()? == 5, "the echo is not what was sent");
        client.close()?;
    }
    server.end_echo()?;
    Ok(())
}

/// The server sends `Hello, World!` and closes first.
pub(crate) fn greeting(network: &Network, port: u16) -> Result<()> {
    let (mut server, mut client) = connected_pair(network, port)?;
    server.send(13)?;
    client.read(13)?;
    // The FIN leaves after the acknowledgement of the data was received, so that each is
    // acknowledged by a number of its own.
    await_acknowledgement(network, port)?;
    server.close()?;
    ensure!(client.read_to_end()? == 0, "data after the end");
    client.close()
}

fn client_closes_first(network: &Network, port: u16) -> Result<()> {
    let (mut server, mut client) = connected_pair(network, port)?;
    client.send(7)?;
    server.read(7)?;
    server.send(2)?;
    client.read(2)?;
    client.close()?;
    // The server's kernel acknowledges the FIN before the application closes.
    network.client.await_state(port, "fin_wait2")?;
    server.close()
}

fn server_closes_at_once_after_the_client(network: &Network, port: u16) -> Result<()> {
    for _ in 0..3 {
        let (mut server, mut client) = connected_pair(network, port)?;
        server.close_at_end()?;
        client.close()?;
        network.await_no_traffic(port)?;
    }
    Ok(())
}

fn half_close(network: &Network, port: u16) -> Result<()> {
    let (mut server, mut client) = connected_pair(network, port)?;
    client.send(3)?;
    client.shut_down_write()?;
    ensure!(server.read_to_end()? == 3, "not what was sent");
    network.client.await_state(port, "fin_wait2")?;
    server.send(100)?;
    client.read(100)?;
    server.send(100)?;
    client.read(100)?;
    server.close()?;
    ensure!(client.read_to_end()? == 0, "data after the end");
    client.close()
}

fn request_to_closed_server(network: &Network, port: u16) -> Result<()> {
    let (mut server, mut client) = connected_pair(network, port)?;
    server.close()?;
    network.server.await_state(port, "fin_wait2")?;
    client.send(10)?;
    network.await_no_traffic(port)
}

pub(crate) fn refused_port(network: &Network, port: u16) -> Result<()> {
    let mut client = Peer::spawn(&network.client, "client")?;
    let refused = client.connect(network.connect_address(port));
    ensure!(refused.is_err(), "no listener, and yet {refused:?}");
    Ok(())
}

pub(crate) fn client_resets(network: &Network, port: u16) -> Result<()> {
    let (mut server, mut client) = connected_pair(network, port)?;
    client.send(4)?;
    server.read(4)?;
    await_acknowledgement(network, port)?;
    client.abort()
}

fn client_killed_with_data_unread(network: &Network, port: u16) -> Result<()> {
    let (mut server, mut client) = connected_pair(network, port)?;
    server.send(100)?;
    await_acknowledgement(network, port)?;
    client.kill()
}
