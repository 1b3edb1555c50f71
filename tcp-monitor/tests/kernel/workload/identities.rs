//! The identities that must hold exactly between the agent's counters, the kernel's and the sockets
//! that `ss` shows.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::{
    support::{scrape::Samples, socket_table::SocketRow, testbed::series},
    workload::{
        connect_actions::{NO_SYN, REFUSED_BY_ICMP},
        outside_host_actions::{COOKIES_WHILE_FULL, IGNORED_RSTS, RESET_AFTER_CLOSE, RESET_BY_SYN},
        run::WORKERS,
        socket_actions::DESTROYED_IN_SYN_SENT,
        worker::has_expected_counts,
    },
};

/// Independent counts of one namespace in which nothing changes any more.
pub(crate) struct Observed<'a> {
    pub(crate) agent: &'a Samples,
    /// `/proc/net/snmp` and `/proc/net/netstat`.
    pub(crate) kernel: &'a BTreeMap<String, u64>,
    /// The workload's expected counts.
    pub(crate) expected: &'a BTreeMap<String, u64>,
    /// What `ss` shows.
    pub(crate) sockets: &'a [SocketRow],
}

/// The counts that should be equal and are not.
#[derive(Default)]
pub(crate) struct Mismatches(Vec<String>);

impl Mismatches {
    pub(crate) fn equal(&mut self, what: &str, agent: u64, expected: u64) {
        if agent != expected {
            self.0.push(format!("{what}: {agent}, should be {expected}"));
        }
    }

    pub(crate) fn at_most(&mut self, what: &str, count: u64, limit: u64) {
        if count > limit {
            self.0.push(format!("{what}: {count}, should be at most {limit}"));
        }
    }

    pub(crate) fn list(self) -> Vec<String> {
        self.0
    }

    pub(crate) fn none(self) -> Result<()> {
        ensure!(self.0.is_empty(), "{:#?}", self.0);
        Ok(())
    }
}

