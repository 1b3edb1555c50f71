//! The kernel suite: the agent on a real kernel, in network namespaces of its own, compared with what `ss`, tcpdump, tshark,
//! /proc and Prometheus report of the same traffic.
//!
//! `trials` has the trials, one file a subject; `support` what they are made of; `workload` the seeded random workloads.
//! CONTRIBUTING.md says how to run the suite, which variables it reads and how to write a trial. A trial that cannot run on
//! this machine is ignored and says why.

mod support;
mod trials;
mod workload;

use std::{env, process::ExitCode};

use libtest_mimic::Trial;
use support::{command_line::CommandLine, peer, skipped_runs};

/// How many trials run at a time: they wait more than they compute.
const TRIALS_AT_A_TIME: usize = 2;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let role = match words[..] {
        [peer::PEER, namespace, comm] => peer::run(namespace, comm),
        [peer::ECHO_CLIENT] => peer::echo_client(),
        _ => return run_trials(),
    };
    match role {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_trials() -> ExitCode {
    let CommandLine { mut arguments, filters } = CommandLine::parse(env::args_os());
    arguments.test_threads.get_or_insert(TRIALS_AT_A_TIME);
    let mut trials: Vec<Trial> = trials::all();
    trials.retain(|trial| filters.match_name(trial.name()));
    let conclusion = libtest_mimic::run(&arguments, trials);
    skipped_runs::remove_tracer();
    conclusion.exit_code()
}
