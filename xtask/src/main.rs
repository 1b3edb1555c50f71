//! What a developer of tcp-monitor runs: `cargo xtask <command>`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod build_ebpf;
mod debug_info;
mod process;
mod setup;
mod test;
mod toolchain;

#[path = "../../tcp-monitor/bpf/manifest.rs"]
mod manifest;

/// Chores of tcp-monitor's developers.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs what is missing to build the eBPF object and to run the tests.
    Setup(setup::Arguments),
    /// Rebuilds the eBPF object that is committed in tcp-monitor/bpf.
    BuildEbpf(build_ebpf::Arguments),
    /// Runs every test, the kernel suite as root.
    Test(test::Arguments),
    /// Runs one test binary for `test`.
    #[command(hide = true)]
    RunTest(test::RunArguments),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(arguments) => setup::run(&arguments),
        Command::BuildEbpf(arguments) => build_ebpf::run(&arguments),
        Command::Test(_) => test::run(),
        Command::RunTest(arguments) => test::run_binary(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The root of the workspace this was built in.
fn workspace() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Where cargo builds: `CARGO_TARGET_DIR`, or `target` in the workspace.
fn target_dir() -> Result<PathBuf> {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => Ok(std::path::absolute(dir)?),
        None => Ok(workspace().join("target")),
    }
}
