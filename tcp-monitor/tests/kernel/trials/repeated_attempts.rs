//! Each dropped SYN and each half-open connection that times out is counted once, also when the
//! client retries.

use std::{net::SocketAddr, process::Stdio, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use socket2::{Domain, Socket, Type};

use crate::{
    support::{
        deadline::{Deadline, poll_until},
        namespace::Namespace,
        scrape::Samples,
        scraped_agent::ScrapedAgent,
        testbed::{Route, Side, Testbed},
        trial::{self, UnintendedTraffic, trial},
    },
    workload::worker::FIRST_PORT as PORT,
};

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[trial::AGENT, trial::TUN];
    vec![
        trial("each SYN of a local client that the full accept queue drops is counted", needs, one_client),
        trial(
            "half-open connections from before monitoring started are not counted when they end",
            needs,
            found_half_open,
        ),
    ]
}

/// The accept queue is full, and there is no other traffic.
fn one_client() -> Result<()> {
    let testbed = Testbed::new()?;
    let server = testbed.namespace(Side::Server);
    let agent = ScrapedAgent::start(server, &format!("--port {PORT} --output none"), Stdio::null())?;
    let address = testbed.address(Route::LoopbackV4, PORT);
    let _listener = listen(server, address, 0)?;
    let clients = server.enter(|| {
        let connect = || -> Result<Socket> {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            client.set_nonblocking(true)?;
            // It is in progress.
            let _ = client.connect(&address.into());
            Ok(client)
        };
        Ok([connect()?, connect()?])
    })?;
    // The second sends its SYN twice.
    await_counts(server, &agent, 1)?;
    let drops = await_counts(server, &agent, 2)?;
    ensure!(drops == 2, "{drops} SYNs dropped");
    drop(clients);
    agent.stop()?;
    Ok(())
}

/// Waits for at least so many `ListenOverflows`, and until the agent has counted as many overflows.
/// It must have counted as many failures then. Returns their number.
fn await_counts(server: &Namespace, agent: &ScrapedAgent, drops: u64) -> Result<u64> {
    let mut deadline = Deadline::new();
    loop {
        let kernel = kernel_counter(server, "ListenOverflows")?;
        let samples = agent.samples()?;
        let overflows = samples.sum_or_zero("accept_queue_overflows_total", &[]);
        let failures = failures(&samples, "accept_queue_full");
        // Otherwise a SYN was dropped meanwhile, and the counts are of different moments.
        if kernel_counter(server, "ListenOverflows")? == kernel {
            ensure!(overflows <= kernel && failures <= kernel, "{overflows}, {failures} of {kernel}");
            if kernel >= drops && overflows == kernel {
                ensure!(failures == kernel, "{failures} failures of {kernel}");
                return Ok(kernel);
            }
        }
        deadline.observe(&(kernel, overflows, failures));
        deadline
            .check()
            .with_context(|| format!("{overflows} overflows, {failures} failures; the kernel: {kernel}"))?;
        thread::sleep(Duration::from_millis(10));
    }
}

fn found_half_open() -> Result<()> {
    let testbed = Testbed::new()?;
    let server = testbed.namespace(Side::Server);
    // After 1, 3 and 7 seconds; at the last the agent must be attached.
    const RETRIES: u64 = 3;
    server.set("net/ipv4/tcp_synack_retries", &RETRIES.to_string())?;
    let outside_address = testbed.outside_address(false, PORT);
    let _listener = listen(server, outside_address, 16)?;
    testbed.outside.new_host(outside_address, 0).syn();
    let agent = ScrapedAgent::start(server, &format!("--port {PORT} --output none"), Stdio::null())?;
    // The agent may have missed those so far.
    let before = kernel_counter(server, "TCPSynRetrans")?;
    let late = || UnintendedTraffic(format!("{before} SYN-ACKs retransmitted when the agent is attached"));
    ensure!(before < RETRIES, late());
    testbed.outside.new_host(outside_address, 1).syn();

    let observe = || Ok((failures(&agent.samples()?, "timed_out"), server.sockets(PORT)?));
    poll_until("a request to time out", observe, |(timed_out, sockets)| {
        *timed_out > 0 && sockets.is_empty()
    })?;
    let samples = agent.samples()?;
    let half_open = samples.sum("state_transitions_total", &[("to", "new_syn_recv")])?;
    let ended = samples.sum("state_transitions_total", &[("from", "new_syn_recv")])?;
    ensure!((half_open, ended) == (1, 1), "{half_open} became half-open, {ended} ended");
    ensure!(failures(&samples, "timed_out") == 1);
    // Also those of the first.
    let retransmitted = samples.sum("syn_retransmits_total", &[("role", "server")])?;
    let all = kernel_counter(server, "TCPSynRetrans")?;
    ensure!(
        all == 2 * RETRIES && (all - before..=all).contains(&retransmitted),
        "{retransmitted} of {all} SYN-ACKs retransmitted, {before} before"
    );
    agent.stop()?;
    Ok(())
}

fn listen(server: &Namespace, address: SocketAddr, backlog: i32) -> Result<Socket> {
    server.enter(|| {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.set_reuse_address(true)?;
        listener.bind(&address.into())?;
        listener.listen(backlog)?;
        Ok(listener)
    })
}

/// A counter of `/proc/net/snmp` or `/proc/net/netstat`.
fn kernel_counter(namespace: &Namespace, name: &str) -> Result<u64> {
    namespace.tcp_counters()?.get(name).copied().with_context(|| format!("there is no {name}"))
}

fn failures(samples: &Samples, reason: &str) -> u64 {
    samples.sum_or_zero("handshake_failures_total", &[("role", "server"), ("reason", reason)])
}
