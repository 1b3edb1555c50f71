//! A connection as two tables, as in a networking lab: one of its handshake, one of its teardown.
//! They are aligned as text, and Markdown.

use super::connections::Occasion;
use super::record::{Record, SegmentEntry};
use super::summary;
use crate::lifecycle::End;
use crate::lifecycle::event::{SeqCheck, Step};
use crate::lifecycle::segment::Flags;
use crate::output::append::Append;
use crate::output::details::Details;
use crate::output::human::NetnsLabel;
use crate::output::style::{Color, Style};

/// Both tables of a connection, its data between them, and its summary.
pub(super) fn draw(record: &Record, occasion: Occasion, began: &str, style: Style) -> String {
    let [(_, client), (_, server)] = summary::ends(record);
    let mut page = Page { text: String::new(), style };
    let [client, server] = [client, server].map(|end| match &end.netns {
        Some(netns) => format!("{} {}", summary::address(end), NetnsLabel(netns).to_text()),
        None => summary::address(end),
    });
    page.paragraph(Color::Plain, &format!("### {client} → {server} at {began}"));

    let established = record.was_established();
    let (handshake, teardown): (Vec<_>, Vec<_>) = record.segments().partition(|segment| match segment.step {
        Step::Syn | Step::SynAck | Step::HandshakeAck => true,
        // A RST that answers the SYN.
        Step::Rst => !established,
        Step::Fin | Step::FinAck => false,
    });
    if handshake.is_empty() {
        page.paragraph(Color::Plain, "No handshake was seen.");
    } else {
        let flags = [Flags::SYN, Flags::ACK];
        page.table(&SegmentTable::new("Handshake", record, &handshake, flags, style));
    }
    let data = data(record);
    if !data.is_empty() {
        page.paragraph(Color::Plain, &data);
    }
    if !teardown.is_empty() {
        let flags = [Flags::FIN, Flags::ACK];
        page.table(&SegmentTable::new("Teardown", record, &teardown, flags, style));
    } else if established {
        page.paragraph(Color::Plain, "No teardown was seen.");
    }

    let (color, outcome) = summary::outcome(record, occasion, style);
    page.paragraph(color, &sentence(outcome.as_str()));
    let mut notes = Details::new(style);
    for note in summary::notes(record, occasion) {
        notes.phrase(note);
    }
    if !notes.is_empty() {
        page.paragraph(Color::Plain, &sentence(notes.as_str()));
    }
    page.text
}

fn data(record: &Record) -> String {
    let sent = match summary::bytes(record) {
        [Some(client), Some(server)] => Some(format!("The client sent {client} bytes, the server {server}.")),
        [Some(client), None] => Some(format!("The client sent {client} bytes.")),
        [None, Some(server)] => Some(format!("The server sent {server} bytes.")),
        [None, None] => None,
    };
    let retransmitted = summary::retransmitted(record).into_iter().map(|data| format!("The {data}."));
    sent.into_iter().chain(retransmitted).collect::<Vec<_>>().join(" ")
}

/// With a capital letter at the beginning and a full stop at the end.
fn sentence(phrases: &str) -> String {
    let mut characters = phrases.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    format!("{}{}.", first.map_or(String::new(), String::from), characters.as_str())
}

struct Page {
    text: String,
    style: Style,
}

impl Page {
    fn paragraph(&mut self, color: Color, text: &str) {
        let text = self.style.spell(text);
        self.text += &format!("{}\n\n", self.style.paint(color, text));
    }

    fn table(&mut self, table: &SegmentTable) {
        self.text += &table.to_text(self.style);
        self.text.push('\n');
    }
}

/// A table of segments.
struct SegmentTable {
    head: Vec<String>,
    rows: Vec<(Color, Vec<String>)>,
}

impl SegmentTable {
    fn new(name: &str, record: &Record, segments: &[&SegmentEntry], flags: [Flags; 2], style: Style) -> Self {
        let rst = segments.iter().any(|segment| segment.has(Flags::RST)).then_some(Flags::RST);
        let flags: Vec<_> = flags.into_iter().chain(rst).collect();
        let mut head: Vec<_> =
            [name, "Sender", "Sequence number", "Acknowledgment number"].map(str::to_owned).into();
        head.extend(flags.iter().flat_map(|flag| flag.names()).map(str::to_owned));
        head.push("Check".into());
        let numbers = step_numbers(segments);
        let rows = segments.iter().zip(numbers).map(|(segment, number)| {
            let sender = if segment.from == record.client() { "client" } else { "server" };
            let mut row = vec![
                format!("{number} {}", super::numbers::flags(segment.flags)),
                sender.to_owned(),
                absolute(segment.seq, segment.seq_rel),
                if segment.has(Flags::ACK) { absolute(segment.ack, segment.ack_rel) } else { String::new() },
            ];
            row.extend(flags.iter().map(|flag| u8::from(segment.has(*flag)).to_string()));
            row.push(style.spell(&check(segment)).into_owned());
            let color = segment.color(Color::Plain);
            (color, row)
        });
        Self { head, rows: rows.collect() }
    }

    fn to_text(&self, style: Style) -> String {
        let mut widths: Vec<_> = self.head.iter().map(|cell| cell.chars().count()).collect();
        for (_, row) in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let line = |cells: &[String]| {
            let cells = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if NUMBERS.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
        };
        let rule = widths.iter().enumerate().map(|(column, width)| {
            let dashes = "-".repeat(*width);
            if NUMBERS.contains(&column) { format!("-{dashes}:") } else { format!("-{dashes}-") }
        });
        let mut text = format!("{}\n|{}|\n", line(&self.head), rule.collect::<Vec<_>>().join("|"));
        for (color, row) in &self.rows {
            text += &format!("{}\n", style.paint(*color, line(row)));
        }
        text
    }
}

/// The number of each step. A retransmission keeps the number, and so does a repeated answer.
fn step_numbers(segments: &[&SegmentEntry]) -> Vec<usize> {
    let mut steps: Vec<(End, Step, Flags, u32)> = Vec::new();
    let number = |segment: &&SegmentEntry| {
        let step = (segment.from, segment.step, segment.flags, segment.seq.wrapping_add(segment.len));
        let known = steps.iter().position(|known| *known == step);
        1 + known.unwrap_or_else(|| {
            steps.push(step);
            steps.len() - 1
        })
    };
    segments.iter().map(number).collect()
}

/// A number as in the header, with the relative one in brackets.
fn absolute(number: u32, relative: Option<u32>) -> String {
    relative.map_or_else(|| number.to_string(), |relative| format!("{number} ({relative})"))
}

/// The checks of a segment, and its special properties.
fn check(segment: &SegmentEntry) -> String {
    let mut parts = Vec::new();
    match segment.check.seq {
        Some(SeqCheck { holds: true, .. }) => parts.push("seq ✓".to_owned()),
        Some(SeqCheck { expected, holds: false }) => {
            parts.push(format!("seq ≠ {} ✗", segment.as_seq(expected)));
        }
        None => {}
    }
    if let Some(check) = segment.check.ack {
        let sum = segment.sum(&check).replace('+', " + ");
        parts.push(if check.holds {
            format!("ack = {sum} ✓")
        } else {
            format!("ack ≠ {sum} = {} ✗", segment.as_ack(check.expected()))
        });
    }
    if segment.len > 0 {
        parts.push(format!("{} bytes", segment.len));
    }
    parts.extend(segment.marks().map(str::to_owned));
    parts.join(", ")
}

/// The columns of numbers.
const NUMBERS: [usize; 2] = [2, 3];
