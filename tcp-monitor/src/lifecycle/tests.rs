//! The tracker told scripts of what kernels do, in virtual time.

mod checks;
mod handshakes;
mod inference;
mod limits;
mod live;
mod random;
mod script;
mod segments;
mod teardowns;
