//! What a developer of tcp-monitor runs.
fn main() {}
