//! The state machine of connections: what happened, from socket events and segments. Pure: no I/O, no clock.

mod address;
mod check;
mod connecting;
pub mod event;
mod flow;
mod identity;
mod inference;
pub mod input;
mod newborn;
mod queues;
pub mod segment;
mod sighting;
mod socket;
mod spent;
mod time;
mod tracker;
mod waiting;

pub use event::{ConnectionId, End, Event, EventKind};
pub use inference::Unfinished;
pub use input::{Input, PresentSocket, SegmentInput, SocketInput, StuckSocket};
pub use segment::TcpHeader;
pub use time::Time;
pub use tracker::{InferFrom, Options, Tracker};

#[cfg(test)]
mod tests;
