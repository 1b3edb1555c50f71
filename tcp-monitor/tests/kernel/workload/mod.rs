//! Seeded random workloads, what each must be counted as, and the identities between counters that
//! must hold after it.

pub(crate) mod connect_actions;
pub(crate) mod identities;
pub(crate) mod outside_host_actions;
pub(crate) mod queue_actions;
pub(crate) mod record_balance;
pub(crate) mod run;
pub(crate) mod socket_actions;
pub(crate) mod worker;
