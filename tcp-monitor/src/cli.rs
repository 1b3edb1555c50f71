//! The command line: every flag with its unit, range and default, and the help that explains them.

mod manual;
mod values;

use std::num::NonZeroU64;
use std::time::Duration;

use clap::{Args, Parser};

use crate::ports::PortSet;

pub use values::{ColorMode, InterfaceName, Listen, Netns, Output, RingSize, ValueError};

/// What `tcp-monitor` was asked to do. Without a subcommand: monitor.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tcp-monitor",
    version,
    about = manual::ABOUT,
    long_about = manual::LONG_ABOUT,
    after_help = manual::AFTER_SHORT_HELP,
    after_long_help = manual::AFTER_LONG_HELP,
    max_term_width = 100
)]
pub struct Cli {
    /// How to monitor.
    #[command(flatten)]
    pub monitor: Monitor,
}

/// The flags of monitoring.
#[derive(Clone, Debug, Args)]
pub struct Monitor {
    /// Watch these service ports only [default: all ports]
    ///
    /// A port, a range or a comma list of both, each from 1 to 65535: 8899, 12000-12010, 80,443,8000-8100. May be
    /// given more than once. The service port is the local port of a socket that listens or was accepted, and the
    /// remote port of one that connected: --port 443 shows the connections to a web server here as well as those
    /// from here to web servers elsewhere.
    ///
    /// Watching few ports is cheap on a busy host: the kernel programs let go of other sockets at once.
    #[arg(short, long = "port", value_name = "PORTS", help_heading = WATCH)]
    pub ports: Vec<PortSet>,

    /// Watch segments on this interface only [default: all interfaces]
    ///
    /// May be given more than once. By default every interface is watched, and new ones as they come and go.
    ///
    /// They are those of the namespace that tcp-monitor runs in, or of the one that --netns names.
    ///
    /// This limits the segment classifier: the SYN, ACK, FIN and RST lines of the log and the metric
    /// tcp_monitor_segments_total. It does not limit the socket tracepoints: states, handshakes, resets and
    /// retransmissions are those of all sockets, whichever interface their packets use. One exception: a RST that reaches
    /// a socket closed in both directions, in FIN_WAIT1 or FIN_WAIT2, counts only if its interface is watched.
    #[arg(short, long = "interface", value_name = "NAME", help_heading = WATCH)]
    pub interfaces: Vec<InterfaceName>,

    /// Watch these network namespaces: all, self or a name
    ///
    /// `all` is every network namespace of the host, containers included. `self` is only the one tcp-monitor runs in.
    /// Anything else is a name that `ip netns` lists, which is a file in /run/netns.
    #[arg(long, value_name = "WHICH", default_value = "all", help_heading = WATCH)]
    pub netns: Netns,

    /// Give at most N ports metrics of their own
    ///
    /// From 1 to 4096. Ports named with --port get them lowest first, else ports get them as they are first seen; all
    /// further ports, and without --port the ephemeral ones, are counted together under port="other". Each costs about
    /// 4 KiB of memory per CPU, and 90 series or 8 KiB of each scrape.
    #[arg(
        long, value_name = "N", default_value_t = 256, value_parser = values::max_ports(),
        help_heading = WATCH
    )]
    pub max_ports: u16,

    /// What to write to standard output
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t, help_heading = REPORT)]
    pub output: Output,

    /// Colour the text log
    ///
    /// `auto` colours it when standard output is a terminal and the environment variable NO_COLOR is unset or empty.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, help_heading = REPORT)]
    pub color: ColorMode,

    /// Serve Prometheus metrics on this address, or none
    ///
    /// An IP address and a port; `none` turns the endpoint off. 127.0.0.1 can be reached from this host only: to be
    /// scraped from another, give an address of this host, or 0.0.0.0 or `[::]` for all of them. There is neither
    /// authentication nor encryption, so keep it where only your Prometheus can reach it.
    ///
    /// Paths: /metrics, /healthz (200 while monitoring works, else 503) and / (a page with links to both).
    #[arg(long, value_name = "ADDR:PORT", default_value_t, help_heading = REPORT)]
    pub listen: Listen,

    /// Stop after N events
    ///
    /// From 1 up. An event is what --output writes as one line.
    #[arg(short, long, value_name = "N", help_heading = STOP)]
    pub count: Option<NonZeroU64>,

    /// Stop after this time
    ///
    /// In seconds, or with a unit: 30, 1.5, 10s, 5m, 2h. More than 0, at most 8760h, which is one year.
    #[arg(long, value_name = "SECS", value_parser = values::parse_duration, help_heading = STOP)]
    pub duration: Option<Duration>,

    /// Size of the ring buffer between kernel and agent, in bytes
    ///
    /// A power of two from 4K to 1G, with the suffix K, M or G for 1024, 1024² or 1024³ bytes. A short connection
    /// makes 12 to 17 records of up to 160 bytes, so 4M holds a burst of about 1,500 connections. When it is full the
    /// log loses lines, and says how many; metrics lose nothing.
    #[arg(long, value_name = "BYTES", default_value_t, help_heading = TUNE)]
    pub ring_size: RingSize,

    /// Measure what the kernel programs cost
    ///
    /// Turns on the kernel's accounting of run times (as the sysctl kernel.bpf_stats_enabled does, for as long as
    /// tcp-monitor runs) and serves it as tcp_monitor_bpf_run_seconds_total and tcp_monitor_bpf_runs_total. The
    /// accounting itself costs some 20 ns a run, of all BPF programs of the host.
    #[arg(long, help_heading = TUNE)]
    pub bpf_stats: bool,

    /// Print diagnostics of the kernel programs to standard error
    ///
    /// For reports of bugs. Slow on a busy host.
    #[arg(long, help_heading = TUNE)]
    pub kernel_log: bool,

    /// Attach classifiers through a clsact queueing discipline even where the kernel has TCX.
    #[arg(long, hide = true)]
    pub force_clsact: bool,
}

impl Monitor {
    /// All watched ports; the empty set stands for every port.
    #[must_use]
    pub fn port_set(&self) -> PortSet {
        self.ports.iter().collect()
    }
}

const WATCH: &str = "What to watch";
const REPORT: &str = "What to report";
const STOP: &str = "When to stop";
const TUNE: &str = "Tuning and diagnosis";

#[cfg(test)]
mod tests;
