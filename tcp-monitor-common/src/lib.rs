//! What the kernel programs and the agent of tcp-monitor share.
//!
//! - [`abi`]: layouts of records, counters and maps. Each is written once, and both sides are built
//!   from it.
//! - [`rules`]: what a transition or a segment means. Each rule has one home, here, and both sides
//!   apply it.
//! - labels: the names of states, roles and causes in metrics, JSON and text, for the agent alone.
//! - words: counters as words, to add them up; for the agent alone.
//!
//! The crate uses `core` only. The `user` feature adds what the agent needs to decode records and
//! to read maps. `abi` and `rules` reach the eBPF object: the object must be rebuilt when their
//! code changes.

#![no_std]

pub mod abi;
pub mod rules;

#[cfg(feature = "user")]
mod labels;
#[cfg(feature = "user")]
pub mod words;

pub use abi::{counters, record};
pub use rules::{state::TcpState, transition};