impl Observed<'_> {
    pub(crate) fn check(&self) -> Result<Mismatches> {
        let mut mismatches = Mismatches::default();
        self.check_openings(&mut mismatches)?;
        self.check_failures(&mut mismatches)?;
        self.check_ends(&mut mismatches)?;
        self.check_states(&mut mismatches);
        self.check_durations(&mut mismatches);
        self.check_segments(&mut mismatches)?;
        self.check_expected(&mut mismatches);
        self.check_gauges(&mut mismatches);
        Ok(mismatches)
    }

    fn check_openings(&self, mismatches: &mut Mismatches) -> Result<()> {
        let passive_opens = self.transitions("listen", "syn_recv");
        mismatches.equal("PassiveOpens", passive_opens, self.kernel("PassiveOpens")?);
        let created =
            self.sum("handshakes_total", &[("role", "server")]) + self.transitions("syn_recv", "close");
        mismatches.equal("handshakes of a server and children closed before", created, passive_opens);

        let begun = self.transitions("close", "syn_sent");
        mismatches.equal("ActiveOpens", begun, self.kernel("ActiveOpens")? + self.note(NO_SYN));
        let ended = self.sum("handshakes_total", &[("role", "client")])
            + self.sum("handshake_failures_total", &[("role", "client")]);
        mismatches.equal("handshakes of a client and its failures", ended, begun);

        let syn_retransmits = self.sum("syn_retransmits_total", &[]);
        mismatches.equal("TCPSynRetrans", syn_retransmits, self.kernel("TCPSynRetrans")?);
        let retransmitted = self.sum("retransmits_total", &[]) + syn_retransmits;
        mismatches.equal("RetransSegs", retransmitted, self.kernel("RetransSegs")?);
        Ok(())
    }

    fn check_failures(&self, mismatches: &mut Mismatches) -> Result<()> {
        let overflows = self.sum("accept_queue_overflows_total", &[]);
        mismatches.equal("ListenOverflows", overflows, self.kernel("ListenOverflows")?);
        let dropped = self.failures("server", "syn_dropped");
        mismatches.equal("TCPReqQFullDrop", dropped, self.kernel("TCPReqQFullDrop")?);

        let sent = self.sum("syn_cookies_total", &[("result", "sent")]);
        mismatches.equal("SyncookiesSent", sent, self.kernel("SyncookiesSent")?);
        // The kernel also counts those for which it then finds no room in the accept queue.
        let accepted = self.sum("syn_cookies_total", &[("result", "accepted")]);
        let received = self.kernel("SyncookiesRecv")?;
        mismatches.at_most("SyncookiesRecv, from below", accepted + self.note(COOKIES_WHILE_FULL), received);
        mismatches.at_most("SyncookiesRecv, from above", received, accepted + overflows);

        let by_client = self.sum("handshake_failures_total", &[("role", "client")])
            - self.failures("client", "aborted")
            + self.note(DESTROYED_IN_SYN_SENT);
        let by_rst = self.failures("client", "refused") - self.note(REFUSED_BY_ICMP);
        let rsts = self.sum("resets_total", &[("direction", "received"), ("phase", "handshake")]);
        let of_server = rsts.wrapping_sub(by_rst).wrapping_add(self.note(RESET_BY_SYN));
        mismatches.equal("AttemptFails", by_client.wrapping_add(of_server), self.kernel("AttemptFails")?);
        // The rest are handshake ACKs that were answered with a RST.
        mismatches.at_most("EmbryonicRsts", of_server, self.kernel("EmbryonicRsts")?);
        mismatches.at_most("requests that were reset", self.failures("server", "reset"), of_server);
        Ok(())
    }

    fn check_ends(&self, mismatches: &mut Mismatches) -> Result<()> {
        let resets = self.transitions("established", "close") + self.transitions("close_wait", "close");
        mismatches.equal("EstabResets", resets, self.kernel("EstabResets")?);
        mismatches.equal(
            "OutRsts",
            self.sum("resets_total", &[("direction", "sent")]),
            self.kernel("OutRsts")?,
        );

        let timewait_sockets = self.kernel("TW")? + self.kernel("TWKilled")?;
        mismatches.equal("TW and TWKilled", self.closed("local") + self.closed("both"), timewait_sockets);
        let reset = self.transitions("fin_wait2", "close").wrapping_sub(self.aborted_in_fin_wait2());
        mismatches.equal(
            "timewait sockets in TIME_WAIT, in FIN_WAIT2 and reset in FIN_WAIT2",
            self.sum("state_transitions_total", &[("to", "time_wait")])
                .wrapping_add(self.await_fin())
                .wrapping_add(reset),
            timewait_sockets,
        );
        let rsts = self.sum("segments_total", &[("direction", "ingress"), ("flags", "rst")]);
        let received = self.sum("resets_total", &[("direction", "received")]);
        mismatches.equal("RSTs that came in and were not ignored", received + self.note(IGNORED_RSTS), rsts);
        // Besides those, a listener that closes resets the peers of whom it has not accepted.
        mismatches.at_most("reset after close, from below", self.note(RESET_AFTER_CLOSE), reset);
        mismatches.at_most("reset after close, from above", reset, rsts);
        mismatches.equal(
            "sockets that left FIN_WAIT2, as a timewait socket or aborted",
            self.sum("state_transitions_total", &[("to", "fin_wait2")]),
            self.closed("local").wrapping_add(self.aborted_in_fin_wait2()),
        );
        for role in ["server", "client"] {
            let closed = self.sum("connections_closed_total", &[("role", role)]);
            let opened = self.sum("handshakes_total", &[("role", role)]);
            mismatches.equal(&format!("connections of a {role} that ended"), closed, opened);
        }
        Ok(())
    }

    /// As many connections entered a state as left it or are in it.
    fn check_states(&self, mismatches: &mut Mismatches) {
        for state in [
            "established",
            "syn_sent",
            "syn_recv",
            "fin_wait1",
            "fin_wait2",
            "close_wait",
            "last_ack",
            "closing",
            "time_wait",
        ] {
            let entered = self.sum("state_transitions_total", &[("to", state)]);
            let left = self.sum("state_transitions_total", &[("from", state)]);
            let remain = self.sockets.iter().filter(|row| row.state == state).count() as u64;
            mismatches.equal(&format!("left {state}, or still there"), left + remain, entered);
        }
    }

    /// Each counted end has a duration.
    fn check_durations(&self, mismatches: &mut Mismatches) {
        for role in ["server", "client"] {
            let without_cookie = self.sum("handshakes_total", &[("role", role)])
                - if role == "server" { self.sum("syn_cookies_total", &[("result", "accepted")]) } else { 0 };
            let handshakes = self.sum("handshake_duration_seconds_count", &[("role", role)]);
            mismatches.equal(&format!("durations of handshakes of a {role}"), handshakes, without_cookie);
            let closed = self.sum("connections_closed_total", &[("role", role)]);
            let connections = self.sum("connection_duration_seconds_count", &[("role", role)]);
            mismatches.equal(&format!("durations of connections of a {role}"), connections, closed);
        }
        let durations = |state| self.sum("state_duration_seconds_count", &[("state", state)]);
        for state in ["close_wait", "fin_wait1", "last_ack", "closing"] {
            let left = self.sum("state_transitions_total", &[("from", state)]);
            mismatches.equal(&format!("durations of {state}"), durations(state), left);
        }
        // An end that only the balance of counters and sockets shows has no duration.
        let left = self.sum("state_transitions_total", &[("from", "fin_wait2")]);
        mismatches.at_most("durations of fin_wait2", durations("fin_wait2"), left);
        let in_time_wait = self.transitions("fin_wait2", "time_wait") + self.aborted_in_fin_wait2();
        mismatches.at_most(
            "those that ended in TIME_WAIT or were aborted",
            in_time_wait,
            durations("fin_wait2"),
        );
    }

    fn check_segments(&self, mismatches: &mut Mismatches) -> Result<()> {
        let sent = |flags| self.sum("segments_total", &[("direction", "egress"), ("flags", flags)]);
        mismatches.equal("RSTs that left", sent("rst"), self.kernel("OutRsts")?);
        let syns = self.kernel("ActiveOpens")? + self.sum("syn_retransmits_total", &[("role", "client")]);
        mismatches.equal("SYNs that left", sent("syn"), syns);
        for flags in FLAGS {
            let on_loopback = |direction| {
                let labels = [("interface", "lo"), ("direction", direction), ("flags", flags)];
                self.sum("segments_total", &labels)
            };
            mismatches.equal(&format!("{flags} on lo"), on_loopback("ingress"), on_loopback("egress"));
        }
        Ok(())
    }

    /// On the ports whose counts are known exactly, every series has its expected value.
    fn check_expected(&self, mismatches: &mut Mismatches) {
        for metric in COUNTED {
            let mut counted = BTreeMap::new();
            for (labels, count) in self.agent.of(metric) {
                let port = labels.get("port").and_then(|port| port.parse().ok());
                if port.is_some_and(|port| has_expected_counts(port, WORKERS)) {
                    counted.insert(series(metric, &labels), count);
                }
            }
            let prefix = format!("{metric}{{");
            let booked = self.expected.iter().filter(|(name, _)| name.starts_with(&prefix));
            let mut all: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
            for (name, count) in booked {
                all.entry(name).or_default()[1] = *count;
            }
            for (name, count) in &counted {
                all.entry(name).or_default()[0] = *count;
            }
            for (name, [counted, booked]) in all {
                mismatches.equal(name, counted, booked);
            }
        }
    }

    fn check_gauges(&self, mismatches: &mut Mismatches) {
        let mut shown: BTreeMap<&str, u64> = BTreeMap::new();
        for row in self.sockets {
            *shown.entry(&row.state).or_default() += 1;
        }
        for (labels, _) in self.agent.of("connections") {
            shown.entry(labels.get("state").copied().unwrap_or_default()).or_default();
        }
        for (state, shown) in shown {
            mismatches.equal(
                &format!("sockets in {state}"),
                self.sum("connections", &[("state", state)]),
                shown,
            );
        }
    }

    /// Timewait sockets in FIN_WAIT2: no full socket is in that state any more.
    fn await_fin(&self) -> u64 {
        self.sockets.iter().filter(|row| row.state == "fin_wait2").count() as u64
    }

    /// Sockets that went from FIN_WAIT2 to CLOSE themselves: of all connections that did not end
    /// with two FINs, the rest.
    fn aborted_in_fin_wait2(&self) -> u64 {
        let aborted = ["local_reset", "remote_reset", "timed_out", "killed"].map(|by| self.closed(by));
        let remote = ["established", "close_wait", "fin_wait1", "closing", "last_ack"]
            .map(|state| self.transitions(state, "close"));
        let all: u64 = aborted.iter().sum::<u64>() + self.closed("remote");
        all.wrapping_sub(remote.iter().sum())
    }

    fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> u64 {
        self.agent.sum_or_zero(metric, labels)
    }

    fn transitions(&self, from: &str, to: &str) -> u64 {
        self.sum("state_transitions_total", &[("from", from), ("to", to)])
    }

    fn failures(&self, role: &str, reason: &str) -> u64 {
        self.sum("handshake_failures_total", &[("role", role), ("reason", reason)])
    }

    fn closed(&self, by: &str) -> u64 {
        self.sum("connections_closed_total", &[("closed_by", by)])
    }

    fn kernel(&self, name: &str) -> Result<u64> {
        self.kernel.get(name).copied().with_context(|| format!("the kernel has no counter {name}"))
    }

    fn note(&self, what: &str) -> u64 {
        self.expected.get(&series::<&str>(what, &BTreeMap::new())).copied().unwrap_or(0)
    }
}

/// What left one end of a veth arrived at the other.
pub(crate) fn check_veth(mismatches: &mut Mismatches, server: &Samples, client: &Samples) {
    for flags in FLAGS {
        let on = |samples: &Samples, interface, direction| {
            let labels = [("interface", interface), ("direction", direction), ("flags", flags)];
            samples.sum_or_zero("segments_total", &labels)
        };
        let [near, far] = ["veth-client", "veth-server"];
        mismatches.equal(
            &format!("{flags} to the server"),
            on(server, far, "ingress"),
            on(client, near, "egress"),
        );
        mismatches.equal(
            &format!("{flags} to the client"),
            on(client, near, "ingress"),
            on(server, far, "egress"),
        );
    }
}

/// The metrics whose values are known exactly.
const COUNTED: [&str; 4] =
    ["handshakes_total", "handshake_failures_total", "connections_closed_total", "bytes_total"];
const FLAGS: [&str; 4] = ["syn", "syn_ack", "fin", "rst"];
