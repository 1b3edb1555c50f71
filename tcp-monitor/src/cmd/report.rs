//! Events on their way to standard output: in the format asked for, as many as asked for.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;

use rustix::termios::tcgetwinsize;

use crate::cli;
use crate::lifecycle::{Event, Time};
use crate::output::{Json, Shape, Sink, Style, Text, View};

/// Writes events.
pub(super) struct Report {
    /// `None`: nothing is written.
    sink: Option<Box<dyn Sink>>,
    /// How many more events may be written; `None` for any number.
    left: Option<u64>,
    /// Events written so far.
    written: u64,
    /// Room for the lines of one event.
    lines: Vec<u8>,
}

impl Report {
    /// Of what happens now. `interface_name` finds the name of an interface by its network namespace and index.
    pub(super) fn new(
        options: &cli::Report,
        interface_name: impl Fn(u32, u32) -> Option<String> + Send + 'static,
    ) -> Self {
        Self::with(options, interface_name, Text::new)
    }

    /// Of what a capture holds.
    pub(super) fn of_capture(
        options: &cli::Report,
        interface_name: impl Fn(u32, u32) -> Option<String> + Send + 'static,
    ) -> Self {
        Self::with(options, interface_name, Text::of_capture)
    }

    fn with(
        options: &cli::Report,
        interface_name: impl Fn(u32, u32) -> Option<String> + Send + 'static,
        text: impl FnOnce(Style) -> Text,
    ) -> Self {
        let sink: Option<Box<dyn Sink>> = match options.output {
            cli::Output::Text => Some(text_sink(options, text)),
            cli::Output::Json => Some(Box::new(Json::new(interface_name))),
            cli::Output::None => None,
        };
        Self { sink, left: options.count.map(u64::from), written: 0, lines: Vec::new() }
    }

    /// Whether anything is written at all.
    pub(super) const fn is_wanted(&self) -> bool {
        self.sink.is_some()
    }

    /// Whether as many events were written as were asked for.
    pub(super) fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// How many events were written.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    /// Takes `events` out, and writes them until there are as many as asked for.
    pub(super) fn write(
        &mut self,
        events: impl Iterator<Item = Event>,
        out: &mut dyn Write,
    ) -> io::Result<ControlFlow<()>> {
        for event in events {
            if self.advance(event.time, out)?.is_break()
                || self.say(out, |sink, lines| sink.write(&event, lines))? == Said::Last
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Writes what waited to be written until `now`. All earlier events were written.
    pub(super) fn advance(&mut self, now: Time, out: &mut dyn Write) -> io::Result<ControlFlow<()>> {
        self.say_all(out, |sink, lines| sink.advance(now, lines))
    }

    /// Writes what is still to be written when no events follow.
    pub(super) fn finish(&mut self, out: &mut dyn Write) -> io::Result<ControlFlow<()>> {
        self.say_all(out, |sink, lines| sink.finish(lines))
    }

    fn say_all(
        &mut self,
        out: &mut dyn Write,
        mut write: impl FnMut(&mut dyn Sink, &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<ControlFlow<()>> {
        loop {
            match self.say(out, &mut write)? {
                Said::Nothing => return Ok(ControlFlow::Continue(())),
                Said::More => {}
                Said::Last => return Ok(ControlFlow::Break(())),
            }
        }
    }

    /// Writes what the sink says, unless as much was written as was asked for.
    fn say(
        &mut self,
        out: &mut dyn Write,
        write: impl FnOnce(&mut dyn Sink, &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<Said> {
        let Some(sink) = &mut self.sink else { return Ok(Said::Nothing) };
        if self.left == Some(0) {
            return Ok(Said::Last);
        }
        self.lines.clear();
        write(sink.as_mut(), &mut self.lines)?;
        if self.lines.is_empty() {
            // It is told with another.
            return Ok(Said::Nothing);
        }
        out.write_all(&self.lines)?;
        self.written += 1;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Ok(Said::Last);
            }
        }
        Ok(Said::More)
    }
}

/// What came of asking the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    More,
    /// As much was written as was asked for.
    Last,
}

fn text_sink(options: &cli::Report, log: impl FnOnce(Style) -> Text) -> Box<dyn Sink> {
    let color = options.color.colors(io::stdout().is_terminal(), env::var_os("NO_COLOR").as_deref());
    let style = Style { color, ascii: options.ascii };
    match options.view {
        cli::View::Log => Box::new(log(style)),
        cli::View::Ladder => Box::new(View::new(Shape::Ladder { width: width() }, style)),
        cli::View::Table => Box::new(View::new(Shape::Table, style)),
    }
}

/// Columns of the terminal, or what stands for them.
fn width() -> usize {
    let terminal = tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
    let asked = || env::var("COLUMNS").ok()?.parse().ok();
    terminal.filter(|width| *width > 0).or_else(asked).unwrap_or(DEFAULT_WIDTH)
}

const DEFAULT_WIDTH: usize = 80;
