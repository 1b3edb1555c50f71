//! One file a subcommand.

mod log;
pub mod monitor;
