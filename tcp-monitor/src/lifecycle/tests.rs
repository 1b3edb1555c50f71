//! Tests of the tracker: scripts of what kernels and captures report, in virtual time.

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
