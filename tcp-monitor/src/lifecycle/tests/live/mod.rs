//! A running agent: the kernel reports sockets, and the segments of handshakes and teardowns at
//! each interface that they pass.

mod beginnings;
mod forwarding;
mod half_open;
pub(super) mod host;
mod translation;
