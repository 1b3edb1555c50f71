//! The tracker told scripts of what kernels do, in virtual time.

mod checks;
mod every_transition;
mod handshakes;
mod identity;
mod inference;
mod limits;
mod live;
mod lookups;
mod present;
mod random;
mod script;
mod segments;
mod teardowns;
