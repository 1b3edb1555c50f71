//! What the kernel drops or has given up is counted once for each time, whoever tries again.

use std::{
    net::SocketAddr,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use socket2::{Domain, Socket, Type};

use crate::{
    support::{
        line_reader::DEADLINE,
        namespace::Namespace,
        scrape::Samples,
        scraped_agent::ScrapedAgent,
        testbed::{Route, Side, Testbed},
        trial::{self, trial},
    },
    workload::worker::FIRST_PORT as PORT,
};

pub(crate) fn trials() -> Vec<Trial> {
    let needs = &[trial::AGENT, trial::TUN];
    vec![
        trial("a client of this host that tries again is counted each time", needs, one_client),
        trial(
            "half-open requests from before the agent are not counted when they end",
            needs,
            found_half_open,
        ),
    ]
}

/// The accept queue is full, and nobody else sends anything.
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
    let before_and_after = [1, 2].map(|drops| await_counts(server, &agent, drops));
    let [before, after] = before_and_after;
    ensure!(before? == (1, 1) && after? == (2, 2));
    drop(clients);
    agent.stop()?;
    Ok(())
}

/// Awaits so many `ListenOverflows`, and what the agent makes of them: overflows and failures.
fn await_counts(server: &Namespace, agent: &ScrapedAgent, drops: u64) -> Result<(u64, u64)> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let kernel = server.tcp_counters()?.get("ListenOverflows").copied().unwrap_or(0);
        let samples = agent.samples()?;
        let overflows = samples.sum_or_zero("accept_queue_overflows_total", &[]);
        let failures = failures(&samples, "accept_queue_full");
        ensure!(overflows <= kernel && failures <= kernel, "{overflows}, {failures} of {kernel}");
        if kernel == drops && overflows == drops {
            return Ok((overflows, failures));
        }
        ensure!(
            Instant::now() < deadline,
            "{overflows} overflows, {failures} failures; the kernel: {kernel}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

fn found_half_open() -> Result<()> {
    let testbed = Testbed::new()?;
    let server = testbed.namespace(Side::Server);
    // After one second and after three, by when the agent is there.
    server.set("net/ipv4/tcp_synack_retries", "2")?;
    let outside_address = testbed.outside_address(false, PORT);
    let _listener = listen(server, outside_address, 16)?;
    testbed.outside.new_host(outside_address, 0).syn();
    let agent = ScrapedAgent::start(server, &format!("--port {PORT} --output none"), Stdio::null())?;
    testbed.outside.new_host(outside_address, 1).syn();

    let deadline = Instant::now() + DEADLINE;
    let samples = loop {
        let samples = agent.samples()?;
        if failures(&samples, "timed_out") > 0 && server.sockets(PORT)?.is_empty() {
            break samples;
        }
        ensure!(Instant::now() < deadline, "no request timed out");
        thread::sleep(Duration::from_millis(20));
    };
    let half_open = samples.sum("state_transitions_total", &[("to", "new_syn_recv")])?;
    let ended = samples.sum("state_transitions_total", &[("from", "new_syn_recv")])?;
    ensure!((half_open, ended) == (1, 1), "{half_open} became half-open, {ended} ended");
    ensure!(failures(&samples, "timed_out") == 1);
    // Those of the first were seen too.
    let retransmitted = samples.sum("syn_retransmits_total", &[("role", "server")])?;
    ensure!((3..=4).contains(&retransmitted), "{retransmitted} SYN-ACKs sent again");
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

fn failures(samples: &Samples, reason: &str) -> u64 {
    samples.sum_or_zero("handshake_failures_total", &[("role", "server"), ("reason", reason)])
}
