//! The details of a line: fields in a row, which a narrow terminal shows on several lines.

use std::ops::Range;

use super::append::Append;
use super::style::Style;

/// Fields in a row, each with what separates it from the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Details {
    text: String,
    /// Where a line may be broken: the end of a field and the start of the next.
    breaks: Vec<(usize, usize)>,
    style: Style,
    /// The next field is separated by two spaces.
    gap: bool,
}

impl Details {
    pub(super) fn new(style: Style) -> Self {
        Self { style, ..Self::default() }
    }

    /// Removes all fields.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.breaks.clear();
        self.gap = false;
    }

    /// Adds a phrase, with a dot before it.
    pub(super) fn phrase(&mut self, phrase: impl Append) {
        self.add(" · ", phrase);
    }

    /// Adds a value, with a space before it.
    pub(super) fn value(&mut self, value: impl Append) {
        self.add(" ", value);
    }

    /// Separates what follows by two spaces.
    pub(super) fn gap(&mut self) {
        self.gap = !self.text.is_empty();
    }

    /// All of it on one line.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The lines of it: the first has room for `first` characters, each other for `rest`. A line is
    /// broken between fields; a field longer than a line, between words.
    pub(super) fn lines(&self, first: usize, rest: usize) -> Vec<&str> {
        let mut lines = Vec::new();
        let mut room = first;
        let mut line: Option<Range<usize>> = None;
        for field in self.fields() {
            let joined = line.as_ref().map_or(field.start, |line| line.start)..field.end;
            let fits = width(&self.text[joined.clone()]) <= room;
            let mut next = match line.take() {
                Some(_) if fits => joined,
                Some(full) => {
                    lines.push(&self.text[full]);
                    room = rest;
                    field
                }
                None => {
                    if !fits && room < rest {
                        // Not even the first field has room beside what is before it.
                        lines.push("");
                        room = rest;
                    }
                    field
                }
            };
            while width(&self.text[next.clone()]) > room
                && let Some((part, len)) = break_word(&self.text[next.clone()], room)
            {
                lines.push(part);
                next.start += len;
                room = rest;
            }
            line = Some(next);
        }
        lines.extend(line.map(|line| &self.text[line]));
        lines
    }

    /// Where each field is.
    fn fields(&self) -> impl Iterator<Item = Range<usize>> {
        let starts = [0].into_iter().chain(self.breaks.iter().map(|(_, start)| *start));
        let ends = self.breaks.iter().map(|(end, _)| *end).chain([self.text.len()]);
        starts.zip(ends).map(|(start, end)| start..end)
    }

    fn add(&mut self, separator: &str, field: impl Append) {
        let end = self.text.len();
        if end > 0 {
            self.append(if self.gap { "  " } else { separator });
            self.breaks.push((end, self.text.len()));
        }
        self.gap = false;
        self.append(field);
    }

    fn append(&mut self, text: impl Append) {
        let start = self.text.len();
        text.append_to(&mut self.text);
        if self.style.ascii && !self.text[start..].is_ascii() {
            let spelled = self.style.spell(&self.text[start..]).into_owned();
            self.text.truncate(start);
            self.text.push_str(&spelled);
        }
    }
}

/// The part of `text` up to the last space that leaves at most `room` characters, and where the
/// next part begins. `None` if there is no such space.
fn break_word(text: &str, room: usize) -> Option<(&str, usize)> {
    let limit = text.char_indices().nth(room).map_or(text.len(), |(at, c)| at + c.len_utf8());
    let at = text[..limit].rfind(' ').filter(|at| *at > 0)?;
    Some((&text[..at], at + 1))
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::{Details, Style};

    fn details(style: Style) -> Details {
        let mut details = Details::new(style);
        details.phrase("SYN_RECV → ESTABLISHED");
        details.gap();
        details.phrase("handshake 505 µs");
        details.phrase("SYN-ACK retransmitted once");
        details.value("seq 4294967295");
        details
    }

    #[test]
    fn fields_are_joined_by_their_separators() {
        let text = "SYN_RECV → ESTABLISHED  handshake 505 µs · SYN-ACK retransmitted once seq 4294967295";
        assert_eq!(details(Style::default()).as_str(), text);
        let ascii = "SYN_RECV -> ESTABLISHED  handshake 505 us | SYN-ACK retransmitted once seq 4294967295";
        assert_eq!(details(Style { ascii: true, ..Style::default() }).as_str(), ascii);
    }

    #[test]
    fn lines_are_broken_between_fields() {
        let details = details(Style::default());
        assert_eq!(details.lines(200, 200), [details.as_str()]);
        assert_eq!(
            details.lines(45, 60),
            ["SYN_RECV → ESTABLISHED  handshake 505 µs", "SYN-ACK retransmitted once seq 4294967295"]
        );
        assert_eq!(
            details.lines(10, 41),
            ["", "SYN_RECV → ESTABLISHED  handshake 505 µs", "SYN-ACK retransmitted once seq 4294967295"]
        );
        for room in 14..90 {
            for (first, rest) in [(room, room), (room / 2, room)] {
                let lines = details.lines(first, rest);
                assert!(lines.iter().skip(1).all(|line| line.chars().count() <= rest), "{lines:?}");
                assert!(lines[0].chars().count() <= first, "{lines:?}");
                // No word and no number is broken.
                let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
                let shown = words(&lines.join(" "));
                assert!(
                    shown
                        .iter()
                        .filter(|word| *word != "·")
                        .eq(words(details.as_str()).iter().filter(|word| *word != "·")),
                    "{lines:?}"
                );
            }
        }
    }

    #[test]
    fn a_word_longer_than_a_line_is_not_broken() {
        let mut details = Details::new(Style::default());
        details.phrase("1234567890");
        details.phrase("12");
        assert_eq!(details.lines(5, 5), ["1234567890", "12"]);
    }
}
