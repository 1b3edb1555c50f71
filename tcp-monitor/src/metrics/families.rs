//! Every metric: its name, type, labels and help.

use prometheus::core::Desc;
use prometheus::proto::{self, Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use tcp_monitor_common::counters::{Histogram, Scale};

/// The declaration of a metric with `N` labels.
pub(super) struct Family<const N: usize> {
    name: &'static str,
    kind: MetricType,
    labels: [&'static str; N],
    help: &'static str,
}

impl<const N: usize> Family<N> {
    /// The samples of one scrape, none yet.
    pub(super) const fn samples(&'static self) -> Samples<N> {
        Samples { family: self, metrics: Vec::new() }
    }

    /// What a registry wants to know beforehand.
    fn describe(&self) -> prometheus::Result<Desc> {
        let labels = self.labels.iter().map(|&label| label.to_owned()).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, Default::default())
    }
}

/// The samples of a metric.
pub(super) struct Samples<const N: usize> {
    family: &'static Family<N>,
    metrics: Vec<Metric>,
}

impl<const N: usize> Samples<N> {
    /// Adds one, with the values of the labels in the order of their declaration.
    pub(super) fn push(&mut self, labels: [&str; N], value: f64) {
        let mut metric = self.metric(labels);
        match self.family.kind {
            MetricType::GAUGE => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            MetricType::COUNTER | MetricType::SUMMARY | MetricType::UNTYPED | MetricType::HISTOGRAM => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
        }
        self.metrics.push(metric);
    }

    /// Adds a histogram of durations, in seconds.
    pub(super) fn push_durations(&mut self, labels: [&str; N], scale: Scale, durations: &Histogram) {
        let mut histogram = proto::Histogram::default();
        let (mut count, mut bound) = (0, scale.first);
        let mut buckets = Vec::with_capacity(scale.bounds);
        for in_bucket in &durations.buckets[..scale.bounds] {
            count += in_bucket;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(seconds(bound));
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
            bound *= 4;
        }
        histogram.set_sample_count(count + durations.buckets[scale.bounds]);
        histogram.set_sample_sum(seconds(durations.sum));
        histogram.set_bucket(buckets);
        let mut metric = self.metric(labels);
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    fn metric(&self, labels: [&str; N]) -> Metric {
        let pair = |(name, value): (&&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(value.to_owned());
            pair
        };
        Metric::from_label(self.family.labels.iter().zip(labels).map(pair).collect())
    }

    /// Adds a count. Above 2^53 it is rounded, as every number in Prometheus is.
    pub(super) fn push_count(&mut self, labels: [&str; N], count: u64) {
        self.push(labels, count as f64);
    }

    /// The metric as the encoder takes it, or `None` without samples, which it refuses.
    pub(super) fn finish(self) -> Option<MetricFamily> {
        if self.metrics.is_empty() {
            return None;
        }
        let mut family = MetricFamily::default();
        family.set_name(self.family.name.to_owned());
        family.set_help(self.family.help.to_owned());
        family.set_field_type(self.family.kind);
        family.set_metric(self.metrics);
        Some(family)
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// The description of every metric.
///
/// # Errors
///
/// If a name or a label is none that Prometheus allows.
pub(super) fn describe_all() -> prometheus::Result<Vec<Desc>> {
    Ok(vec![
        HANDSHAKES.describe()?,
        HANDSHAKE_FAILURES.describe()?,
        SYN_RETRANSMITS.describe()?,
        RESETS.describe()?,
        STATE_TRANSITIONS.describe()?,
        RETRANSMITS.describe()?,
        HANDSHAKE_DURATION.describe()?,
        SYN_COOKIES.describe()?,
        ACCEPT_QUEUE_OVERFLOWS.describe()?,
        CONNECTIONS_CLOSED.describe()?,
        CONNECTION_DURATION.describe()?,
        STATE_DURATION.describe()?,
        BYTES.describe()?,
        SEGMENTS.describe()?,
        EVENTS.describe()?,
        EVENTS_LOST.describe()?,
        EVENTS_SUPPRESSED.describe()?,
        TABLE_EVICTIONS.describe()?,
        TRACKER_CONNECTIONS.describe()?,
        TRACKER_EVICTED.describe()?,
        BPF_RUN_SECONDS.describe()?,
        BPF_RUNS.describe()?,
        BUILD_INFO.describe()?,
        CONNECTIONS.describe()?,
        HALF_OPEN.describe()?,
        ACCEPT_QUEUE_LENGTH.describe()?,
        ACCEPT_QUEUE_LIMIT.describe()?,
        CLOSE_WAIT_OLDEST.describe()?,
        CLOSE_WAIT_STUCK.describe()?,
    ])
}

pub(super) static HANDSHAKES: Family<2> = Family {
    name: "tcp_monitor_handshakes_total",
    kind: MetricType::COUNTER,
    labels: ["role", "port"],
    help: "Completed handshakes: sockets that became ESTABLISHED. role=server were accepted by a listener (PassiveOpens \
           of /proc/net/snmp less the children that died before ESTABLISHED), role=client connected.",
};

pub(super) static HANDSHAKE_FAILURES: Family<3> = Family {
    name: "tcp_monitor_handshake_failures_total",
    kind: MetricType::COUNTER,
    labels: ["role", "port", "reason"],
    help: "Handshakes begun and not completed. Client: what connect() reported, or aborted if the application closed the \
           socket first. Server: reset, the peer answered the SYN-ACK with a RST; timed_out, it did not answer (found by \
           the agent, up to 3 s late); accept_queue_full and syn_dropped, a listener dropped the SYN, each SYN counting; \
           no_listener, a RST answered the SYN.",
};

pub(super) static SYN_RETRANSMITS: Family<2> = Family {
    name: "tcp_monitor_syn_retransmits_total",
    kind: MetricType::COUNTER,
    labels: ["role", "port"],
    help: "SYNs (role=client) and SYN-ACKs (role=server) sent again. The sum equals TCPSynRetrans of /proc/net/netstat, less \
           attempts that failed on this host.",
};

pub(super) static RESETS: Family<4> = Family {
    name: "tcp_monitor_resets_total",
    kind: MetricType::COUNTER,
    labels: ["direction", "port", "phase", "reason"],
    help: "RSTs, once each, by the phase of the connection they ended. reason is the sk_rst_reason of the kernel for \
           those sent on Linux 6.12 and later, where the sum of direction=sent equals OutRsts of /proc/net/snmp; \
           else unknown, and those sent without a full socket are not seen. Of those received, full sockets and half-open \
           requests ignore the ones that do not have the sequence number they expect: these are not counted. phase=no_socket: \
           a RST of no connection; all but those of full sockets are seen on watched interfaces only.",
};

pub(super) static STATE_TRANSITIONS: Family<3> = Family {
    name: "tcp_monitor_state_transitions_total",
    kind: MetricType::COUNTER,
    labels: ["port", "from", "to"],
    help: "State transitions of connections: of sockets as the kernel reports them (inet_sock_set_state), of half-open \
           requests (new_syn_recv) and of those that wait for the peer's FIN after close() as their segments show. The end \
           of TIME_WAIT, and of FIN_WAIT2 when the kernel gives up such a wait, is found by the agent at a scrape: who \
           entered a state, was not seen to leave it and is not there any more has gone to close.",
};

pub(super) static RETRANSMITS: Family<1> = Family {
    name: "tcp_monitor_retransmits_total",
    kind: MetricType::COUNTER,
    labels: ["port"],
    help: "Segments of data, or of a FIN, sent again: RetransSegs of /proc/net/snmp less syn_retransmits_total \
           and attempts that failed on this host.",
};

pub(super) static HANDSHAKE_DURATION: Family<2> = Family {
    name: "tcp_monitor_handshake_duration_seconds",
    kind: MetricType::HISTOGRAM,
    labels: ["role", "port"],
    help: "Time from the first SYN to ESTABLISHED, of completed handshakes whose SYN was seen; those by SYN cookie have none.",
};

pub(super) static SYN_COOKIES: Family<2> = Family {
    name: "tcp_monitor_syn_cookies_total",
    kind: MetricType::COUNTER,
    labels: ["port", "result"],
    help: "SYNs answered with a SYN cookie (result=sent), and connections that began with one (result=accepted): \
           SyncookiesSent and SyncookiesRecv of /proc/net/netstat.",
};

pub(super) static ACCEPT_QUEUE_OVERFLOWS: Family<1> = Family {
    name: "tcp_monitor_accept_queue_overflows_total",
    kind: MetricType::COUNTER,
    labels: ["port"],
    help: "SYNs, and last ACKs of handshakes, that a listener dropped because its accept queue was full: ListenOverflows \
           of /proc/net/netstat.",
};

pub(super) static CONNECTIONS_CLOSED: Family<3> = Family {
    name: "tcp_monitor_connections_closed_total",
    kind: MetricType::COUNTER,
    labels: ["port", "role", "closed_by"],
    help: "Connections that ended, on entry to TIME_WAIT or CLOSE. closed_by=local: this end sent the first FIN; remote: the \
           peer did; both: at once; local_reset, remote_reset: by a RST; timed_out; killed: by an administrator (ss -K).",
};

pub(super) static CONNECTION_DURATION: Family<2> = Family {
    name: "tcp_monitor_connection_duration_seconds",
    kind: MetricType::HISTOGRAM,
    labels: ["port", "role"],
    help: "Time from ESTABLISHED to the end, of connections that ended and whose beginning was seen.",
};

pub(super) static STATE_DURATION: Family<2> = Family {
    name: "tcp_monitor_state_duration_seconds",
    kind: MetricType::HISTOGRAM,
    labels: ["port", "state"],
    help: "Time spent in a state, counted when it is left; of fin_wait2 after close(), when the peer's FIN or a RST comes, and \
           not when the kernel gives up waiting.",
};

pub(super) static BYTES: Family<2> = Family {
    name: "tcp_monitor_bytes_total",
    kind: MetricType::COUNTER,
    labels: ["port", "direction"],
    help: "Payload of connections that ended: acknowledged by the peer (direction=sent), and received in order \
           (direction=received).",
};

pub(super) static SEGMENTS: Family<3> = Family {
    name: "tcp_monitor_segments_total",
    kind: MetricType::COUNTER,
    labels: ["interface", "direction", "flags"],
    help: "SYN, SYN-ACK, FIN and RST segments of watched ports that passed the traffic control hook of the interface. \
           A packet counts on each interface it passes: on a bridge and its port, on a bond and its member.",
};

pub(super) static EVENTS: Family<1> = Family {
    name: "tcp_monitor_events_total",
    kind: MetricType::COUNTER,
    labels: ["kind"],
    help: "Records that the kernel programs sent to the agent for the live log.",
};

pub(super) static EVENTS_LOST: Family<1> = Family {
    name: "tcp_monitor_events_lost_total",
    kind: MetricType::COUNTER,
    labels: ["kind"],
    help: "Records that the live log lacks because the ring buffer was full. All other metrics are unaffected.",
};

pub(super) static EVENTS_SUPPRESSED: Family<1> = Family {
    name: "tcp_monitor_events_suppressed_total",
    kind: MetricType::COUNTER,
    labels: ["kind"],
    help: "Records that the live log lacks because what is left of the ring buffer is kept for others: those of segments, and of \
           RSTs and SYN-ACKs sent without a full socket, leave half of it, those of state transitions an eighth. All other metrics \
           are unaffected.",
};

pub(super) static TABLE_EVICTIONS: Family<1> = Family {
    name: "tcp_monitor_table_evictions_total",
    kind: MetricType::COUNTER,
    labels: ["table"],
    help: "How often a full table of the kernel programs evicted an entry, or did not take one. acks: an ACK may be missing in the \
           log, or one that met a full accept queue in the counters; socket_times: durations of a socket are not counted; requests: a half-open request that is reset or times out \
           is not counted; fin_wait2_timewait: nor is what ends a FIN_WAIT2 after close().",
};

pub(super) static TRACKER_CONNECTIONS: Family<0> = Family {
    name: "tcp_monitor_tracker_connections",
    kind: MetricType::GAUGE,
    labels: [],
    help: "Sockets that the live log follows now, those in TIME_WAIT included. Counted in the agent.",
};

pub(super) static TRACKER_EVICTED: Family<0> = Family {
    name: "tcp_monitor_tracker_evicted_total",
    kind: MetricType::COUNTER,
    labels: [],
    help: "How often the live log had to forget something because one of its tables was full; lines on that connection may \
           lack fields, or be missing. Counted in the agent. All other metrics are unaffected.",
};

pub(super) static BPF_RUN_SECONDS: Family<1> = Family {
    name: "tcp_monitor_bpf_run_seconds_total",
    kind: MetricType::COUNTER,
    labels: ["program"],
    help: "CPU time that the kernel program took, while the kernel measures it (--bpf-stats).",
};

pub(super) static BPF_RUNS: Family<1> = Family {
    name: "tcp_monitor_bpf_runs_total",
    kind: MetricType::COUNTER,
    labels: ["program"],
    help: "Runs of the kernel program, while the kernel counts them (--bpf-stats).",
};

pub(super) static BUILD_INFO: Family<2> = Family {
    name: "tcp_monitor_build_info",
    kind: MetricType::GAUGE,
    labels: ["version", "kernel"],
    help: "Always 1: the version of tcp-monitor and the release of the kernel it runs on.",
};

pub(super) static CONNECTIONS: Family<2> = Family {
    name: "tcp_monitor_connections",
    kind: MetricType::GAUGE,
    labels: ["port", "state"],
    help: "Sockets now, by state, as the kernel lists them to the agent (sock_diag, as `ss -tan`): listeners, half-open requests \
           (syn_recv) and TIME_WAIT included.",
};

pub(super) static HALF_OPEN: Family<1> = Family {
    name: "tcp_monitor_half_open",
    kind: MetricType::GAUGE,
    labels: ["port"],
    help: "Requests that wait for the last ACK of the handshake now. Listed by the kernel (sock_diag).",
};

pub(super) static ACCEPT_QUEUE_LENGTH: Family<1> = Family {
    name: "tcp_monitor_accept_queue_length",
    kind: MetricType::GAUGE,
    labels: ["port"],
    help: "Connections that wait to be accepted now, of all listeners on the port: Recv-Q of `ss -ltn`. Listed by the kernel \
           (sock_diag).",
};

pub(super) static ACCEPT_QUEUE_LIMIT: Family<1> = Family {
    name: "tcp_monitor_accept_queue_limit",
    kind: MetricType::GAUGE,
    labels: ["port"],
    help: "The backlog of all listeners on the port: Send-Q of `ss -ltn`. A queue longer than its limit drops handshakes. \
           Listed by the kernel (sock_diag).",
};

pub(super) static CLOSE_WAIT_OLDEST: Family<1> = Family {
    name: "tcp_monitor_close_wait_oldest_seconds",
    kind: MetricType::GAUGE,
    labels: ["port"],
    help: "How long the oldest socket in CLOSE_WAIT has been in it, 0 if none is: the peer has closed, the process here has not. \
           Known from when the agent first saw it there, or from the peer's last acknowledgment, if that is earlier.",
};

pub(super) static CLOSE_WAIT_STUCK: Family<2> = Family {
    name: "tcp_monitor_close_wait_stuck",
    kind: MetricType::GAUGE,
    labels: ["port", "process"],
    help: "Sockets in CLOSE_WAIT for longer than --stuck-after, by the command name of a process that holds them (of the \
           listener, if they are not accepted; unknown, if none is found). After 64 names, others are `other`.",
};
