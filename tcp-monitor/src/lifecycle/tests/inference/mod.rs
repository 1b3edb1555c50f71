//! Connections that the kernel does not report: their states are inferred from segments.

mod accounting;
mod closes;
mod ends;
mod every_segment;
mod opens;
mod resets;
mod rfc9293;
mod sockets;
mod steps;
pub(super) mod wire;
