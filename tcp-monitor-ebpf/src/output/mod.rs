//! What the programs hand to the agent: counters, records, and lines of log.

pub(crate) mod counters;
pub(crate) mod evictions;
pub(crate) mod log;
pub(crate) mod ports;
pub(crate) mod ring;
