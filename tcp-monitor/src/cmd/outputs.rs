//! Makes the outputs of a run. A new output is added here.

use std::env;
use std::ffi::OsStr;
use std::io::{self, IsTerminal};

use rustix::termios::tcgetwinsize;

use super::recording::{Recording, RecordingError, RecordingFile};
use super::stdout::Stdout;
use crate::cli::{self, Report};
use crate::output::{EventSink, FanOut, Json, Pcapng, Shape, Style, Text, View};

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
        outputs.add(sink, Box::new(Stdout::new(report.count.map(u64::from))));
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
        (cli::Output::None, _) => return None,
        (cli::Output::Json, _) => Box::new(Json::default()),
        (cli::Output::Text, cli::View::Log) => Box::new(text(style(report)).wrapped(terminal_width)),
        (cli::Output::Text, cli::View::Ladder) => {
            let asked = || env::var("COLUMNS").ok()?.parse().ok();
            let width = terminal_width().or_else(asked).unwrap_or(DEFAULT_WIDTH);
            Box::new(View::new(Shape::Ladder { width }, style(report)))
        }
        (cli::Output::Text, cli::View::Table) => Box::new(View::new(Shape::Table, style(report))),
    })
}

fn style(report: &Report) -> Style {
    let color = report.color.colors(io::stdout().is_terminal(), env::var_os("NO_COLOR").as_deref());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].map(env::var_os);
    Style { color, ascii: report.ascii || is_ascii_locale(locale.each_ref().map(Option::as_deref)) }
}

/// Whether the locale of characters is C or POSIX, by the variables that set it, the strongest
/// first (locale(7)). Without any, the output is Unicode all the same.
fn is_ascii_locale(variables: [Option<&OsStr>; 3]) -> bool {
    let locale = variables.into_iter().flatten().find(|value| !value.is_empty());
    locale.is_some_and(|locale| locale == "C" || locale == "POSIX")
}

/// Columns of the terminal, if standard output is one.
fn terminal_width() -> Option<usize> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|width| *width > 0)
}

const DEFAULT_WIDTH: usize = 80;

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::is_ascii_locale;

    #[test]
    fn the_first_locale_variable_that_is_set_counts() {
        for (variables, is_ascii) in [
            ([None, None, None], false),
            ([Some("C"), Some("en_US.UTF-8"), Some("en_US.UTF-8")], true),
            ([Some("POSIX"), None, None], true),
            ([Some("C.UTF-8"), Some("C"), Some("C")], false),
            ([Some(""), Some("C"), Some("en_US.UTF-8")], true),
            ([None, None, Some("C")], true),
            ([None, Some("en_US.UTF-8"), Some("C")], false),
        ] {
            assert_eq!(
                is_ascii_locale(variables.map(|value| value.map(OsStr::new))),
                is_ascii,
                "{variables:?}"
            );
        }
    }
}
