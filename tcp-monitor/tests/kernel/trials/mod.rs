//! The trials, one file a subject. A file that is not listed here twice, as module and in [`all`],
//! runs nothing.

mod cleanup;
mod concurrent_connections;
mod connection_identity;
mod existing_connections;
mod failed_connects;
mod fin_wait2_timewait;
mod gauges;
mod half_open_requests;
mod handshake;
mod inferred;
mod interfaces;
mod lost_segments;
mod metrics;
mod packet_lists;
mod port_filter;
mod port_reuse;
mod processes;
mod prometheus_rules;
mod recording;
mod repeated_attempts;
mod run_end;
mod selfcheck;
mod sequence_numbers;
mod simultaneous_open;
mod states;
mod stopped_agent;
mod syn_flood;
mod time_namespace;
mod time_wait;
mod traffic_matrix;
mod usage_errors;
mod workloads;

use libtest_mimic::Trial;

/// Every trial, in the order in which they begin.
pub(crate) fn all() -> Vec<Trial> {
    let (enters_time_wait, leaves_time_wait) = time_wait::trials();
    let trials = [
        vec![enters_time_wait],
        handshake::trials(),
        selfcheck::trials(),
        traffic_matrix::trials(),
        sequence_numbers::trials(),
        lost_segments::trials(),
        states::trials(),
        fin_wait2_timewait::trials(),
        port_reuse::trials(),
        failed_connects::trials(),
        simultaneous_open::trials(),
        inferred::trials(),
        port_filter::trials(),
        processes::trials(),
        connection_identity::trials(),
        metrics::trials(),
        prometheus_rules::trials(),
        existing_connections::trials(),
        gauges::trials(),
        workloads::trials(),
        repeated_attempts::trials(),
        half_open_requests::trials(),
        stopped_agent::trials(),
        concurrent_connections::trials(),
        syn_flood::trials(),
        packet_lists::trials(),
        interfaces::trials(),
        time_namespace::trials(),
        run_end::trials(),
        cleanup::trials(),
        recording::trials(),
        usage_errors::trials(),
        vec![leaves_time_wait],
    ];
    trials.into_iter().flatten().collect()
}
