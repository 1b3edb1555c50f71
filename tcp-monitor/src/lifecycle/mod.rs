//! The state machine of connections: what happened, from socket events and segments. Pure: no I/O, no clock.

mod connecting;
pub mod event;
mod flow;
pub mod input;
pub mod segment;
mod sighting;
mod socket;
mod table;
mod time;
mod tracker;
mod transition;
mod waiting;

pub use event::Event;
pub use input::{Input, SegmentInput, SocketInput};
pub use segment::TcpHeader;
pub use time::Time;
pub use tracker::Tracker;

#[cfg(test)]
mod tests;
