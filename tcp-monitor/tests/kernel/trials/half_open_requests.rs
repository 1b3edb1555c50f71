//! Half-open connections that the kernel ends or keeps without an event: their listener closes, or
//! waits for data.

use std::{io, net::SocketAddr, os::fd::AsRawFd as _, process::Stdio, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use socket2::{Domain, Socket, Type};

use crate::{
    support::{
        deadline::{Deadline, STALLED},
        namespace::Namespace,
        outside_host::OutsideHost,
        packet_builder::{SYN, Segment},
        scrape::Samples,
        scraped_agent::ScrapedAgent,
        socket_table::SocketRow,
        testbed::{Side, Testbed},
        trial::{self, Need, trial},
    },
    workload::{identities::Mismatches, worker::FIRST_PORT as PORT},
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        setup(
            "half-open connections of a listener that closes are counted as aborted",
            &[],
            None,
            listener_closes,
        ),
        setup(
            "half-open connections that migrate to another listener are not counted as aborted",
            &[Need::Setting("net/ipv4/tcp_migrate_req")],
            Some(("net/ipv4/tcp_migrate_req", "1")),
            requests_migrate,
        ),
        setup(
            "a handshake with TCP_DEFER_ACCEPT is counted by its result",
            &[],
            // What is not deferred times out after a second.
            Some(("net/ipv4/tcp_synack_retries", "0")),
            deferred,
        ),
        setup(
            "data after TCP_DEFER_ACCEPT that finds the accept queue full is counted as an overflow",
            &[],
            None,
            deferred_and_full,
        ),
    ]
}

fn setup(
    name: &str,
    needs: &'static [Need],
    setting: Option<(&'static str, &'static str)>,
    body: fn(&Setup) -> Result<()>,
) -> Trial {
    trial(name, &[trial::AGENT, trial::TUN, needs], move || {
        let setup = Setup::new(setting)?;
        body(&setup)?;
        setup.agent.stop()?;
        Ok(())
    })
}

fn listener_closes(setup: &Setup) -> Result<()> {
    let (before, other) = (setup.listen(PORT, 16)?, setup.listen(OTHER, 16)?);
    let [_silent, late, reset, resends, mut returns] = setup.open([PORT; 5])?;
    let [_times_out] = setup.open([OTHER])?;
    setup.await_requests(6)?;
    drop(before);
    // The kernel keeps them until their next segment or timer.
    setup.await_requests(6)?;

    late.acknowledge();
    late.await_rst()?;
    // It finds no socket any more.
    reset.rst();
    resends.retransmit_syn();
    resends.await_rst()?;
    let after = setup.listen(PORT, 16)?;
    returns.seq = returns.seq.wrapping_sub(1);
    returns.open()?;
    returns.acknowledge();
    after.accept()?;

    let expected =
        Expected { handshakes: 1, timed_out: 1, aborted: 5, no_listener: 1, ..Expected::default() };
    setup.await_counts(&expected)?;
    ensure!(setup.kernel("EmbryonicRsts")? == 0, "a RST ended a request");
    drop(other);
    Ok(())
}

fn requests_migrate(setup: &Setup) -> Result<()> {
    let first = setup.listen_with(PORT, 64, |listener| listener.set_reuse_port(true))?;
    let [silent, late, stays] = setup.open([PORT; 3])?;
    let second = setup.listen_with(PORT, 64, |listener| listener.set_reuse_port(true))?;
    drop(first);
    late.acknowledge();
    second.accept()?;
    for host in [&silent, &stays] {
        host.await_segment("another SYN-ACK", |segment| segment.flags & SYN != 0)?;
    }
    ensure!(setup.kernel("TCPMigrateReqSuccess")? == 3, "the requests did not move");
    silent.acknowledge();
    second.accept()?;
    // It ends with the listener to which it migrated.
    drop(second);
    setup.await_counts(&Expected { handshakes: 2, aborted: 1, ..Expected::default() })?;
    Ok(())
}

