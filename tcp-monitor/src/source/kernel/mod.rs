//! The kernel programs as a source: loading, attaching, reading records and counters.

pub mod decode;
