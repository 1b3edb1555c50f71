//! The `tcp-monitor` command: parses the command line, runs, and says by its exit code how it went.

use std::env;
use std::process::ExitCode;

use tcp_monitor::cli::{Cli, Command};
use tcp_monitor::cmd::{exit_on_usage, monitor, read, say};
use tcp_monitor::kernel::KernelError;

fn main() -> ExitCode {
    // Exits with 2 on wrong usage.
    let cli = Cli::read(env::args_os()).unwrap_or_else(|error| exit_on_usage(&error));
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(default_log_level(&cli)))
        .init();
    let result = match &cli.command {
        None => monitor::run(&cli.monitor),
        Some(Command::Read(options)) => read::run(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("tcp-monitor: {error:#}"));
            ExitCode::from(error.downcast_ref::<KernelError>().map_or(1, KernelError::exit_code))
        }
    }
}

/// What the kernel programs say is of level debug.
fn default_log_level(cli: &Cli) -> &'static str {
    if cli.monitor.kernel_log { "warn,tcp_monitor=debug" } else { "warn" }
}
