//! `cargo xtask lint-text`: checks how documents and comments are written.
//!
//! - Markdown has one sentence a line.
//! - Comment lines are at most 100 columns wide.
//! - Words that have a standard term are not used, in any text and in any identifier.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Files or folders to check, relative to the workspace; all of it if none is named.
    paths: Vec<PathBuf>,
}

/// Prints each problem as `FILE:LINE: PROBLEM`. Fails if there is one.
///
/// # Errors
/// If a file cannot be read.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let root = crate::workspace();
    let mut files = Vec::new();
    if arguments.paths.is_empty() {
        collect(root, root, &mut files)?;
    }
    for path in &arguments.paths {
        collect(root, &root.join(path), &mut files)?;
    }
    files.sort();
    let mut problems = 0;
    for (path, kind) in &files {
        let text = fs::read(root.join(path)).with_context(|| format!("cannot read {path}"))?;
        for Problem { line, message } in check(path, *kind, &String::from_utf8_lossy(&text)) {
            println!("{path}:{line}: {message}");
            problems += 1;
        }
    }
    eprintln!("{} files checked, {problems} problems", files.len());
    Ok(if problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How a file marks its comments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Markdown,
    Rust,
    /// Shell scripts, TOML, YAML, systemd units.
    Hash,
}

impl Kind {
    fn of(path: &Path) -> Option<Self> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("md") => Some(Self::Markdown),
            Some("rs") => Some(Self::Rust),
            Some("sh" | "toml" | "yml" | "service") => Some(Self::Hash),
            _ if path.ends_with(".ci/run") => Some(Self::Hash),
            _ => None,
        }
    }
}

/// Adds what is to be checked at and below `path`, relative to `root`.
fn collect(root: &Path, path: &Path, files: &mut Vec<(String, Kind)>) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let is_skipped = SKIPPED.iter().any(|skipped| name == *skipped);
            if !is_skipped && !entry.file_type()?.is_symlink() {
                collect(root, &entry.path(), files)?;
            }
        }
    } else if let Some(kind) = Kind::of(path) {
        let relative = path.strip_prefix(root).unwrap_or(path);
        files.push((relative.display().to_string(), kind));
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Problem {
    /// From 1.
    line: usize,
    message: String,
}

fn check(path: &str, kind: Kind, text: &str) -> Vec<Problem> {
    let mut problems = match kind {
        Kind::Markdown => check_sentences(text),
        Kind::Rust => check_widths(text, "//"),
        Kind::Hash => check_widths(text, "#"),
    };
    for (line, content) in (1..).zip(text.lines()) {
        let found = WORDS.iter().filter(|(word, _)| !is_exception(path, word) && contains(content, word));
        problems.extend(found.map(|(word, instead)| Problem {
            line,
            message: format!("{word:?} is not used here: write {instead}"),
        }));
    }
    problems.sort_by_key(|problem| problem.line);
    problems
}

/// One sentence a line, and each sentence on one line. Code blocks, tables and headings are free.
fn check_sentences(text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut in_code = false;
    let mut is_open = false;
    for (line, content) in (1..).zip(text.lines()) {
        let content = content.trim();
        if content.starts_with("```") {
            in_code = !in_code;
            is_open = false;
            continue;
        }
        if in_code || content.is_empty() || content.starts_with(['|', '#', '<']) {
            is_open = false;
            continue;
        }
        let item = without_marker(content);
        if is_open && item == content {
            problems.push(Problem {
                line,
                message: "goes on with the sentence of the line before: join them".into(),
            });
        }
        if let Some(next) = second_sentence(item) {
            let message = format!("holds more than one sentence: begin a line with {next:?}");
            problems.push(Problem { line, message });
        }
        is_open = !content.ends_with(['.', ':', '!', '?', ')', '*']);
    }
    problems
}

/// A line without the marker of a list item or quote.
fn without_marker(line: &str) -> &str {
    let digits = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let numbered = if digits.len() < line.len() { digits.strip_prefix(". ") } else { None };
    numbered
        .or_else(|| ["- ", "* ", "> "].iter().find_map(|marker| line.strip_prefix(marker)))
        .unwrap_or(line)
}

/// The first words of the second sentence of a line, if it has one.
fn second_sentence(line: &str) -> Option<String> {
    let text = without_code(line);
    let ends = text.match_indices(['.', '!', '?']).filter(|(end, _)| {
        let word = text[..*end].rsplit([' ', '(']).next().unwrap_or_default();
        !ABBREVIATIONS.contains(&word)
    });
    let next = ends.filter_map(|(end, _)| {
        let after = text[end + 1..].trim_start_matches([')', '"', '*', '_', '”']);
        let next = after.strip_prefix(' ')?.trim_start();
        let first = next.trim_start_matches(['(', '[', '"', '*', '_', '“']).chars().next()?;
        (first.is_uppercase() || first == CODE).then_some(next)
    });
    next.map(|next| next.split(' ').take(3).collect::<Vec<_>>().join(" ")).next()
}

/// A line with [`CODE`] in place of each code span.
fn without_code(line: &str) -> String {
    let spans = line.split('`').enumerate();
    spans.map(|(index, part)| if index % 2 == 0 { part.to_owned() } else { CODE.to_string() }).collect()
}

/// Stands for a code span.
const CODE: char = '\u{2022}';

/// Lines that are nothing but a comment. Tables and what cannot be broken, such as an address, are
/// free.
fn check_widths(text: &str, marker: &str) -> Vec<Problem> {
    let lines = (1..).zip(text.lines()).filter(|(_, content)| {
        let comment = content.trim_start();
        let words = comment.trim_start_matches(['/', '!', '#', ' ']);
        comment.starts_with(marker)
            && content.chars().count() > MAX_COLUMNS
            && words.contains(' ')
            && !words.starts_with('|')
    });
    lines
        .map(|(line, content)| Problem {
            line,
            message: format!("comment of {} columns: wrap it at {MAX_COLUMNS}", content.chars().count()),
        })
        .collect()
}

/// Whether a line has a word or phrase, as words of a text or as parts of an identifier.
fn contains(line: &str, phrase: &str) -> bool {
    // A phrase with capitals stands for exactly that.
    let line = if phrase.chars().any(char::is_uppercase) { line.to_owned() } else { words(line) };
    line.match_indices(phrase).any(|(start, _)| {
        let (before, after) = (&line[..start], &line[start + phrase.len()..]);
        !before.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric)
    })
}

