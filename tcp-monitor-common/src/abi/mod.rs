//! The layouts that the kernel programs and the agent share.

pub mod config;
pub mod counters;
pub mod half_open;
pub mod record;
