//! The exposition: names, labels, help and values are a contract with those who scrape, alert and
//! graph. graphs.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;
use std::{env, fs};

use clap::CommandFactory as _;
use tcp_monitor::cli::Cli;
use tcp_monitor::counts::{
    AcceptQueue, KernelCounts, PortLabel, PortSockets, ProgramRuns, Snapshot, TrackerCounts,
};
use tcp_monitor::metrics::{BuildInfo, Exporter, ScrapeError};
use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::{
    ClosedBy, HandshakeFailure, Histogram, InterfaceCounters, PortCounters, RESET_REASON_UNKNOWN,
    RecordCounters, Scale, SegmentKind, TIMED_STATES, TableCounters,
};
use tcp_monitor_common::record::{Direction, Kind, ResetPhase, Role};
use tcp_monitor_common::words::Words;

/// After an intended change: `BLESS=1 cargo test -p tcp-monitor --test metrics`, then read the
/// difference.
#[test]
fn exposition_is_the_golden_text() -> Result<(), Box<dyn Error>> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/metrics.txt");
    let exposition = expose(sample())?;
    if env::var_os("BLESS").is_some() {
        fs::write(&golden, &exposition)?;
    }
    let expected = fs::read_to_string(&golden)?;
    for (line, expected) in exposition.lines().zip(expected.lines()) {
        assert_eq!(line, expected);
    }
    assert_eq!(exposition.len(), expected.len(), "one of the two goes on");
    Ok(())
}

/// A port for each word of its counters, with 1 in that word, and port 0 with none: the text of
/// each differs from that of port 0, but for the words that round arrays up to powers of two.
#[test]
fn every_counter_of_a_port_is_exposed() -> Result<(), Box<dyn Error>> {
    let words = PortCounters::ZERO.words().len();
    let mut ports = vec![(PortLabel::Port(0), PortCounters::ZERO)];
    for (word, port) in (0..words).zip(1..) {
        let mut counters = PortCounters::ZERO;
        counters.words_mut()[word] = 1;
        ports.push((PortLabel::Port(port), counters));
    }
    let kernel = KernelCounts { ports, ..KernelCounts::default() };
    let exposition = expose(Snapshot { kernel, ..Snapshot::default() })?;
    let mut by_port = BTreeMap::<&str, String>::new();
    for line in exposition.lines() {
        if let Some((name, (port, rest))) =
            line.split_once("port=\"").and_then(|(name, rest)| Some((name, rest.split_once('"')?)))
        {
            by_port.entry(port).or_default().extend([name, rest, "\n"]);
        }
    }
    for (word, is_room) in rounded_up().words().iter().map(|word| *word != 0).enumerate() {
        let is_exposed = by_port[(word + 1).to_string().as_str()] != by_port["0"];
        assert_eq!(is_exposed, !is_room, "word {word} of PortCounters");
    }
    Ok(())
}

#[test]
fn every_counter_of_records_tables_and_interfaces_is_exposed() -> Result<(), Box<dyn Error>> {
    fn differs<C: Words + Copy>(
        zero: &C,
        snapshot: impl Fn(&C) -> KernelCounts,
    ) -> Result<(), Box<dyn Error>> {
        let text = |counters: &C| expose(Snapshot { kernel: snapshot(counters), ..Snapshot::default() });
        let before = text(zero)?;
        for word in 0..zero.words().len() {
            let mut counters = *zero;
            counters.words_mut()[word] = 1;
            assert_ne!(text(&counters)?, before, "word {word} of {}", std::any::type_name::<C>());
        }
        Ok(())
    }
    differs(&RecordCounters::default(), |records| KernelCounts {
        records: *records,
        ..KernelCounts::default()
    })?;
    differs(&TableCounters::default(), |tables| KernelCounts { tables: *tables, ..KernelCounts::default() })?;
    differs(&InterfaceCounters::default(), |counters| KernelCounts {
        interfaces: vec![("eth0".to_owned(), *counters)],
        ..KernelCounts::default()
    })
}

#[test]
fn no_series_occurs_twice() -> Result<(), Box<dyn Error>> {
    let series = series(sample())?;
    let names: BTreeSet<_> = series.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), series.len());
    Ok(())
}

#[test]
fn counters_that_cannot_be_read_are_no_zeros() {
    let text = exporter(Err("map is gone".to_owned())).expose();
    assert_eq!(text, Err(ScrapeError::Unreadable("map is gone".to_owned())));
}

