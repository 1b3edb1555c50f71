//! A process is named where its system call caused the event, and none where the kernel acted by
//! itself.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::{
    agent::{Agent, Event, Watch},
    peer::{ECHO_COMM, Peer},
    topology::{Network, Topology},
    trial::{self, trial},
    unique_port::unique_port,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "a process is named only where it made the call",
        &[trial::AGENT],
        process_is_named_where_it_made_the_call,
    )]
}

fn process_is_named_where_it_made_the_call() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let port = unique_port();
    let agent = Agent::start(Watch::AllOf(&[&network.server]), &format!("--port {port}"))?;
    let mut server = Peer::spawn(&network.server, "the-server")?;
    server.listen(network.listen_address(port))?;
    server.begin_echo(1)?;
    let mut client = Peer::spawn(&network.client, "the-client")?;
    client.connect(network.connect_address(port))?;
    client.send(5)?;
    client.read_to_end()?;
    client.close()?;
    let children = server.end_echo()?;
    ensure!(children.len() == 1, "one client, and children {children:?}");
    network.await_no_traffic(port)?;
    let report = agent.stop()?;

    let client = Process { pid: client.pid(), comm: "the-client" };
    let child = Process { pid: children[0], comm: ECHO_COMM };
    let parent = Process { pid: server.pid(), comm: "the-server" };
    let transition = |role: &str, from: &str, to: &str| {
        let found = report
            .of_kind("state")
            .find(|event| event["role"] == role && event["from"] == from && event["to"] == to);
        found.ok_or_else(|| anyhow::anyhow!("no {from} to {to} of the {role} in {:#?}", report.events))
    };
    for (role, from, to, process) in [
        ("client", "close", "syn_sent", &client),
        ("client", "close_wait", "last_ack", &client),
        ("server", "established", "fin_wait1", &child),
    ] {
        let event = transition(role, from, to)?;
        ensure!(process.is(&event["process"]), "{process:?} did this: {event}");
    }
    let established = transition("server", "syn_recv", "established")?;
    ensure!(established["process"].is_null(), "no process did this: {established}");

    for event in report.events.iter().filter(|event| !event["process"].is_null()) {
        let is_true = if is_client(event) {
            client.is(&event["process"])
        } else {
            // A listener is the parent's; the parent also closes its copy of the child's socket.
            child.is(&event["process"]) || parent.is(&event["process"])
        };
        ensure!(is_true, "{client:?}, {child:?} and {parent:?} are the processes: {event}");
    }
    let closed: Vec<&Event> = report.of_kind("closed").collect();
    ensure!(closed.len() == 2, "two sockets closed: {closed:#?}");
    for event in closed {
        let owner = if is_client(event) { &client } else { &child };
        ensure!(owner.is(&event["process"]), "{owner:?} had this socket: {event}");
    }
    Ok(())
}

fn is_client(event: &Event) -> bool {
    event["role"] == "client"
}

#[derive(Debug)]
struct Process {
    pid: u32,
    comm: &'static str,
}

impl Process {
    fn is(&self, process: &Value) -> bool {
        process["pid"] == self.pid && process["comm"] == self.comm
    }
}
