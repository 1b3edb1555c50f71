//! Where inputs come from.

pub mod kernel;
