//! The layouts that the kernel programs and the agent share.

pub mod counters;
pub mod half_open;
pub mod layout;
pub mod maps;
pub mod record;