fn deferred(setup: &Setup) -> Result<()> {
    let listener = setup.listen_with(PORT, 16, |listener| defer_accept(listener, 4))?;
    let short = setup.listen_with(OTHER, 16, |listener| defer_accept(listener, 2))?;
    let [mut sends, mut repeats, resets, _silent] = setup.open([PORT; 4])?;
    let [expires] = setup.open([OTHER])?;
    let waiting = [&sends, &repeats, &resets, &expires];
    waiting.iter().for_each(|host| host.acknowledge());
    ensure!(setup.kernel("TCPDeferAcceptDrop")? == waiting.len() as u64, "not every ACK was deferred");
    repeats.acknowledge();
    resets.rst();
    setup.await_counts(&Expected { timed_out: 1, reset: 1, ..Expected::default() })?;
    // Without their ACKs the others would have timed out by now.
    setup.await_requests(3)?;
    repeats.retransmit_syn();
    sends.data(10);
    listener.accept()?;
    repeats.data(10);
    listener.accept()?;
    setup.await_counts(&Expected { handshakes: 2, timed_out: 1, reset: 1, ..Expected::default() })?;
    // At the end of the deferral the SYN-ACK is retransmitted.
    expires.await_segment("another SYN-ACK", |segment| segment.flags & SYN != 0)?;
    setup.await_counts(&Expected { handshakes: 2, timed_out: 2, reset: 1, ..Expected::default() })?;
    setup.await_requests(0)?;
    drop(short);
    Ok(())
}

fn deferred_and_full(setup: &Setup) -> Result<()> {
    let listener = setup.listen_with(PORT, 1, |listener| defer_accept(listener, 4))?;
    let [mut waits] = setup.open([PORT])?;
    for _ in 0..2 {
        let [mut queued] = setup.open([PORT])?;
        queued.acknowledge();
        queued.data(10);
    }
    // It is deferred although the queue is full.
    waits.acknowledge();
    waits.acknowledge();
    ensure!(setup.kernel("ListenOverflows")? == 0, "an ACK without data was refused");
    for _ in 0..2 {
        waits.data(10);
        waits.seq = waits.seq.wrapping_sub(10);
    }
    setup.await_counts(&Expected { handshakes: 2, overflows: 2, ..Expected::default() })?;
    ensure!(setup.kernel("ListenOverflows")? == 2, "the data was not refused");
    listener.accept()?;
    waits.data(10);
    listener.accept()?;
    listener.accept()?;
    setup.await_counts(&Expected { handshakes: 3, overflows: 2, ..Expected::default() })?;
    Ok(())
}

/// A server for outside hosts, and an agent that counts.
struct Setup {
    testbed: Testbed,
    agent: ScrapedAgent,
}

/// The expected counts.
#[derive(Default)]
struct Expected {
    handshakes: u64,
    timed_out: u64,
    aborted: u64,
    reset: u64,
    no_listener: u64,
    overflows: u64,
}

impl Setup {
    fn new(setting: Option<(&str, &str)>) -> Result<Self> {
        let testbed = Testbed::new()?;
        let server = testbed.namespace(Side::Server);
        if let Some((setting, value)) = setting {
            server.set(setting, value)?;
        }
        let arguments = format!("--port {PORT},{OTHER} --output none");
        let agent = ScrapedAgent::start(server, &arguments, Stdio::null())?;
        Ok(Self { testbed, agent })
    }

    fn server(&self) -> &Namespace {
        self.testbed.namespace(Side::Server)
    }

    fn listen(&self, port: u16, backlog: i32) -> Result<Socket> {
        self.listen_with(port, backlog, |_| Ok(()))
    }

