//! One file a subcommand.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process;

use rustix::termios::tcgetwinsize;

use crate::output::Style;

mod background;
mod locale;
mod log;
mod log_output;
pub mod monitor;
mod names;
mod outputs;
pub mod read;
mod recording;
mod scrape;
mod signals;
mod stdout;

/// Writes a line to standard error, in plain ASCII if the locale wants that, and broken between
/// words for a terminal. An error is ignored: there is no reader.
pub fn say(line: impl fmt::Display) {
    let style = Style { ascii: locale::is_ascii(), ..Style::default() };
    let line = line.to_string();
    let text = style.spell(&line);
    let text = match terminal_width(io::stderr()) {
        Some(width) => wrap(&text, width),
        None => text.into_owned(),
    };
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints the help that was asked for, or what is wrong with the command line, and exits. In plain
/// ASCII, without colour, if the locale wants that.
pub fn exit_on_usage(error: &clap::Error) -> ! {
    if !locale::is_ascii() {
        error.exit();
    }
    let text = error.render().to_string();
    let text = Style { ascii: true, ..Style::default() }.spell(&text).into_owned();
    // An error is ignored: there is no reader.
    let _ = if error.use_stderr() {
        io::stderr().write_all(text.as_bytes())
    } else {
        io::stdout().write_all(text.as_bytes())
    };
    process::exit(error.exit_code())
}

/// Columns of a terminal; `None` if it is none.
fn terminal_width(terminal: impl AsFd) -> Option<usize> {
    let size = tcgetwinsize(terminal).ok()?;
    Some(usize::from(size.ws_col)).filter(|width| *width > 0)
}

/// The text in lines of at most `width` characters, broken between words. A word may be longer.
fn wrap(text: &str, width: usize) -> String {
    let (mut wrapped, mut column) = (String::with_capacity(text.len()), 0);
    for (number, word) in text.split(' ').enumerate() {
        // The word may begin with the rest of a line and end with the start of another one.
        let first_len = word.lines().next().map_or(0, |first| first.chars().count());
        if number > 0 && column + 1 + first_len > width {
            wrapped.push_str(CONTINUATION);
            column = CONTINUATION.len() - 1;
        } else if number > 0 {
            wrapped.push(' ');
            column += 1;
        }
        wrapped.push_str(word);
        column = match word.rsplit_once('\n') {
            Some((_, last)) => last.chars().count(),
            None => column + word.chars().count(),
        };
    }
    wrapped
}

const CONTINUATION: &str = "\n  ";

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn lines_are_broken_between_words() {
        let text =
            "attached: 5 tracepoints, tc on lo · kernel 6.18.44 · metrics http://127.0.0.1:9899/metrics";
        let wrapped = wrap(text, 40);
        let expected = [
            "attached: 5 tracepoints, tc on lo ·",
            "  kernel 6.18.44 · metrics",
            "  http://127.0.0.1:9899/metrics",
        ];
        assert_eq!(wrapped.lines().collect::<Vec<_>>(), expected);
        assert_eq!(wrap(text, 200), text);
        assert_eq!(wrap("one line\nand another one", 8), "one line\nand\n  another\n  one");
    }
}
