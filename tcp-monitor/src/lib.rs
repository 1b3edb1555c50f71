//! The agent of tcp-monitor as a library: sources of TCP events, the lifecycle that explains them,
//! metrics and output.

#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod capture;
pub mod cli;
pub mod clock;
pub mod cmd;
pub mod counts;
pub mod kernel;
pub mod lifecycle;
pub mod metrics;
mod netlink;
pub mod netns;
pub mod output;
pub mod ports;
pub mod sockets;
