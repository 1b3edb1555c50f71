//! Where inputs come from.

pub mod capture;
mod clock;
pub mod diag;
pub mod kernel;
mod netlink;
mod netns;

pub use netns::NetnsSelection;
