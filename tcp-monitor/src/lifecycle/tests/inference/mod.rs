//! Connections of which the kernel tells nothing, explained from their segments.

mod accounting;
mod closes;
mod opens;
mod random;
mod resets;
mod sockets;
mod steps;
pub(super) mod wire;
