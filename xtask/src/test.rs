//! `cargo xtask test`: every test with one command, the kernel suite as root.

use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};

use crate::process;

/// The test target that loads programs into the kernel: `tcp-monitor/tests/kernel`.
const KERNEL_SUITE: &str = "kernel-";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// For `cargo test`: `--test kernel`, the name of a test, `-- --ignored`, …
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

#[derive(clap::Args)]
pub(crate) struct RunArguments {
    binary: OsString,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds and runs the tests. The exit code is that of `cargo test`.
///
/// # Errors
/// If cargo cannot be run.
pub(crate) fn run() -> Result<ExitCode> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--workspace", "--exclude", "tcp-monitor-ebpf"]);
    if !process::is_root() {
        if may_use_sudo() {
            let xtask = env::current_exe().context("cannot find the program that runs")?;
            cargo.arg("--config").arg(format!("target.'cfg(unix)'.runner = [{xtask:?}, 'run-test']"));
        } else {
            eprintln!(
                "neither root nor sudo: the kernel suite ignores its trials; run this as root for all tests"
            );
        }
    }
    // Not as parsed: clap removes a leading `--`.
    process::exit_code(cargo.args(env::args_os().skip(2)))
}

/// Runs a test binary: the kernel suite with sudo, any other as it is.
///
/// # Errors
/// If it cannot be run.
pub(crate) fn run_binary(arguments: &RunArguments) -> Result<ExitCode> {
    let name = Path::new(&arguments.binary).file_name().unwrap_or_default();
    let mut command = if name.to_string_lossy().starts_with(KERNEL_SUITE) {
        let mut sudo = Command::new("sudo");
        sudo.args(["--preserve-env", "--"]).arg(&arguments.binary);
        sudo
    } else {
        Command::new(&arguments.binary)
    };
    process::exit_code(command.args(&arguments.arguments))
}

/// Whether sudo runs a command. Asks for the password if there is a terminal.
fn may_use_sudo() -> bool {
    let mut sudo = Command::new("sudo");
    if io::stdin().is_terminal() {
        sudo.arg("--validate");
    } else {
        sudo.args(["--non-interactive", "true"]).stderr(Stdio::null());
    }
    sudo.status().is_ok_and(|status| status.success())
}
