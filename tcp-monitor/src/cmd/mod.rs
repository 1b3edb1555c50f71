//! One file a subcommand.

use std::fmt;
use std::io::{self, Write};

mod log;
pub mod monitor;
mod names;
mod outputs;
pub mod read;
mod recording;
mod scrape;
mod signals;
mod stdout;

/// Writes a line to standard error. An error is ignored: there is no reader.
pub fn say(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