    fn listen_with(
        &self,
        port: u16,
        backlog: i32,
        prepare: impl FnOnce(&Socket) -> io::Result<()> + Send,
    ) -> Result<Socket> {
        self.server().enter(|| {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            listener.set_reuse_address(true)?;
            // So that a failure is reported.
            listener.set_read_timeout(Some(STALLED))?;
            prepare(&listener)?;
            listener.bind(&self.outside_address(port).into())?;
            listener.listen(backlog)?;
            Ok(listener)
        })
    }

    /// Outside hosts whose SYNs are answered.
    fn open<const N: usize>(&self, ports: [u16; N]) -> Result<[OutsideHost<'_>; N]> {
        let mut hosts = ports.map(|port| self.testbed.outside.new_host(self.outside_address(port), 0));
        hosts.iter_mut().try_for_each(OutsideHost::open)?;
        Ok(hosts)
    }

    fn outside_address(&self, port: u16) -> SocketAddr {
        self.testbed.outside_address(false, port)
    }

    /// Waits until `ss` shows so many half-open connections.
    fn await_requests(&self, count: usize) -> Result<()> {
        let is_request = |row: &&SocketRow| row.state == "syn_recv";
        self.server().await_all(&format!("{count} half-open requests"), |rows| {
            rows.iter().filter(is_request).count() == count
        })?;
        Ok(())
    }

    /// Waits for these counts. None may be greater meanwhile.
    fn await_counts(&self, expected: &Expected) -> Result<()> {
        let mut deadline = Deadline::new();
        loop {
            let samples = self.agent.samples()?;
            expected.exceeded(&samples).none().context("too many")?;
            let Err(missing) = expected.missed(&samples).none() else { return Ok(()) };
            deadline.observe(&expected.counts(&samples));
            deadline.check().with_context(|| missing.to_string())?;
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A counter of `/proc/net/snmp` or `/proc/net/netstat`.
    fn kernel(&self, name: &str) -> Result<u64> {
        self.server().tcp_counters()?.get(name).copied().with_context(|| format!("there is no {name}"))
    }
}

impl Expected {
    fn exceeded(&self, samples: &Samples) -> Mismatches {
        let mut mismatches = Mismatches::default();
        for (what, counted, expected) in self.counts(samples) {
            mismatches.at_most(what, counted, expected);
        }
        mismatches
    }

    fn missed(&self, samples: &Samples) -> Mismatches {
        let mut mismatches = Mismatches::default();
        for (what, counted, expected) in self.counts(samples) {
            mismatches.equal(what, counted, expected);
        }
        mismatches
    }

    /// Name, count of the agent, and what it should be.
    fn counts(&self, samples: &Samples) -> [(&'static str, u64, u64); 8] {
        let failed = |reason| {
            samples.sum_or_zero("handshake_failures_total", &[("role", "server"), ("reason", reason)])
        };
        let ended =
            samples.sum_or_zero("state_transitions_total", &[("from", "new_syn_recv"), ("to", "close")]);
        [
            ("handshakes", samples.sum_or_zero("handshakes_total", &[("role", "server")]), self.handshakes),
            ("timed out", failed("timed_out"), self.timed_out),
            ("aborted", failed("aborted"), self.aborted),
            ("reset", failed("reset"), self.reset),
            ("no listener", failed("no_listener"), self.no_listener),
            ("accept queue full", failed("accept_queue_full"), 0),
            ("overflows", samples.sum_or_zero("accept_queue_overflows_total", &[]), self.overflows),
            ("requests that ended", ended, self.timed_out + self.aborted + self.reset),
        ]
    }
}

impl OutsideHost<'_> {
    /// Sends the answered SYN once more.
    fn retransmit_syn(&self) {
        self.send(Segment::new(SYN, self.seq.wrapping_sub(1), 0));
    }
}

/// Sets TCP_DEFER_ACCEPT: the listener waits for data after the handshake ACK, for at least so many
/// seconds.
fn defer_accept(listener: &Socket, seconds: libc::c_int) -> io::Result<()> {
    // SAFETY: TCP_DEFER_ACCEPT takes an int (tcp(7)).
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const OTHER: u16 = PORT + 1;
