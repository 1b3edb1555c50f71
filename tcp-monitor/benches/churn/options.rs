//! The options, and the conditions of a run that they make.

use std::fmt;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Measures what short connections cost with a monitor and without.
#[derive(Parser)]
#[command(name = "cargo xtask bench churn")]
pub(crate) struct Options {
    /// Pairs of runs, without and with the monitor
    #[arg(long, default_value_t = 7)]
    pub(crate) pairs: usize,
    /// Seconds that a run lasts
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Connections a second [default: as many as possible]
    #[arg(long)]
    rate: Option<u32>,
    /// Where the connections are made
    #[arg(long, value_enum, default_value_t = Network::Loopback)]
    network: Network,
    /// How the connections are closed
    #[arg(long, value_enum, default_value_t = Closing::Server)]
    close: Closing,
    /// Measure these rows only, by their short names in the table
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Print JSON instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Keep the result in docs/bench/churn.json, and draw it
    #[arg(long)]
    pub(crate) save: bool,
    /// Measure nothing: print and draw the result that was kept
    #[arg(long)]
    pub(crate) saved: bool,
    /// Measure also on a machine that is busy
    #[arg(long)]
    force: bool,
    /// Check that this bench works and that nothing is lost at 4,000 connections a second
    #[arg(long, conflicts_with_all = ["pairs", "seconds", "rate", "network", "close", "only", "json", "save", "saved"])]
    pub(crate) short: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    pub(crate) fn conditions(&self) -> Conditions {
        Conditions {
            network: self.network,
            close: self.close,
            rate: self.rate,
            duration: Duration::from_secs_f64(self.seconds),
            force: self.force,
        }
    }

    pub(crate) fn includes(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// What all runs of a measurement have in common.
pub(crate) struct Conditions {
    pub(crate) network: Network,
    pub(crate) close: Closing,
    /// Connections a second; as many as possible if there is none.
    pub(crate) rate: Option<u32>,
    pub(crate) duration: Duration,
    /// Run on a busy machine too.
    pub(crate) force: bool,
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.network {
            Network::Loopback => f.write_str("loopback, ")?,
            Network::Veth => f.write_str("veth, ")?,
        }
        match self.rate {
            Some(rate) => write!(f, "{rate} connections a second, ")?,
            None => f.write_str("full speed, ")?,
        }
        f.write_str(match self.close {
            Closing::Server => "the server closes first",
            Closing::Client => "the client closes first",
            Closing::Reset => "the client resets",
            Closing::Mixed => "closed in every way",
        })
    }
}

/// Where both ends of the connections are.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// In one namespace
    Loopback,
    /// In two namespaces that a veth pair joins; the server's is monitored
    Veth,
}

/// How connections are closed.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Closing {
    /// The server closes first
    Server,
    /// The client closes first
    Client,
    /// The client resets
    Reset,
    /// Each of these in turn
    Mixed,
}
