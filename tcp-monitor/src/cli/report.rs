//! The flags of every command that reports events.

use std::num::NonZeroU64;

use clap::Args;

use super::values::{self, ColorMode, Output, View};
use super::{REPORT, STOP, TUNE};
use crate::lifecycle::Options;

/// What to write of the events, and how.
#[derive(Clone, Debug, Args)]
pub struct Report {
    /// What to write to standard output
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t, help_heading = REPORT)]
    pub output: Output,

    /// What --output text shows
    ///
    /// A ladder is as wide as the terminal, within 60 to 100 columns; where there is none, as the environment variable COLUMNS
    /// says, or 80 columns. A table is a Markdown table too.
    #[arg(long, value_name = "VIEW", value_enum, default_value_t, help_heading = REPORT)]
    pub view: View,

    /// Write text in plain ASCII
    #[arg(long, help_heading = REPORT)]
    pub ascii: bool,

    /// Colour the text
    ///
    /// `auto` colours it when standard output is a terminal and the environment variable NO_COLOR is unset or empty.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, help_heading = REPORT)]
    pub color: ColorMode,

    /// Stop after N events
    ///
    /// From 1 up. An event is what --output writes as one line; with --view ladder or table, a connection.
    #[arg(
        short, long, value_name = "N", value_parser = values::parse_count, allow_negative_numbers = true,
        help_heading = STOP
    )]
    pub count: Option<NonZeroU64>,

    /// Remember at most N connections
    ///
    /// From 1 to 16777216. Each takes up to 700 bytes of memory, or 1.5 KiB with what a running monitor knows of both its socket
    /// and its segments. When there are more, those that are closed or in TIME_WAIT are forgotten first, then the half-open, then
    /// those idle for longest. What is told of a connection that was forgotten lacks what went before. The summary says
    /// how often that happened, and of a running monitor tcp_monitor_tracker_evicted_total; its other metrics lose nothing.
    #[arg(
        long, value_name = "N", default_value_t = Options::MAX_CONNECTIONS,
        value_parser = values::parse_max_connections, allow_negative_numbers = true, help_heading = TUNE
    )]
    pub max_connections: u32,
}

impl Report {
    /// What is wrong with the flags taken together, if anything is.
    pub(super) const fn contradiction(&self) -> Option<&'static str> {
        match (self.view, self.output) {
            (View::Log, _) | (_, Output::Text) => None,
            (View::Ladder | View::Table, Output::Json | Output::None) => {
                Some("--view is for people and needs --output text: leave out one of --view and --output")
            }
        }
    }
}
