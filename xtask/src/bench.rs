//! `cargo xtask bench`: measures what kernel programs, tracker, scrapes and captures cost.

use std::env;
use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::process;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which benchmark: `kernel`, `churn`, `output`, `read`, `scrape`, `tracker`; all if none is
    /// named. What begins with a hyphen, and all after it, are options of the benchmark: `churn
    /// --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    names: Vec<OsString>,
}

/// Builds the benchmarks optimised and runs them.
///
/// # Errors
/// If cargo cannot be run.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["bench", "--package", "tcp-monitor"]);
    let is_option = |word: &OsString| word.as_encoded_bytes().starts_with(b"-");
    let options = arguments.names.iter().position(is_option).unwrap_or(arguments.names.len());
    let (names, options) = arguments.names.split_at(options);
    if names.is_empty() {
        cargo.args(["--bench", "*"]);
    }
    for name in names {
        cargo.arg("--bench").arg(name);
    }
    if !process::is_root() {
        cargo.args(["--config", "target.'cfg(unix)'.runner = ['sudo', '--preserve-env', '--']"]);
    }
    cargo.arg("--").args(options);
    process::exit_code(&mut cargo)
}
