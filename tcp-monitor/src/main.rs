//! The `tcp-monitor` command.
fn main() {}