#[test]
fn a_scrape_shows_nothing_of_the_one_before() -> Result<(), Box<dyn Error>> {
    let labels = |count| (1..=count).map(PortLabel::Port);
    let of_ports = |count| Snapshot {
        kernel: KernelCounts {
            ports: labels(count).map(|label| (label, PortCounters::ZERO)).collect(),
            ..KernelCounts::default()
        },
        sockets: Some(labels(count).map(|label| (label, PortSockets::default())).collect()),
        tracker: None,
    };
    let snapshots =
        [sample(), at_rest(true), at_rest(false), of_ports(100), of_ports(99), sample(), of_ports(1000)];
    let expected = snapshots.clone().map(expose);
    let next = Mutex::new(snapshots.into_iter());
    let read = move || next.lock().ok().and_then(|mut next| next.next()).ok_or("no more".to_owned());
    let exporter = Exporter::new(Box::new(read), build());
    for expected in expected {
        assert!(
            exporter.expose()? == expected?,
            "it differs from the text of an exporter that was not asked before"
        );
    }
    Ok(())
}

#[test]
fn without_ports_interfaces_or_programs_the_agent_still_shows_itself() -> Result<(), Box<dyn Error>> {
    let names: BTreeSet<_> =
        series(Snapshot::default())?.into_iter().map(|(name, _)| metric(&name)).collect();
    let expected = [
        "tcp_monitor_build_info",
        "tcp_monitor_events_lost_total",
        "tcp_monitor_events_suppressed_total",
        "tcp_monitor_events_total",
        "tcp_monitor_table_evictions_total",
    ];
    assert_eq!(names, expected.map(str::to_owned).into());
    Ok(())
}

#[test]
fn a_port_at_rest_has_every_series_that_can_move_at_zero() -> Result<(), Box<dyn Error>> {
    let mut sizes = BTreeMap::<String, usize>::new();
    for (name, value) in series(at_rest(true))? {
        if name.contains("port=\"80\"") {
            assert_eq!(value, "0", "{name}");
            *sizes.entry(metric(&name)).or_default() += 1;
        }
    }
    let expected = [
        ("tcp_monitor_handshakes_total", 2),
        ("tcp_monitor_handshake_failures_total", 6 + 7),
        ("tcp_monitor_syn_retransmits_total", 2),
        ("tcp_monitor_resets_total", 5 + 18 + 12 + 16 + 1 + 1),
        ("tcp_monitor_state_transitions_total", 27),
        ("tcp_monitor_retransmits_total", 1),
        ("tcp_monitor_handshake_duration_seconds_bucket", 2 * 13),
        ("tcp_monitor_handshake_duration_seconds_sum", 2),
        ("tcp_monitor_handshake_duration_seconds_count", 2),
        ("tcp_monitor_syn_cookies_total", 2),
        ("tcp_monitor_accept_queue_overflows_total", 1),
        ("tcp_monitor_connections_closed_total", 2 * 7),
        ("tcp_monitor_connection_duration_seconds_bucket", 2 * 15),
        ("tcp_monitor_connection_duration_seconds_sum", 2),
        ("tcp_monitor_connection_duration_seconds_count", 2),
        ("tcp_monitor_state_duration_seconds_bucket", 5 * 15),
        ("tcp_monitor_state_duration_seconds_sum", 5),
        ("tcp_monitor_state_duration_seconds_count", 5),
        ("tcp_monitor_bytes_total", 2),
        ("tcp_monitor_connections", 11),
        ("tcp_monitor_half_open", 1),
        ("tcp_monitor_close_wait_oldest_seconds", 1),
        ("tcp_monitor_close_wait_stuck", 1),
    ];
    assert_eq!(sizes, expected.map(|(name, size)| (name.to_owned(), size)).into());
    Ok(())
}

