//! The flags of every command that reports events.

use std::num::NonZeroU64;

use clap::Args;

use super::values::{ColorMode, Output};
use super::{REPORT, STOP};

/// What to write of the events, and how.
#[derive(Clone, Debug, Args)]
pub struct Report {
    /// What to write to standard output
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t, help_heading = REPORT)]
    pub output: Output,

    /// Colour the text log
    ///
    /// `auto` colours it when standard output is a terminal and the environment variable NO_COLOR is unset or empty.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t, help_heading = REPORT)]
    pub color: ColorMode,

    /// Stop after N events
    ///
    /// From 1 up. An event is what --output writes as one line.
    #[arg(short, long, value_name = "N", help_heading = STOP)]
    pub count: Option<NonZeroU64>,
}
