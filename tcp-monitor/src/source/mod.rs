//! Where inputs come from.

pub mod capture;
pub mod kernel;
