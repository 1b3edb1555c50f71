//! The flags of `tcp-monitor read`.

use std::path::PathBuf;

use clap::Args;

use super::WATCH;
use super::manual;
use super::report::Report;
use crate::ports::PortSet;

/// Explains the connections of capture files. Needs no privilege.
#[derive(Clone, Debug, Args)]
#[command(after_help = manual::AFTER_READ_HELP)]
pub struct Read {
    /// The captures: pcap or pcapng, compressed by gzip or not; `-` is standard input
    ///
    /// Several files are read one after the other, as parts of one capture. If a file begins more
    /// than 100 ms before the end of the previous one, a warning is printed and the file is read as
    /// a separate capture.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// Explain connections of these ports only [default: all ports]
    ///
    /// A port, a range or a comma list of both, each from 1 to 65535. May be given more than once.
    /// Either end of a connection may have the port.
    #[arg(short, long = "port", value_name = "PORTS", allow_negative_numbers = true, help_heading = WATCH)]
    pub ports: Vec<PortSet>,

    /// What to report.
    #[command(flatten)]
    pub report: Report,
}

impl Read {
    /// The selected ports; the empty set means all ports.
    #[must_use]
    pub fn port_set(&self) -> PortSet {
        self.ports.iter().collect()
    }
}
