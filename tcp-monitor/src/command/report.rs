//! Events on their way to standard output: in the format asked for, as many as asked for.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;

use crate::cli;
use crate::lifecycle::Event;
use crate::sink::{Json, Sink, Text};

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
    /// `interface_name` finds the name of an interface by its network namespace and index.
    pub(super) fn new(
        options: &cli::Report,
        interface_name: impl Fn(u32, u32) -> Option<String> + Send + 'static,
    ) -> Self {
        let sink: Option<Box<dyn Sink>> = match options.output {
            cli::Output::Text => {
                let color =
                    options.color.colors(io::stdout().is_terminal(), env::var_os("NO_COLOR").as_deref());
                Some(Box::new(Text::new(color)))
            }
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
        let Some(sink) = &mut self.sink else {
            events.for_each(drop);
            return Ok(ControlFlow::Continue(()));
        };
        for event in events {
            self.lines.clear();
            sink.write(&event, &mut self.lines)?;
            if self.lines.is_empty() {
                // It is told in the line of another.
                continue;
            }
            out.write_all(&self.lines)?;
            self.written += 1;
            if let Some(left) = &mut self.left {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
