//! The flags of every command that reports events.

use std::num::NonZeroU64;

use clap::Args;

use super::values::{self, ColorMode, OutputFormat, TextView};
use super::{REPORT, STOP, TUNE};
use crate::lifecycle::Options;

/// What to write to standard output, and how.
#[derive(Clone, Debug, Args)]
pub struct Report {
    /// What to write to standard output
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t, help_heading = REPORT)]
    pub output: OutputFormat,

    /// What --output text shows
    ///
    /// A ladder is as wide as the terminal, from 60 to 100 columns. Without a terminal, the
    /// environment variable COLUMNS sets the width, else it is 80. Tables are Markdown.
    #[arg(long, value_name = "VIEW", value_enum, default_value_t, help_heading = REPORT)]
    pub view: TextView,

    /// Write text in plain ASCII
    ///
    /// Also without this flag if the locale is C or POSIX (LC_ALL, LC_CTYPE, LANG: the first that
    /// is set and not empty).
    #[arg(long, help_heading = REPORT)]
    pub ascii: bool,

    /// Colour the text
    ///
    /// `auto` colours it when standard output is a terminal and the environment variable NO_COLOR
    /// is unset or empty.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, help_heading = REPORT)]
    pub color: ColorMode,

    /// Stop after N events
    ///
    /// At least 1. With --view ladder or table, after N connections.
    #[arg(
        short, long, value_name = "N", value_parser = values::parse_count, allow_negative_numbers = true,
        help_heading = STOP
    )]
    pub count: Option<NonZeroU64>,

    /// Track at most N connections
    ///
    /// From 1 to 16777216. Each takes up to 700 bytes of memory, or 1.5 KiB in a running monitor
    /// that knows both its socket and its segments. When there are more, connections that are
    /// closed or in TIME_WAIT are evicted first, then half-open ones, then those idle for longest.
    /// Later events of an evicted connection lack what was known before. The summary counts
    /// evictions, and in a running monitor tcp_monitor_tracker_evicted_total does; other metrics
    /// lose nothing.
    #[arg(
        long, value_name = "N", default_value_t = Options::MAX_CONNECTIONS,
        value_parser = values::parse_max_connections, allow_negative_numbers = true, help_heading = TUNE
    )]
    pub max_connections: u32,
}

impl Report {
    /// The message for flags that contradict each other, if there are any.
    pub(super) const fn contradiction(&self) -> Option<&'static str> {
        match (self.view, self.output) {
            (TextView::Log, _) | (_, OutputFormat::Text) => None,
            (TextView::Ladder | TextView::Table, OutputFormat::Json | OutputFormat::None) => {
                Some("--view needs --output text: leave out one of --view and --output")
            }
        }
    }
}
