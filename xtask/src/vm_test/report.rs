//! Compares what a machine reported with what it should report.

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde_json::Value;

/// A report of `init.sh`: the lines of each section.
pub(super) struct Report<'a> {
    sections: BTreeMap<&'a str, Vec<&'a str>>,
}

/// A claim and whether it holds.
pub(super) struct Check {
    pub(super) claim: &'static str,
    /// What was found instead, if it does not hold.
    pub(super) found: Result<(), String>,
}

impl<'a> Report<'a> {
    /// The report of a machine that died early lacks sections.
    pub(super) fn parse(output: &'a str) -> Self {
        let mut sections: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut lines = Vec::new();
        for line in output.lines().map(str::trim_end).rev() {
            match line.strip_prefix("== ") {
                Some(section) => {
                    lines.reverse();
                    sections.insert(section, std::mem::take(&mut lines));
                }
                None => lines.push(line),
            }
        }
        Self { sections }
    }

    pub(super) fn checks(&self) -> Vec<Check> {
        let mut checks = vec![
            holds(
                "the machine ran to its end",
                self.sections.contains_key("end"),
                self.sections.keys().collect::<Vec<_>>(),
            ),
            self.attaches("the agent attaches with diagnostics, for every port", "killed agent"),
            self.attaches("the agent attaches five tracepoints and the classifiers of lo", "agent"),
            equal("the connections went as planned", &["refused", "orderly", "aborted"], &self.traffic()),
        ];
        checks.extend(self.event_checks());
        checks.extend(self.metric_checks());
        checks.extend([
            holds(
                "no record was lost",
                self.lines("agent").iter().any(|line| line.ends_with(" 0 records lost")),
                self.lines("agent"),
            ),
            equal("the agent ended with exit code 0", &["0"], self.lines("exit code")),
            equal("no classifier was left behind", &[] as &[&str], &self.classifiers()),
        ]);
        checks
    }

    fn attaches(&self, claim: &'static str, section: &str) -> Check {
        let lines = self.lines(section);
        holds(claim, lines.iter().any(|line| line.starts_with(ATTACHED)), lines)
    }

    fn event_checks(&self) -> Vec<Check> {
        let events = self.events();
        let of = |connection| Connection { events: &events, client: self.client(connection) };
        let (orderly, aborted) = (of("orderly"), of("aborted"));
        let handshakes = ["client completed", "server completed"];
        let refused = |event: &&Value| event["event"] == "handshake" && event["result"] == "refused";
        vec![
            equal(
                "the segments of the handshake and the teardown come in order",
                &[
                    "client syn",
                    "server syn_ack",
                    "client handshake_ack",
                    "server fin",
                    "client fin",
                    "server ack_of_fin",
                ],
                &orderly.segments(),
            ),
            equal(
                "the client goes through its states",
                &["syn_sent", "established", "close_wait", "last_ack", "close"],
                &orderly.states("client"),
            ),
            equal(
                "the server goes through its states",
                &["syn_recv", "established", "fin_wait1", "fin_wait2", "time_wait"],
                &orderly.states("server"),
            ),
            equal("both ends complete the handshake", &handshakes, &orderly.handshakes()),
            equal(
                "both ends report how the connection closed",
                &["client remote", "server local"],
                &orderly.pairs("closed", "role", "closed_by"),
            ),
            equal(
                "both ends complete the handshake of the aborted connection",
                &handshakes,
                &aborted.handshakes(),
            ),
            equal(
                "the reset is seen by both ends",
                &["received established", "sent established"],
                &aborted.pairs("reset", "direction", "phase"),
            ),
            equal(
                "both ends report that the connection was reset",
                &["client remote_reset", "server local_reset"],
                &aborted.pairs("closed", "role", "closed_by"),
            ),
            equal("one handshake was refused", &[1], &[events.iter().filter(refused).count()]),
        ]
    }

