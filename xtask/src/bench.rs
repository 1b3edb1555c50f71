//! `cargo xtask bench`: measures what kernel programs, tracker, scrapes and captures cost.

use std::env;
use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::process;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which benchmark: `kernel`, `read`, `scrape`, `tracker`; all if none is named.
    names: Vec<OsString>,
}

/// Builds the benchmarks optimised and runs them.
///
/// # Errors
/// If cargo cannot be run.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["bench", "--package", "tcp-monitor"]);
    if arguments.names.is_empty() {
        cargo.args(["--bench", "*"]);
    }
    for name in &arguments.names {
        cargo.arg("--bench").arg(name);
    }
    if !process::is_root() {
        cargo.args(["--config", "target.'cfg(unix)'.runner = ['sudo', '--preserve-env', '--']"]);
    }
    process::exit_code(&mut cargo)
}