#[test]
fn queries_of_the_documents_ask_for_series_that_there_are() -> Result<(), Box<dyn Error>> {
    let queries = include_str!("../../docs/metrics.md").split_once("## Queries").ok_or("no queries")?.1;
    let series = series(sample())?;
    let mut asked_for = 0;
    for selector in queries.split("tcp_monitor_").skip(1) {
        let end = selector.find(|next: char| !next.is_ascii_alphanumeric() && next != '_');
        let (name, rest) = selector.split_at(end.unwrap_or(selector.len()));
        // The name of a recording rule goes on with a colon.
        if rest.starts_with(':') {
            continue;
        }
        let labels =
            rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(labels, _)| labels);
        let named = |label: &&str| label.contains("=\"") && !label.contains("!=");
        let labels: Vec<_> = labels.split(',').filter(named).collect();
        let is_there = series.iter().any(|(series, _)| {
            metric(series) == format!("tcp_monitor_{name}")
                && labels.iter().all(|label| series.contains(label))
        });
        assert!(is_there, "tcp_monitor_{name} {labels:?}");
        asked_for += 1;
    }
    assert!(asked_for >= 20, "{asked_for} selectors found");
    Ok(())
}

#[test]
fn documents_and_help_say_what_a_port_costs() -> Result<(), Box<dyn Error>> {
    let of_port = |reasons_known| -> Result<Vec<usize>, Box<dyn Error>> {
        let exposition = expose(at_rest(reasons_known))?;
        let of_port = exposition.lines().filter(|line| line.contains("port=\"80\""));
        Ok(of_port.map(|line| line.len() + 1).collect())
    };
    let (series, before) = (of_port(true)?, of_port(false)?);

    let documents = include_str!("../../docs/metrics.md");
    let sentence = format!("A port at rest has {} on 6.12 and later, {} before", series.len(), before.len());
    assert!(documents.contains(&sentence), "docs/metrics.md lacks {sentence:?}");

    let help = Cli::command().render_long_help().to_string();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let tens = (series.len() + 5) / 10 * 10;
    let kib = |bytes: usize| (bytes + 512) / 1024;
    let sentence = format!(
        "Each port costs about {} KiB of memory per CPU, and about {tens} series or {} KiB of each scrape",
        kib(size_of::<PortCounters>()),
        kib(series.iter().sum()),
    );
    assert!(help.contains(&sentence), "--help lacks {sentence:?}");
    Ok(())
}

#[test]
fn a_kernel_that_gives_no_reasons_has_unknown_for_all_phases_it_reports() -> Result<(), Box<dyn Error>> {
    let exposition = expose(at_rest(false))?;
    let resets: Vec<_> =
        exposition.lines().filter(|line| line.starts_with("tcp_monitor_resets_total{")).collect();
    assert!(resets.iter().all(|line| line.contains("reason=\"unknown\"")), "{resets:?}");
    let (sent, received): (Vec<&str>, Vec<_>) =
        resets.into_iter().partition(|line| line.contains("direction=\"sent\""));
    assert_eq!((sent.len(), received.len()), (3, ResetPhase::ALL.len()));
    let without_socket = |line: &&str| line.contains("=\"no_socket\"") || line.contains("=\"time_wait\"");
    assert!(!sent.iter().any(without_socket), "{sent:?}");
    Ok(())
}

#[test]
fn what_was_thought_impossible_shows_once_it_is_counted() -> Result<(), Box<dyn Error>> {
    let mut port = PortCounters::ZERO;
    port.transitions[TcpState::TimeWait as usize][TcpState::Established as usize] = 1;
    port.handshake_failures[Role::Client as usize][HandshakeFailure::Reset as usize] = 2;
    // Two numbers without a name: one that a later kernel may use, and the slot for none.
    port.resets_sent[ResetPhase::NoSocket as usize][25] = 4;
    port.resets_sent[ResetPhase::NoSocket as usize][RESET_REASON_UNKNOWN] = 5;
    let kernel = KernelCounts { ports: vec![(PortLabel::Other, port)], ..at_rest(true).kernel };
    let exposition = expose(Snapshot { kernel, ..at_rest(true) })?;
    for line in [
        "tcp_monitor_state_transitions_total{port=\"other\",from=\"time_wait\",to=\"established\"} 1",
        "tcp_monitor_handshake_failures_total{role=\"client\",port=\"other\",reason=\"reset\"} 2",
        "tcp_monitor_resets_total{direction=\"sent\",port=\"other\",phase=\"no_socket\",reason=\"unknown\"} 9",
    ] {
        assert!(exposition.lines().any(|shown| shown == line), "{line}\n{exposition}");
    }
    Ok(())
}

#[test]
fn costs_of_programs_show_only_while_the_kernel_measures_them() -> Result<(), Box<dyn Error>> {
    let kernel = KernelCounts { bpf_stats: false, ..sample().kernel };
    let exposition = expose(Snapshot { kernel, ..sample() })?;
    assert!(!exposition.contains("tcp_monitor_bpf_run_seconds_total"));
    assert!(!exposition.contains("tcp_monitor_bpf_runs_total"));
    Ok(())
}

