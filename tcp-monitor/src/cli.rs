//! The command line: every flag with its unit, range and default, and the help that explains them.

mod manual;
mod monitor;
mod read;
mod report;
mod values;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

pub use monitor::Monitor;
pub use read::Read;
pub use report::Report;
pub use values::{
    ColorMode, InterfaceName, Listen, NetnsOption, OutputFormat, RingSize, TextView, ValueError,
};

/// What `tcp-monitor` was asked to do. Without a subcommand: monitor.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tcp-monitor",
    version,
    about = manual::ABOUT,
    long_about = manual::LONG_ABOUT,
    after_help = manual::AFTER_SHORT_HELP,
    after_long_help = manual::AFTER_LONG_HELP,
    max_term_width = 100,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// What else to do than to monitor.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to monitor.
    #[command(flatten)]
    pub monitor: Monitor,
}

/// A subcommand.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Explain the connections of capture files
    Read(Read),
}

impl Cli {
    /// Reads a command line, whose first argument is the name of the program.
    ///
    /// # Errors
    ///
    /// What is wrong with it, or the help that it asks for.
    pub fn read(
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let cli = Self::try_parse_from(arguments)?;
        let contradiction = match &cli.command {
            Some(Command::Read(read)) => read.report.contradiction(),
            None => cli.monitor.contradiction(),
        };
        match contradiction {
            Some(contradiction) => Err(Self::command().error(ErrorKind::ArgumentConflict, contradiction)),
            None => Ok(cli),
        }
    }
}

const WATCH: &str = "What to watch";
const REPORT: &str = "What to report";
const STOP: &str = "When to stop";
const TUNE: &str = "Tuning and diagnosis";

#[cfg(test)]
mod tests;