/// A line in lower case, with identifiers split into their words.
fn words(line: &str) -> String {
    let mut words = String::with_capacity(line.len() + 8);
    let mut before = ' ';
    for c in line.chars() {
        if before.is_lowercase() && c.is_uppercase() {
            words.push(' ');
        }
        words.extend(if c == '_' { ' ' } else { c }.to_lowercase());
        before = c;
    }
    words
}

fn is_exception(path: &str, word: &str) -> bool {
    EXCEPTIONS.iter().any(|(file, excepted, _)| path == *file && (*excepted == word || *excepted == "*"))
}

const MAX_COLUMNS: usize = 100;

/// What is built, fetched or made by a program.
const SKIPPED: [&str; 5] = [".git", "target", "corpus", "captures", "golden"];

/// What ends in a full stop and ends no sentence, without that full stop.
const ABBREVIATIONS: [&str; 8] = ["e.g", "i.e", "etc", "cf", "vs", "approx", "ca", "No"];

/// Words and phrases that have a standard term, and that term.
const WORDS: [(&str, &str); 63] = [
    ("AGAIN", "RETRANS"),
    ("a look", "\"a dump\""),
    ("acknowledges what was not sent", "\"ACKed unseen segment\""),
    ("anybody", "the actor's name"),
    ("arrivals", "\"pending segments\""),
    ("birth", "\"creation\""),
    ("births", "\"unaddressed children\""),
    ("born", "\"created\""),
    ("by the clock", "\"inferred (timeout)\""),
    ("came by", "\"passed\""),
    ("careful way", "\"slow path\""),
    ("catch up", "\"emit deferred\""),
    ("comes by", "\"passes\""),
    ("crowd", "\"linger limit\""),
    ("cut off", "\"truncated\""),
    ("fate", "\"segment outcome\""),
    ("forgets", "\"evicts\""),
    ("forgot", "\"evicted\""),
    ("forgotten", "\"evicted\""),
    ("give way", "what is replaced"),
    ("gives way", "what is replaced"),
    ("glance", "\"prefilter\""),
    ("heard", "\"received\" or \"observed\""),
    ("hears", "\"receives\" or \"observes\""),
    ("in hand", "\"pending\""),
    ("last ACK", "\"handshake ACK\" (LAST_ACK is a state)"),
    ("let go", "\"release\""),
    ("let go of", "\"evict\" or \"release\""),
    ("lets go of", "\"evicts\" or \"releases\""),
    ("letting go of", "\"evicting\" or \"releasing\""),
    ("minisocket", "\"timewait socket\""),
    ("minisockets", "\"timewait sockets\""),
    ("neglect", "\"stuck reason\""),
    ("newborn", "\"unaddressed child\""),
    ("newborns", "\"unaddressed children\""),
    ("no room in the ring buffer", "\"ring buffer full\""),
    ("nobody", "the actor's name, or \"no listener\", \"no socket\""),
    ("open before the monitor", "\"opened before monitoring started\""),
    ("orphans", "\"FIN_WAIT2 timewait sockets\""),
    ("say a word", "what is reported"),
    ("seen by its segment", "\"inferred from segment\""),
    ("send again", "\"retransmit\""),
    ("sending again", "\"retransmitting\""),
    ("sends again", "\"retransmits\""),
    ("sent again", "\"retransmitted\""),
    ("sighting", "\"observation\" or \"duplicate\""),
    ("sightings", "\"observations\" or \"duplicates\""),
    ("somebody", "the actor's name"),
    ("spent us", "\"state_duration_us\""),
    ("story", "\"summary\""),
    ("stranger", "\"outside host\""),
    ("take in", "\"process\""),
    ("taken in", "\"processed\""),
    ("takes in", "\"processes\""),
    ("telling", "\"reporting\""),
    ("tells", "\"reports\", or \"distinguishes\""),
    ("told", "\"reported\", or \"distinguished\""),
    ("took in", "\"processed\""),
    ("traveller", "\"namespace switcher\""),
    ("vantage", "\"observation point\""),
    ("whoever", "the actor's name"),
    ("withheld", "what is missing"),
    ("without a word", "\"silently\" or \"without an event\""),
];