#[test]
fn without_a_log_there_is_no_table_to_show() -> Result<(), Box<dyn Error>> {
    let exposition = expose(Snapshot { tracker: None, ..sample() })?;
    assert!(!exposition.contains("tcp_monitor_tracker_"));
    Ok(())
}

#[test]
fn sockets_that_are_not_listed_are_no_zeros() -> Result<(), Box<dyn Error>> {
    let exposition = expose(Snapshot { sockets: None, ..sample() })?;
    for gauge in ["connections", "half_open", "accept_queue_length", "close_wait_oldest_seconds"] {
        assert!(!exposition.contains(&format!("tcp_monitor_{gauge}{{")), "{gauge}");
    }
    Ok(())
}

#[test]
fn the_largest_count_is_rounded_and_never_negative_or_in_exponents() -> Result<(), Box<dyn Error>> {
    let port = PortCounters { retransmits: u64::MAX, ..PortCounters::ZERO };
    let kernel = KernelCounts { ports: vec![(PortLabel::Port(1), port)], ..KernelCounts::default() };
    let exposition = expose(Snapshot { kernel, ..Snapshot::default() })?;
    assert!(
        exposition.contains("tcp_monitor_retransmits_total{port=\"1\"} 18446744073709552000\n"),
        "{exposition}"
    );
    Ok(())
}

fn build() -> BuildInfo {
    BuildInfo { version: "0.1.0".to_owned(), kernel: "6.18.15-amd64".to_owned() }
}

fn exporter(snapshot: Result<Snapshot, String>) -> Exporter {
    Exporter::new(Box::new(move || snapshot.clone()), build())
}

fn expose(snapshot: Snapshot) -> Result<String, Box<dyn Error>> {
    Ok(exporter(Ok(snapshot)).expose()?)
}

