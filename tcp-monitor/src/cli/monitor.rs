//! The flags of monitoring: of `tcp-monitor` without a subcommand.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::report::Report;
use super::values::{self, InterfaceName, Listen, NetnsOption, OutputFormat, RingSize};
use super::{REPORT, STOP, TUNE, WATCH};
use crate::ports::PortSet;

/// The flags of monitoring.
#[derive(Clone, Debug, Args)]
pub struct Monitor {
    /// Watch these service ports only [default: all ports]
    ///
    /// A port, a range or a comma list of both, each from 1 to 65535: 8899, 12000-12010,
    /// 80,443,8000-8100. May be given more than once. The service port is the local port of a
    /// socket that listens or was accepted, and the remote port of one that connected: --port 443
    /// shows the connections to a web server here as well as those from here to web servers
    /// elsewhere.
    ///
    /// Watching few ports is cheap on a busy host: the kernel programs skip other sockets at once.
    #[arg(short, long = "port", value_name = "PORTS", allow_negative_numbers = true, help_heading = WATCH)]
    pub ports: Vec<PortSet>,

    /// Watch segments on this interface only [default: all interfaces]
    ///
    /// May be given more than once. By default all interfaces are watched, also those that appear
    /// later.
    ///
    /// The name is looked up in the namespace that tcp-monitor runs in, or in the one that --netns
    /// names.
    ///
    /// This limits what is known from segments: the SYN, ACK, FIN and RST lines of the log, the
    /// metric tcp_monitor_segments_total, and in the metrics by port: why handshakes of a server
    /// failed, SYN cookies, half-open connections, how FIN_WAIT2 ends after close(), and a RST in
    /// FIN_WAIT1 or FIN_WAIT2 after reading was shut down. It does not limit what sockets report:
    /// all other states, handshakes, resets and retransmissions, on every interface.
    #[arg(short, long = "interface", value_name = "NAME", help_heading = WATCH)]
    pub interfaces: Vec<InterfaceName>,

    /// Watch these network namespaces: all, self or a name
    ///
    /// `all` is every network namespace of the host, containers included. `self` is only the one
    /// tcp-monitor runs in. Anything else is a name that `ip netns` lists: a file in /run/netns.
    #[arg(long, value_name = "WHICH", default_value = "all", help_heading = WATCH)]
    pub netns: NetnsOption,

    /// Give at most N ports metrics of their own
    ///
    /// From 1 to 4096. With --port, the lowest ports get them. Without, the ports in use at the
    /// start, then others as they are first seen. All further ports, and without --port the
    /// ephemeral ones, are counted together under port="other". Each port costs about 6 KiB of
    /// memory per CPU, and about 280 series or 23 KiB of each scrape.
    #[arg(
        long, value_name = "N", default_value_t = 256, value_parser = values::parse_max_ports,
        allow_negative_numbers = true, help_heading = WATCH
    )]
    pub max_ports: u16,

    /// Report sockets that stay in CLOSE_WAIT for longer than this
    ///
    /// In seconds, or with a unit: 30, 1.5, 10s, 5m, 2h. The peer of such a socket has closed the
    /// connection and the process here has not: most often a bug of that process. The log reports a
    /// socket when it reaches this age, and again each time its age has doubled. The metric
    /// tcp_monitor_close_wait_stuck counts such sockets by process.
    #[arg(
        long, value_name = "SECS", default_value = "60s", value_parser = values::parse_duration,
        allow_hyphen_values = true, help_heading = REPORT
    )]
    pub stuck_after: Duration,

    /// What to report.
    #[command(flatten)]
    pub report: Report,

    /// Record the segments in a capture file, for Wireshark and tshark
    ///
    /// A pcapng file with the segments of the log: SYN, SYN-ACK, ACK, FIN and RST. Other lines of
    /// the log are comments on these packets. Data is not recorded. TCP headers are as on the wire,
    /// IP headers are rebuilt from the addresses. An existing file is overwritten. --output is
    /// written as well.
    ///
    /// `-` is standard output, and needs --output none; the run ends when its reader exits. A named
    /// pipe must already have a reader. If the disk is full or a pipe loses its reader, an error is
    /// printed, monitoring continues, and the exit code is 1.
    #[arg(short, long, value_name = "FILE", help_heading = REPORT)]
    pub write: Option<PathBuf>,

    /// Serve Prometheus metrics on this address, or none
    ///
    /// An IP address and a port; `none` turns the endpoint off. 127.0.0.1 can be reached from this
    /// host only: to be scraped from another, give an address of this host, or 0.0.0.0 or `[::]`
    /// for all of them. There is neither authentication nor encryption: use an address that only
    /// your Prometheus can reach.
    ///
    /// Paths: /metrics, /healthz (200 while monitoring works, else 503) and / (a page with links to
    /// both).
    #[arg(long, value_name = "ADDR:PORT", default_value_t, help_heading = REPORT)]
    pub listen: Listen,

    /// Stop after this time
    ///
    /// In seconds, or with a unit: 30, 1.5, 10s, 5m, 2h. More than 0, at most 8760h, which is one
    /// year.
    #[arg(
        long, value_name = "SECS", value_parser = values::parse_duration, allow_hyphen_values = true,
        help_heading = STOP
    )]
    pub duration: Option<Duration>,

    /// Size of the ring buffer between kernel and agent, in bytes
    ///
    /// A power of two from 4K to 1G, with the suffix K, M or G for KiB, MiB or GiB. A short
    /// connection makes 12 to 17 records of up to 160 bytes, so 4M holds a burst of about 1,500
    /// connections. When it is full the log loses events, and reports how many. Metrics lose
    /// nothing.
    #[arg(long, value_name = "BYTES", default_value_t, allow_hyphen_values = true, help_heading = TUNE)]
    pub ring_size: RingSize,

    /// Measure what the kernel programs cost
    ///
    /// Turns on the kernel's accounting of run times while tcp-monitor runs, as the sysctl
    /// kernel.bpf_stats_enabled does. The metrics tcp_monitor_bpf_run_seconds_total and
    /// tcp_monitor_bpf_runs_total show it, and a table is printed at the end. The accounting costs
    /// about 20 ns for each run of any BPF program of the host.
    #[arg(long, help_heading = TUNE)]
    pub bpf_stats: bool,

    /// Print diagnostics of the kernel programs to standard error
    ///
    /// For bug reports. Slow on a busy host.
    #[arg(long, help_heading = TUNE)]
    pub kernel_log: bool,

    /// Attach classifiers through a clsact queueing discipline even if the kernel has TCX.
    #[arg(long, hide = true)]
    pub force_clsact: bool,
}

impl Monitor {
    /// The watched ports; the empty set means all ports.
    #[must_use]
    pub fn port_set(&self) -> PortSet {
        self.ports.iter().collect()
    }

    /// The message for flags that contradict each other, if there are any.
    pub(super) fn contradiction(&self) -> Option<&'static str> {
        let records_to_stdout = self.write.as_deref() == Some(Path::new("-"));
        if records_to_stdout && self.report.output != OutputFormat::None {
            return Some("'--write -' needs standard output for the recording: add '--output none'");
        }
        self.report.contradiction()
    }
}
