//! The kernel suite: the agent on a real kernel, in network namespaces of its own, against what `ss`, tcpdump, tshark, /proc
//! and Prometheus say of the same traffic.
//!
//! Run it as root: `cargo test --test kernel`. A trial that cannot run on this machine is ignored and says why. With
//! `KERNEL_SUITE_CAPTURE_ONLY=1` and the filter `tshark`, traffic and capture are tried without the agent; with
//! `KERNEL_SUITE_AGENT=path`, the agent is another binary than the one cargo built. With `KERNEL_SUITE_RECORD=directory`,
//! the captures of the scenarios are kept there.

mod actor;
mod acts;
mod agent;
mod agreement;
mod capture;
mod counting;
mod crossing;
mod crowd;
mod failures;
mod feed;
mod flood;
mod forge;
mod forged;
mod found;
mod gauges;
mod identities;
mod inferred;
mod interfaces;
mod job;
mod leftovers;
mod lifetime;
mod lists;
mod matrix;
mod metrics;
mod namespace;
mod napi;
mod numbers;
mod offline;
mod opening;
mod orphans;
mod packet;
mod pcapng;
mod peer;
mod ports;
mod processes;
mod queues;
mod reconcile;
mod recording;
mod records;
mod requests;
mod retries;
mod reuse;
mod rules;
mod scrape;
mod segments;
mod selfcheck;
mod sockets;
mod spoofed;
mod stage;
mod stall;
mod states;
mod steps;
mod stranger;
mod timewait;
mod topology;
mod traffic;
mod trial;
mod tun;
mod usage;
mod wire;
mod withheld;
mod workload;

use std::{env, process::ExitCode};

use libtest_mimic::Arguments;

/// How many trials run at a time: they wait more than they compute, and deadlines must hold on two cores.
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
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(TRIALS_AT_A_TIME);
    let (whole_closes, their_ends) = timewait::trials();
    let trials = [
        vec![whole_closes],
        selfcheck::trials(),
        matrix::trials(),
        numbers::trials(),
        crossing::trials(),
        states::trials(),
        orphans::trials(),
        reuse::trials(),
        failures::trials(),
        opening::trials(),
        inferred::trials(),
        ports::trials(),
        processes::trials(),
        metrics::trials(),
        rules::trials(),
        found::trials(),
        gauges::trials(),
        reconcile::trials(),
        retries::trials(),
        requests::trials(),
        stall::trials(),
        crowd::trials(),
        flood::trials(),
        lists::trials(),
        interfaces::trials(),
        lifetime::trials(),
        leftovers::trials(),
        pcapng::trials(),
        usage::trials(),
        vec![their_ends],
    ];
    let conclusion = libtest_mimic::run(&arguments, trials.into_iter().flatten().collect());
    withheld::forget();
    conclusion.exit_code()
}