/// Every series with its value.
fn series(snapshot: Snapshot) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let exposition = expose(snapshot)?;
    let samples = exposition.lines().filter(|line| !line.starts_with('#'));
    Ok(samples
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

/// The metric that a series is of.
fn metric(series: &str) -> String {
    series.split('{').next().unwrap_or_default().to_owned()
}

fn at_rest(reasons_known: bool) -> Snapshot {
    let ports = vec![(PortLabel::Port(80), PortCounters::ZERO)];
    let sockets = Some(vec![(PortLabel::Port(80), PortSockets::default())]);
    Snapshot {
        kernel: KernelCounts { ports, reasons_known, ..KernelCounts::default() },
        sockets,
        tracker: None,
    }
}

/// Some of everything; each number is used once where it can be.
fn sample() -> Snapshot {
    let mut port = PortCounters {
        handshakes: [1001, 1002],
        syn_retransmits: [11, 12],
        retransmits: 13,
        ..PortCounters::ZERO
    };
    port.handshake_failures[Role::Client as usize][HandshakeFailure::Refused as usize] = 21;
    port.handshake_failures[Role::Client as usize][HandshakeFailure::TimedOut as usize] = 22;
    port.handshake_failures[Role::Server as usize][HandshakeFailure::Reset as usize] = 23;
    let transitions = [
        (TcpState::Close, TcpState::Listen, 1),
        (TcpState::Listen, TcpState::SynRecv, 31),
        (TcpState::SynRecv, TcpState::Established, 32),
        (TcpState::Established, TcpState::CloseWait, 33),
        (TcpState::CloseWait, TcpState::LastAck, 34),
        (TcpState::LastAck, TcpState::Close, 35),
    ];
    for (from, to, count) in transitions {
        port.transitions[from as usize][to as usize] = count;
    }
    port.resets_received[ResetPhase::Established as usize] = 41;
    port.resets_sent[ResetPhase::Closing as usize][8] = 42;
    port.resets_sent[ResetPhase::NoSocket as usize][1] = 43;
    port.closed[Role::Server as usize][ClosedBy::Remote as usize] = 44;
    port.closed[Role::Client as usize][ClosedBy::Killed as usize] = 45;
    port.bytes = [46, 47];
    port.accept_queue_overflows = 48;
    port.syn_cookies = [49, 50];
    // 64 µs and less, more than 64 s, more than 268 s.
    port.handshake_durations[Role::Server as usize] = histogram(
        &[(0, 900), (Scale::HANDSHAKE.bounds - 1, 2), (Scale::HANDSHAKE.bounds, 1)],
        500_000_000_000,
    );
    port.connection_durations[Role::Client as usize] = histogram(&[(3, 5)], 200_000_000);
    port.state_durations[0] = histogram(&[(Scale::LIFE.bounds, 1)], 86_400_000_000_000);
    let other = PortCounters { handshakes: [0, 51], ..PortCounters::ZERO };

    let mut eth0 = InterfaceCounters::default();
    eth0.segments[Direction::Ingress as usize][SegmentKind::Syn as usize] = 61;
    eth0.segments[Direction::Egress as usize][SegmentKind::SynAck as usize] = 62;
    let mut eth0_of_a_container = InterfaceCounters::default();
    eth0_of_a_container.segments[Direction::Ingress as usize][SegmentKind::Syn as usize] = 100;

    let mut records = RecordCounters::default();
    records.sent[Kind::State as usize] = 71;
    records.sent[Kind::Segment as usize] = 72;
    records.lost[Kind::Segment as usize] = 73;
    records.suppressed[Kind::Segment as usize] = 76;
    let program = |name: &str, runs, run_time_ns| ProgramRuns { name: name.to_owned(), runs, run_time_ns };
    let kernel = KernelCounts {
        ports: vec![(PortLabel::Other, other), (PortLabel::Port(8899), port)],
        interfaces: vec![
            ("lo".to_owned(), InterfaceCounters::default()),
            ("eth0".to_owned(), eth0),
            ("eth0".to_owned(), eth0_of_a_container),
        ],
        records,
        tables: TableCounters { evictions: [91, 92, 93, 94] },
        programs: vec![
            program("inet_sock_set_state", 81, 1_500_000_000),
            program("tcp_monitor_ingress", 82, 250),
        ],
        reasons_known: true,
        bpf_stats: true,
    };
    Snapshot {
        kernel,
        sockets: Some(sample_sockets()),
        tracker: Some(TrackerCounts { connections: 74, evicted: 75 }),
    }
}

/// A histogram with so many in these buckets.
fn histogram(counts: &[(usize, u64)], sum: u64) -> Histogram {
    let mut histogram = Histogram { sum, ..Histogram::ZERO };
    for (bucket, count) in counts {
        histogram.buckets[*bucket] = *count;
    }
    histogram
}

/// A server's port, and one without a listener.
fn sample_sockets() -> Vec<(PortLabel, PortSockets)> {
    let mut port = PortSockets {
        half_open: 201,
        accept_queue: Some(AcceptQueue { length: 202, limit: 4096 }),
        close_wait_oldest: Duration::from_millis(203_500),
        ..PortSockets::default()
    };
    for (count, state) in (211..).zip(TcpState::ALL) {
        port.states[state as usize] = count;
    }
    port.close_wait_stuck.insert("nginx".to_owned(), 204);
    port.close_wait_stuck.insert("a \"name\"\\\n".to_owned(), 205);
    vec![(PortLabel::Port(8899), port), (PortLabel::Other, PortSockets::default())]
}

/// 1 in each word that only rounds an array up to a power of two.
fn rounded_up() -> PortCounters {
    let mut room = PortCounters::ZERO;
    for reasons in &mut room.handshake_failures {
        reasons[HandshakeFailure::ALL.len()..].fill(1);
    }
    let is_state =
        |number: usize| u8::try_from(number).is_ok_and(|number| TcpState::from_kernel(number).is_some());
    for (from, row) in room.transitions.iter_mut().enumerate() {
        for (to, word) in row.iter_mut().enumerate() {
            *word = (!is_state(from) || !is_state(to)).into();
        }
    }
    room.resets_received[ResetPhase::ALL.len()..].fill(1);
    room.resets_sent[ResetPhase::ALL.len()..].as_flattened_mut().fill(1);
    for ways in &mut room.closed {
        ways[ClosedBy::ALL.len()..].fill(1);
    }
    for histogram in &mut room.handshake_durations {
        histogram.buckets[Scale::HANDSHAKE.bounds + 1..].fill(1);
    }
    for histogram in room.connection_durations.iter_mut().chain(&mut room.state_durations) {
        histogram.buckets[Scale::LIFE.bounds + 1..].fill(1);
    }
    for histogram in &mut room.state_durations[TIMED_STATES.len()..] {
        histogram.words_mut().fill(1);
    }
    room
}
