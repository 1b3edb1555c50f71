//! Many connections at once, so that softirqs interrupt the kernel programs: no event is lost, none
//! counted twice.

use std::{
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Result, anyhow, ensure};
use libtest_mimic::Trial;

use crate::support::{
    agent::{Agent, Watch, await_attached},
    scrape::samples,
    topology::{Network, Topology},
    trial::{self, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "counters of many concurrent connections equal the kernel's",
        &[trial::AGENT],
        concurrent_connections,
    )]
}

fn concurrent_connections() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let mut command = Watch::Inside(&network.server).command();
    command.args(["--output", "none"]);
    for port in PORTS {
        command.arg("--port").arg(port.to_string());
    }
    let agent = Agent::spawn(&mut command)?;
    await_attached(&agent.process, &agent.messages)?;
    network.server.enter(|| {
        thread::scope(|scope| {
            let clients = PORTS.map(|port| {
                let address = network.listen_address(port);
                scope.spawn(move || connect_many(address))
            });
            clients.into_iter().try_for_each(joined)
        })
    })?;
    let kernel = network.server.tcp_counters()?;
    let samples = samples(&network.server)?;
    for (role, counter) in [("server", "PassiveOpens"), ("client", "ActiveOpens")] {
        let handshakes = samples.sum("handshakes_total", &[("role", role)])?;
        let opened = kernel.get(counter).copied();
        ensure!(opened == Some(handshakes), "{handshakes} handshakes of the {role}; {counter} {opened:?}");
    }
    agent.stop()?;
    Ok(())
}

/// More clients than processors: while one is in a kernel program, the packets of others interrupt
/// it.
fn connect_many(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    thread::scope(|scope| {
        let server = scope.spawn(move || -> Result<()> {
            for _ in 0..CLIENTS * CONNECTIONS {
                listener.accept()?;
            }
            Ok(())
        });
        let clients = [(); CLIENTS].map(|()| {
            scope.spawn(move || -> Result<()> {
                for _ in 0..CONNECTIONS {
                    let read = TcpStream::connect(address)?.read(&mut [0])?;
                    ensure!(read == 0, "the server wrote");
                }
                Ok(())
            })
        });
        clients.into_iter().try_for_each(joined)?;
        joined(server)
    })
}

fn joined(thread: thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

const PORTS: [u16; 2] = [8899, 12345];
const CLIENTS: usize = 4;
const CONNECTIONS: usize = 5000;
