//! The kernel suite: the agent on a real kernel, in network namespaces of its own, compared with
//! what `ss`, tcpdump, tshark, /proc and Prometheus report of the same traffic.
//!
//! `trials` has the trials, one file a subject; `support` what they are made of; `workload` the
//! seeded random workloads. CONTRIBUTING.md says how to run the suite, which variables it reads and
//! how to write a trial. A trial that cannot run on this machine is ignored and says why.

mod support;
mod trials;
mod workload;

use std::{env, process::ExitCode};

use anyhow::Result;
use support::{
    command_line::CommandLine,
    disturbance::{self, Disturbance},
    namespace::remove_abandoned,
    peer, skipped_runs,
};

/// How many trials run at a time: they wait more than they compute.
const TRIALS_AT_A_TIME: usize = 2;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let role = match words[..] {
        [peer::PEER, namespace, comm] => peer::run(namespace, comm).map(success),
        [peer::ECHO_CLIENT] => peer::echo_client().map(success),
        [disturbance::FOREIGN_TRAFFIC, ref namespaces @ ..] => disturbance::run(namespaces).map(success),
        _ => run_trials(),
    };
    match role {
        Ok(exit_code) => exit_code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn success(_: ()) -> ExitCode {
    ExitCode::SUCCESS
}

fn run_trials() -> Result<ExitCode> {
    let CommandLine { mut arguments, filters } = CommandLine::parse(env::args_os());
    arguments.test_threads.get_or_insert(TRIALS_AT_A_TIME);
    let mut trials = trials::all();
    trials.retain(|trial| filters.match_name(trial.name()));
    remove_abandoned();
    let disturbance = if arguments.list { None } else { Disturbance::start_if_asked()? };
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(disturbance);
    skipped_runs::remove_tracer();
    Ok(conclusion.exit_code())
}
