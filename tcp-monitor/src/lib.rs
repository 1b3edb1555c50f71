//! The agent of tcp-monitor as a library: sources of TCP events, the lifecycle that explains them, metrics and sinks.

#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod cli;
pub mod command;
pub mod lifecycle;
pub mod metrics;
pub mod owner;
pub mod ports;
pub mod sink;
pub mod source;
