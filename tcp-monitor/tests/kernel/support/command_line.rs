//! The command line of the suite: that of libtest-mimic, but with any number of filters; and the
//! command that runs one trial alone.

use std::{env, ffi::OsString};

use libtest_mimic::Arguments;

/// Options of libtest-mimic that are followed by a value.
const WITH_VALUE: [&str; 6] = ["--test-threads", "--logfile", "--skip", "--color", "--format", "-Z"];
/// Variables that change what the suite does begin with this.
const VARIABLES: &str = "KERNEL_SUITE_";

pub(crate) struct CommandLine {
    /// All but the filters.
    pub(crate) arguments: Arguments,
    pub(crate) filters: Filters,
}

/// Which trials run: those whose name contains any of the words, or with `--exact` is one of them;
/// all if there are none.
pub(crate) struct Filters {
    words: Vec<String>,
    exact: bool,
}

impl CommandLine {
    /// Ends the process after `--help`, and on an error.
    pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Self {
        let (options, words) = separate(words);
        let arguments = Arguments::from_iter(options);
        let exact = arguments.exact;
        Self { arguments, filters: Filters { words, exact } }
    }
}

/// Options with their values, the name of the program first, and filters.
fn separate(words: impl IntoIterator<Item = OsString>) -> (Vec<OsString>, Vec<String>) {
    let mut words = words.into_iter();
    let mut options: Vec<_> = words.next().into_iter().collect();
    let mut filters = Vec::new();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy().into_owned();
        if text.starts_with('-') {
            options.push(word);
            if WITH_VALUE.contains(&&*text) {
                options.extend(words.next());
            }
        } else {
            filters.push(text);
        }
    }
    (options, filters)
}

impl Filters {
    pub(crate) fn match_name(&self, name: &str) -> bool {
        let is_match = |word: &String| if self.exact { name == word } else { name.contains(word.as_str()) };
        self.words.is_empty() || self.words.iter().any(is_match)
    }
}

/// The command that runs the trial of this name alone, as this run was made: with the same
/// variables, and by sudo if it was.
pub(crate) fn command_for(name: &str) -> String {
    let variables = env::vars().filter(|(variable, _)| variable.starts_with(VARIABLES)).collect();
    command_with(variables, name)
}

/// The same with these variables.
pub(crate) fn command_with(mut variables: Vec<(String, String)>, name: &str) -> String {
    variables.sort();
    let mut words: Vec<_> =
        variables.into_iter().map(|(variable, value)| format!("{variable}={}", quoted(&value))).collect();
    // `cargo xtask test` runs the suite through sudo; `cargo test` does not.
    let cargo = if env::var_os("SUDO_USER").is_some() { "cargo xtask test" } else { "cargo test" };
    words.push(format!("{cargo} -p tcp-monitor --test kernel -- --exact {}", quoted(name)));
    words.join(" ")
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
