//! What a developer of tcp-monitor runs: `cargo xtask <command>`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

mod bench;
mod build_ebpf;
mod debug_info;
mod fuzz;
mod lint_text;
mod process;
mod setup;
mod test;
mod toolchain;
mod vm_test;

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
    /// Measures what kernel programs, tracker, scrapes and captures cost.
    Bench(bench::Arguments),
    /// Looks for inputs that break a rule, with libFuzzer.
    Fuzz(fuzz::Arguments),
    /// Checks how documents and comments are written.
    LintText(lint_text::Arguments),
    /// Tries the agent under other kernels, in virtual machines.
    VmTest(vm_test::Arguments),
    /// Makes the connections of `vm-test`, inside the machine.
    #[command(hide = true)]
    VmTraffic(vm_test::traffic::Arguments),
    /// Runs one test binary for `test`.
    #[command(hide = true)]
    RunTest(test::RunArguments),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(arguments) => setup::run(&arguments),
        Command::BuildEbpf(arguments) => build_ebpf::run(&arguments),
        Command::Test(_) => test::run(),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::LintText(arguments) => lint_text::run(&arguments),
        Command::VmTest(arguments) => vm_test::run(&arguments),
        Command::VmTraffic(arguments) => vm_test::traffic::run(&arguments),
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

/// Where this keeps what it fetched: `$XDG_CACHE_HOME/tcp-monitor`.
fn cache_dir() -> Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute())
    {
        Some(cache) => cache,
        None => std::env::home_dir().context("no home directory: set HOME or XDG_CACHE_HOME")?.join(".cache"),
    };
    Ok(cache.join("tcp-monitor"))
}
