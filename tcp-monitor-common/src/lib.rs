//! What the kernel programs and the agent of tcp-monitor agree on: records, counters, map and global names.
//!
//! Both sides are built from this crate, so a layout is written once. It uses `core` only; the `user` feature adds
//! what the agent needs to decode records and read maps.

#![no_std]

pub mod config;
pub mod counters;
pub mod half_open;
pub mod record;
pub mod state;
pub mod transition;

pub use state::TcpState;
