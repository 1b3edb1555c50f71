//! How a run ends, and what it prints until then.

use std::{
    io,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::support::{
    agent::{Agent, Watch, await_attached, run_to_end},
    child_process::ChildProcess,
    line_reader::LineReader,
    namespace::Namespace,
    scrape::samples,
    topology::{Network, Topology},
    traffic,
    trial::{self, trial},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("SIGINT ends a run with a summary", &[trial::AGENT], || ends_with_summary(Signal::INT)),
        trial("SIGTERM ends a run with a summary", &[trial::AGENT], || ends_with_summary(Signal::TERM)),
        trial("a reader that closes the pipe ends the run without an error", &[trial::AGENT], broken_pipe),
        trial("the option --count ends the run after so many events", &[trial::AGENT], count),
        trial("the option --duration ends the run after so many seconds", &[trial::AGENT], duration),
        trial("an event is printed at once when no other follows", &[trial::AGENT], latency),
        trial("the option --output none prints nothing and still counts", &[trial::AGENT], no_output),
    ]
}

fn ends_with_summary(signal: Signal) -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let agent = Agent::start(Watch::Inside(&network.server), &watched())?;
    traffic::greeting(&network, PORT)?;
    network.await_no_traffic(PORT)?;
    let before = agent.messages.so_far().len();
    let report = agent.stop_by(signal)?;
    ensure!(report.messages.len() > before, "no summary: {:#?}", report.messages);
    ensure!(report.of_kind("closed").count() == 2, "the end was not awaited: {:#?}", report.events);
    Ok(())
}

fn broken_pipe() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let (reader, writer) = io::pipe()?;
    let mut command = Watch::Inside(&network.server).command();
    command.args(["--output", "json"]).args(watched().split_whitespace());
    let mut agent = ChildProcess::spawn(command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()))?;
    let messages = LineReader::read(agent.stderr()?, str::to_owned);
    await_attached(&agent, &messages)?;
    drop(reader);
    traffic::greeting(&network, PORT)?;
    let status = agent.wait()?;
    let messages = messages.to_end()?.join("\n");
    ensure!(status.code() == Some(0) && !messages.contains("panicked"), "{status}: {messages}");
    Ok(())
}

fn count() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let agent = Agent::start(Watch::Inside(&network.server), &format!("{} --count 5", watched()))?;
    traffic::greeting(&network, PORT)?;
    let report = agent.finish()?;
    ensure!(
        report.status.code() == Some(0) && report.events.len() == 5,
        "{}, {} events",
        report.status,
        report.events.len()
    );
    Ok(())
}

fn duration() -> Result<()> {
    let namespace = Namespace::new()?;
    let mut command = Watch::Inside(&namespace).command();
    let begin = Instant::now();
    let report =
        run_to_end(command.args(watched().split_whitespace()).args(["--output", "json", "--duration", "1"]))?;
    ensure!(report.status.code() == Some(0), "{}: {:#?}", report.status, report.messages);
    ensure!(begin.elapsed() >= Duration::from_secs(1), "ended after {:?}", begin.elapsed());
    Ok(())
}

fn latency() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let agent = Agent::start(Watch::Inside(&network.server), &watched())?;
    let (_server, _client) = traffic::connected_pair(&network, PORT)?;
    // The documented limit is 100 ms. A busy machine may need more, but no event may wait for the
    // next one.
    agent
        .events
        .find_within(Duration::from_secs(1), |events| {
            let reported = events.iter().filter(|event| event["event"] == "handshake").count();
            (reported == 2).then_some(())
        })
        .with_context(|| format!("no handshake within 1 s: {:#?}", agent.events.so_far()))?;
    agent.stop()?;
    Ok(())
}

fn no_output() -> Result<()> {
    let network = Network::new(Topology::LoopbackV4)?;
    let mut command = Watch::Inside(&network.server).command();
    let agent = Agent::spawn(command.args(["--output", "none", "--port", &PORT.to_string()]))?;
    await_attached(&agent.process, &agent.messages)?;
    traffic::greeting(&network, PORT)?;
    network.await_no_traffic(PORT)?;
    let handshakes = samples(&network.server)?.sum("handshakes_total", &[("role", "server")])?;
    let report = agent.stop()?;
    ensure!(
        handshakes == 1 && report.events.is_empty(),
        "{handshakes} handshakes, printed {:#?}",
        report.events
    );
    Ok(())
}

fn watched() -> String {
    format!("--port {PORT}")
}

const PORT: u16 = 8899;
