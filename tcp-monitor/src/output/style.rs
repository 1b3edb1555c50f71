//! The style of text: with colours or without, in Unicode or in plain ASCII.

use std::borrow::Cow;
use std::fmt;

use super::append::Append;

/// The style of text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// It is coloured by ANSI escape sequences.
    pub color: bool,
    /// It is plain ASCII.
    pub ascii: bool,
}

/// The colour of a part of text, by its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Color {
    /// Of secondary interest.
    Dim,
    /// A correct segment.
    Cyan,
    /// Success.
    Green,
    /// The end.
    Blue,
    /// Remarkable.
    Yellow,
    /// Possibly wrong.
    Red,
    /// Everything else.
    Plain,
}

impl Style {
    /// `text` in the characters of the style. To be done before alignment.
    pub(crate) fn spell(self, text: &str) -> Cow<'_, str> {
        if !self.ascii || text.is_ascii() {
            return Cow::Borrowed(text);
        }
        let mut ascii = String::with_capacity(text.len());
        for c in text.chars() {
            match REPLACEMENTS.iter().find(|(replaced, _)| *replaced == c) {
                Some((_, replacement)) => ascii.push_str(replacement),
                None if c.is_ascii() => ascii.push(c),
                None => ascii.extend(c.escape_unicode()),
            }
        }
        Cow::Owned(ascii)
    }

    /// Appends `text` in a colour. To be done after alignment.
    pub(super) fn append_painted(self, color: Color, text: impl Append, to: &mut String) {
        match color.escape().filter(|_| self.color) {
            Some(escape) => (escape, text, RESET).append_to(to),
            None => text.append_to(to),
        }
    }

    /// `text` in a colour. To be done after alignment.
    pub(super) fn paint(self, color: Color, text: impl fmt::Display) -> Painted<impl fmt::Display> {
        Painted { color: if self.color { color } else { Color::Plain }, text }
    }
}

/// Text in a colour.
pub(super) struct Painted<T> {
    color: Color,
    text: T,
}

impl<T: fmt::Display> fmt::Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.color.escape() {
            Some(escape) => write!(f, "{escape}{}{RESET}", self.text),
            None => self.text.fmt(f),
        }
    }
}

impl Color {
    const fn escape(self) -> Option<&'static str> {
        match self {
            Self::Dim => Some("\x1b[2m"),
            Self::Cyan => Some("\x1b[36m"),
            Self::Green => Some("\x1b[32m"),
            Self::Blue => Some("\x1b[34m"),
            Self::Yellow => Some("\x1b[33m"),
            Self::Red => Some("\x1b[31m"),
            Self::Plain => None,
        }
    }
}

const RESET: &str = "\x1b[0m";

/// Lines and arrowheads keep their width, because they are drawn after alignment.
const REPLACEMENTS: [(char, &str); 12] = [
    ('→', "->"),
    ('←', "<-"),
    ('µ', "u"),
    ('·', "|"),
    ('≠', "!="),
    ('✓', "ok"),
    ('✗', "WRONG"),
    ('…', "..."),
    ('│', "|"),
    ('─', "-"),
    ('▶', ">"),
    ('◀', "<"),
];

#[cfg(test)]
mod tests {
    use super::{Color, Style};

    #[test]
    fn in_ascii_every_other_character_is_replaced_or_escaped() {
        let ascii = Style { ascii: true, ..Style::default() };
        assert_eq!(ascii.spell("a → b · 3 µs (≠seq+1) naïve"), "a -> b | 3 us (!=seq+1) na\\u{ef}ve");
        assert_eq!(Style::default().spell("a → b"), "a → b");
    }

    #[test]
    fn only_coloured_text_has_escape_sequences() {
        let color = Style { color: true, ..Style::default() };
        assert_eq!(color.paint(Color::Red, "RST").to_string(), "\x1b[31mRST\x1b[0m");
        assert_eq!(color.paint(Color::Plain, "RST").to_string(), "RST");
        assert_eq!(Style::default().paint(Color::Red, "RST").to_string(), "RST");
    }
}
