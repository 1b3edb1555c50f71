//! Makes the outputs of a run. A new output is added here.

use std::env;
use std::io::{self, IsTerminal};

use super::log_output::LogOutput;
use super::recording::{Recording, RecordingError, RecordingFile};
use super::stdout::Stdout;
use super::{locale, terminal_width};
use crate::cli::{self, Report};
use crate::output::{EventSink, FanOut, Json, Pcapng, Shape, Style, Text, View, WholeConnections};

/// The outputs of a running monitor.
pub(super) fn of_monitor(
    report: &Report,
    recording: Option<RecordingFile>,
) -> Result<FanOut, RecordingError> {
    let mut outputs = FanOut::default();
    if let Some(file) = recording {
        outputs.add(Box::new(Pcapng::default()), Box::new(Recording::start(file)?));
    }
    if let Some(sink) = sink(report, Text::new) {
        let limit = report.count.map(u64::from);
        let output = LogOutput::start(limit).map_err(RecordingError::Thread)?;
        outputs.add(Box::new(WholeConnections::new(sink)), Box::new(output));
    }
    Ok(outputs)
}

/// The outputs of `tcp-monitor read`, which shares standard output with what reads.
pub(super) fn of_capture(report: &Report, stdout: &Stdout) -> FanOut {
    let mut outputs = FanOut::default();
    if let Some(sink) = sink(report, Text::of_capture) {
        outputs.add(sink, Box::new(stdout.clone()));
    }
    outputs
}

/// The format of standard output.
fn sink(report: &Report, text: impl FnOnce(Style) -> Text) -> Option<Box<dyn EventSink>> {
    Some(match (report.output, report.view) {
        (cli::OutputFormat::None, _) => return None,
        (cli::OutputFormat::Json, _) => Box::new(Json::default()),
        (cli::OutputFormat::Text, cli::TextView::Log) => {
            let text = text(style(report));
            Box::new(if io::stdout().is_terminal() {
                text.wrapped(|| terminal_width(io::stdout()))
            } else {
                text
            })
        }
        (cli::OutputFormat::Text, cli::TextView::Ladder) => {
            let asked = || env::var("COLUMNS").ok()?.parse().ok();
            let width = terminal_width(io::stdout()).or_else(asked).unwrap_or(DEFAULT_WIDTH);
            Box::new(View::new(Shape::Ladder { width }, style(report)))
        }
        (cli::OutputFormat::Text, cli::TextView::Table) => Box::new(View::new(Shape::Table, style(report))),
    })
}

fn style(report: &Report) -> Style {
    let color = report.color.colors(io::stdout().is_terminal(), env::var_os("NO_COLOR").as_deref());
    Style { color, ascii: report.ascii || locale::is_ascii() }
}

const DEFAULT_WIDTH: usize = 80;
