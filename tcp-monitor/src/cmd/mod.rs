//! One file a subcommand.

use std::fmt;
use std::io::{self, Write};

mod log;
pub mod monitor;
pub mod read;
mod recording;
mod report;
mod scrape;
mod signals;

/// Writes a line to standard error. Nothing is to be done, and nothing ends, if nobody reads it.
pub fn say(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
