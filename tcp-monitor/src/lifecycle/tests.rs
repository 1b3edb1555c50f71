//! The tracker told scripts of what kernels do, in virtual time.

mod handshakes;
mod script;
mod segments;
mod teardowns;
