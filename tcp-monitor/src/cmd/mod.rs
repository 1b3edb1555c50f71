//! One file a subcommand.

use std::fmt;
use std::io::{self, Write};

use crate::output::Style;

mod locale;
mod log;
pub mod monitor;
mod names;
mod outputs;
pub mod read;
mod recording;
mod scrape;
mod signals;
mod stdout;

/// Writes a line to standard error, in plain ASCII if the locale wants that. An error is ignored:
/// there is no reader.
pub fn say(line: impl fmt::Display) {
    let style = Style { ascii: locale::is_ascii(), ..Style::default() };
    let _ = writeln!(io::stderr(), "{}", style.spell(&line.to_string()));
}
