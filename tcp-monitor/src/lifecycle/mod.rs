//! The state machine of connections: what happened, from socket events and segments. Pure: no I/O, no clock.
