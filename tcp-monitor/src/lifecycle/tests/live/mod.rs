//! A running agent: the kernel tells of sockets, and of segments only those of handshakes and
//! teardowns are seen, at each interface that they pass.

mod beginnings;
mod forwarding;
mod half_open;
pub(super) mod host;
mod translation;
