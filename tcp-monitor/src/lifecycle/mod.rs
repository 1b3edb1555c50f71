//! The state machine of connections: what happened, from socket events and segments. Pure: no I/O,
//! no clock.

mod connection;
mod dedup;
pub mod event;
pub mod input;
mod lookups;
mod map;
mod queues;
pub mod segment;
mod time;
mod tracker;
mod tuple;

pub use connection::class::Unfinished;
pub use event::{ConnectionId, End, Event, EventKind};
pub use input::{Input, PresentSocket, SegmentInput, SocketInput, StuckSocket};
pub use segment::TcpHeader;
pub use time::Time;
pub use tracker::{InferFrom, Options, Tracker};

#[cfg(test)]
mod tests;