/// Files that may use a word (`*`: all of them), and why.
const EXCEPTIONS: [(&str, &str, &str); 5] = [
    ("CHANGELOG.md", "*", "lists the old names of what was renamed"),
    ("docs/metrics.md", "orphans", "the kernel's term, of the reason of a RST"),
    ("docs/glossary.md", "*", "says which words are not used"),
    ("xtask/src/debug_info.rs", "orphans", "a function of the crate `object`"),
    ("xtask/src/lint_text.rs", "*", "lists the words"),
];

#[cfg(test)]
mod tests {
    use super::{EXCEPTIONS, Kind, WORDS, check, contains};

    fn problems(kind: Kind, text: &str) -> Vec<String> {
        check("file", kind, text)
            .into_iter()
            .map(|problem| format!("{}: {}", problem.line, problem.message))
            .collect()
    }

    #[test]
    fn a_line_of_markdown_holds_one_sentence() {
        for text in [
            "One sentence, e.g. This one.",
            "It takes 1.5 s. or so; see RFC 9293, sections 3. and 4.",
            "- An item (i.e. A thing).",
            "1. A numbered item.",
            "`a. B` is code, and `x.` Too is no sentence end.",
            "## Not. A sentence",
            "| a. B | c. D |",
            "```\nOne. Two\nthree\n```",
            "A line.\nAnother line:\n- an item\n- another item\n\nThe end.",
        ] {
            assert_eq!(problems(Kind::Markdown, text), [] as [&str; 0], "{text}");
        }
        for (text, expected) in [
            ("One. Two.", "1: holds more than one sentence: begin a line with \"Two.\""),
            (
                "- One (two). **Three** four five six.",
                "1: holds more than one sentence: begin a line with \"**Three** four five\"",
            ),
            (
                "One. `two` is code.",
                "1: holds more than one sentence: begin a line with \"\u{2022} is code.\"",
            ),
            ("One is\nbroken.", "2: goes on with the sentence of the line before: join them"),
        ] {
            assert_eq!(problems(Kind::Markdown, text), [expected], "{text}");
        }
    }

    #[test]
    fn comments_are_at_most_100_columns_wide() {
        let at_limit = format!("    /// {} b", "a".repeat(90));
        assert_eq!(at_limit.len(), 100);
        let words = format!("{at_limit}b");
        for text in [
            &at_limit,
            &format!("let {} = 1; // b", "a".repeat(100)),
            &format!("// https://{}", "a".repeat(100)),
        ] {
            assert_eq!(problems(Kind::Rust, text), [] as [&str; 0], "{text}");
        }
        assert_eq!(problems(Kind::Rust, &words), ["1: comment of 101 columns: wrap it at 100"]);
        assert_eq!(problems(Kind::Hash, &format!("# {} b", "a".repeat(97))).len(), 1);
        assert_eq!(problems(Kind::Rust, &format!("/// | {} b |", "a".repeat(97))), [] as [&str; 0]);
    }

    #[test]
    fn words_are_found_in_texts_and_identifiers() {
        for (line, word) in [
            ("// It is told.", "told"),
            ("fn told_by_kernel() {}", "told"),
            ("struct NotTold;", "told"),
            ("\"fin sent again in FIN_WAIT1\"", "sent again"),
            ("Self::Again => \"AGAIN\"", "AGAIN"),
            ("the last ACK of a handshake", "last ACK"),
        ] {
            assert!(contains(line, word), "{line}");
        }
        for (line, word) in [
            ("an untold number", "told"),
            ("in LAST_ACK", "last ACK"),
            ("do it again", "AGAIN"),
            ("sent, again", "sent again"),
        ] {
            assert!(!contains(line, word), "{line}");
        }
        assert_eq!(
            problems(Kind::Rust, "\n// whoever"),
            ["2: \"whoever\" is not used here: write the actor's name"]
        );
    }

    #[test]
    fn words_are_in_order_and_exceptions_name_them() {
        assert!(WORDS.is_sorted_by(|(a, _), (b, _)| a < b));
        for (file, word, reason) in EXCEPTIONS {
            assert!(word == "*" || WORDS.iter().any(|(known, _)| *known == word), "{file}: {word}");
            assert!(!reason.is_empty(), "{file}: {word}");
        }
    }
}