    fn metric_checks(&self) -> Vec<Check> {
        let expected = [
            ("server handshakes are counted", "handshakes_total", r#"role="server""#, 2),
            ("client handshakes are counted", "handshakes_total", r#"role="client""#, 2),
            ("the refused handshake is counted", "handshake_failures_total", r#"reason="refused""#, 1),
            ("the SYN to a closed port is counted", "handshake_failures_total", r#"reason="no_listener""#, 1),
            ("no other handshake failed", "handshake_failures_total", "", 2),
            ("the RSTs received are counted", "resets_total", r#"direction="received""#, 2),
            (
                "the RST of the abort is counted",
                "resets_total",
                r#"direction="sent",port="8899",phase="established""#,
                1,
            ),
            ("the connection in TIME_WAIT is counted", "state_transitions_total", r#"to="time_wait""#, 1),
            ("the socket in TIME_WAIT is among the gauges", "connections", r#"state="time_wait""#, 1),
            ("segments out of lo are counted", "segments_total", r#"direction="egress""#, 9),
            ("segments into lo are counted", "segments_total", r#"direction="ingress""#, 9),
        ];
        expected
            .into_iter()
            .map(|(claim, metric, labels, value)| equal(claim, &[value], &[self.sum(metric, labels)]))
            .collect()
    }

    fn lines(&self, section: &str) -> &[&'a str] {
        self.sections.get(section).map_or(&[], Vec::as_slice)
    }

    fn traffic(&self) -> Vec<&'a str> {
        self.lines("traffic").iter().map(|line| line.split(' ').next().unwrap_or(line)).collect()
    }

    /// The address of the client of a connection; empty if it was never made.
    fn client(&self, connection: &str) -> &'a str {
        let mut lines = self.lines("traffic").iter();
        lines.find_map(|line| line.strip_prefix(connection)?.strip_prefix(' ')).unwrap_or_default()
    }

    /// A line that is no event becomes `null`, which fails the checks.
    fn events(&self) -> Vec<Value> {
        self.lines("events").iter().map(|line| serde_json::from_str(line).unwrap_or_default()).collect()
    }

    /// The sum of a metric's samples with these labels.
    fn sum(&self, metric: &str, labels: &str) -> u64 {
        let name = format!("tcp_monitor_{metric}{{");
        let samples =
            self.lines("metrics").iter().filter(|line| line.starts_with(&name) && line.contains(labels));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Modules of classifiers that are in use after the agent ended.
    fn classifiers(&self) -> Vec<&'a str> {
        let mut modules = self.lines("modules after").to_vec();
        modules.retain(|line| line.starts_with("cls_bpf ") && !line.ends_with(" 0"));
        modules
    }
}

const ATTACHED: &str = "attached: 5 tracepoints, tc on lo ";

/// The events of one connection.
struct Connection<'a> {
    events: &'a [Value],
    client: &'a str,
}

impl Connection<'_> {
    /// Who sent each segment, and its step in the connection.
    ///
    /// Without the ACK with which a client may acknowledge the server's FIN before its own FIN does
    /// so.
    fn segments(&self) -> Vec<String> {
        let all = self.events.iter().filter(|event| event["event"] == "segment");
        let ours = all.filter(|event| event["src"] == self.client || event["dst"] == self.client);
        let segments = ours.map(|event| {
            let sender = if event["src"] == self.client { "client" } else { "server" };
            format!("{sender} {}", text(&event["step"]))
        });
        segments.filter(|segment| segment != "client ack_of_fin").collect()
    }

    /// The states that an end entered.
    fn states(&self, role: &str) -> Vec<String> {
        let states = self.of_kind("state").filter(|event| event["role"] == role);
        states.map(|event| text(&event["to"]).to_owned()).collect()
    }

    fn handshakes(&self) -> Vec<String> {
        self.pairs("handshake", "role", "result")
    }

    /// Two fields of each event of a kind, in alphabetical order: the ends of a connection report
    /// in either order.
    fn pairs(&self, kind: &str, first: &str, second: &str) -> Vec<String> {
        let events = self.of_kind(kind);
        let mut pairs: Vec<_> =
            events.map(|event| format!("{} {}", text(&event[first]), text(&event[second]))).collect();
        pairs.sort_unstable();
        pairs
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(move |event| {
            event["event"] == kind && (event["local"] == self.client || event["remote"] == self.client)
        })
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn holds(claim: &'static str, holds: bool, found: impl Debug) -> Check {
    Check { claim, found: if holds { Ok(()) } else { Err(format!("found {found:?}")) } }
}

fn equal<A: Debug + PartialEq<B>, B: Debug>(claim: &'static str, expected: &[A], found: &[B]) -> Check {
    let found =
        if expected == found { Ok(()) } else { Err(format!("expected {expected:?}, found {found:?}")) };
    Check { claim, found }
}

#[cfg(test)]
mod tests {
    use super::Report;

    #[test]
    fn a_machine_that_reports_nothing_fails() {
        let checks = Report::parse("").checks();
        // An empty report does not contradict that nothing was left behind.
        assert!(checks.iter().filter(|check| check.found.is_ok()).count() <= 1);
    }

    #[test]
    fn sections_keep_their_lines_in_order() {
        let report = Report::parse("noise\r\n== traffic\r\nrefused\r\norderly 127.0.0.1:1\r\n== end\r\n");
        assert_eq!(report.lines("traffic"), ["refused", "orderly 127.0.0.1:1"]);
        assert_eq!(report.client("orderly"), "127.0.0.1:1");
        assert!(report.lines("end").is_empty());
    }
}
