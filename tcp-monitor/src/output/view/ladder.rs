//! A connection as a sequence diagram: the client left, the server right, time downwards.

use std::time::Duration;

use tcp_monitor_common::TcpState;

use super::connections::Occasion;
use super::record::{Record, SegmentEntry, ViewEntry};
use super::summary::{self, Inferred};
use crate::lifecycle::event::{Evidence, Step};
use crate::lifecycle::{End, Time};
use crate::output::details::Details;
use crate::output::style::{Color, Style};

/// The diagram of a connection, in lines of at most `width` columns, or 60 if that is less.
pub(super) fn draw(record: &Record, occasion: Occasion, began: &str, width: usize, style: Style) -> String {
    let mut ladder = Ladder::new(record, width, style);
    ladder.draw_head(began);
    ladder.draw_steps();
    ladder.draw_foot(occasion);
    ladder.text
}

struct Ladder<'a> {
    record: &'a Record,
    style: Style,
    width: usize,
    /// Columns between the vertical lines.
    inner: usize,
    /// The end on the left.
    client: End,
    inferred: Inferred,
    /// The zero of the times: the first segment.
    zero: Time,
    text: String,
}

/// One line of the diagram.
struct LadderRow {
    time: Option<Time>,
    /// Of the client and of the server.
    states: [Option<String>; 2],
    middle: Middle,
}

enum Middle {
    Nothing,
    Arrow {
        rightwards: bool,
        label: String,
        color: Color,
    },
    /// The rest of the label of the arrow above.
    More {
        text: String,
        color: Color,
    },
    /// The data between handshake and teardown.
    Data {
        text: String,
        color: Color,
    },
}

impl<'a> Ladder<'a> {
    fn new(record: &'a Record, width: usize, style: Style) -> Self {
        let width = width.clamp(MIN_WIDTH, MAX_WIDTH);
        let zero = record.segments().next().map_or(record.began, |segment| segment.time);
        Self {
            record,
            style,
            width,
            inner: width - OUTSIDE,
            client: record.client(),
            inferred: Inferred::of(record),
            zero,
            text: String::new(),
        }
    }

    /// The addresses and names of the ends, and the states they begin in.
    fn draw_head(&mut self, began: &str) {
        self.line(&self.style.paint(Color::Dim, began).to_string());
        let ends = summary::ends(self.record);
        self.draw_names(ends.map(|(_, end)| summary::address(end)));
        self.draw_names(ends.map(|(role, end)| summary::name(role, end)));
        if ends.iter().any(|(_, end)| end.isn.is_some()) {
            self.draw_names(
                ends.map(|(_, end)| end.isn.map_or(String::new(), |isn| format!("seq 0 = {isn}"))),
            );
        }
        let states = ends.map(|(_, end)| end.began_in.map(|state| state.to_string()));
        self.draw_row(&LadderRow { time: None, states, middle: Middle::Nothing });
    }

    /// Two names, each above its line, or one below the other if they are too long.
    fn draw_names(&mut self, names: [String; 2]) {
        let names = names.map(|name| self.style.spell(&name).into_owned());
        let [left, right] = names.each_ref().map(|name| name.chars().count());
        let start =
            |len: usize, line: usize| (line.saturating_sub(len / 2)).min(self.width.saturating_sub(len));
        let [at_left, at_right] = [start(left, LEFT_LINE), start(right, LEFT_LINE + self.inner + 1)];
        let [left_name, right_name] = names;
        if at_left + left < at_right {
            let gap = at_right - at_left - left;
            self.line(&format!("{:at_left$}{left_name}{:gap$}{right_name}", "", ""));
        } else {
            self.line(&format!("{:at_left$}{left_name}", ""));
            self.line(&format!("{:at_right$}{right_name}", ""));
        }
    }

    fn draw_steps(&mut self) {
        for row in self.rows() {
            self.draw_row(&row);
        }
    }

    fn rows(&self) -> Vec<LadderRow> {
        let mut rows = Vec::new();
        let teardown = self.record.entries.iter().position(is_teardown);
        let entries = &self.record.entries;
        // States that are entered by sending the next segment.
        let mut ahead: [Option<String>; 2] = [None, None];
        for (index, entry) in entries.iter().enumerate() {
            if teardown == Some(index) {
                self.add_data(&mut rows);
            }
            match entry {
                ViewEntry::Segment(segment) => self.add_arrow(segment, std::mem::take(&mut ahead), &mut rows),
                ViewEntry::State { time, end, to, evidence } => {
                    let side = self.side(*end);
                    let state = self.state(*to, *evidence);
                    if sends_next(*to, *end, &entries[index + 1..]) && ahead[side].is_none() {
                        ahead[side] = Some(state);
                    } else {
                        add_state(*time, side, state, &mut rows);
                    }
                }
            }
        }
        if teardown.is_none() {
            self.add_data(&mut rows);
        }
        rows
    }

    fn add_arrow(&self, segment: &SegmentEntry, states: [Option<String>; 2], rows: &mut Vec<LadderRow>) {
        let color = segment.color(Color::Cyan);
        let pieces: Vec<_> =
            segment.label().iter().map(|piece| self.style.spell(piece).into_owned()).collect();
        let room = self.inner - ARROW;
        let whole = pieces.join(" ");
        let (label, rest) = if whole.chars().count() <= room {
            (whole, &[][..])
        } else {
            match pieces.split_first() {
                Some((flags, rest)) if flags.chars().count() <= room => (flags.clone(), rest),
                Some(_) | None => (String::new(), &pieces[..]),
            }
        };
        let rightwards = segment.from == self.client;
        let middle = Middle::Arrow { rightwards, label, color };
        rows.push(LadderRow { time: Some(segment.time), states, middle });
        for text in wrap(rest, " ", self.inner - INDENT) {
            let text = format!("{:INDENT$}{text}", "");
            rows.push(LadderRow { time: None, states: [None, None], middle: Middle::More { text, color } });
        }
    }

    /// Data that was sent between handshake and teardown.
    fn add_data(&self, rows: &mut Vec<LadderRow>) {
        if !self.record.was_established() {
            return;
        }
        let mut pieces = Vec::new();
        match summary::bytes(self.record) {
            [Some(0), Some(0)] => pieces.push("no data".into()),
            [client, server] => {
                pieces.extend(client.map(|bytes| format!("{bytes} B →")));
                pieces.extend(server.map(|bytes| format!("← {bytes} B")));
            }
        }
        let lines = wrap(&self.spelled(pieces), "   ", self.inner);
        let resent = self.spelled(summary::retransmitted(self.record));
        let resent = resent.into_iter().flat_map(|text| {
            let words: Vec<_> = text.split(' ').map(str::to_owned).collect();
            wrap(&words, " ", self.inner)
        });
        let lines = lines.into_iter().map(|text| (Color::Plain, text));
        for (color, text) in lines.chain(resent.map(|text| (Color::Yellow, text))) {
            let margin = (self.inner - text.chars().count().min(self.inner)) / 2;
            let text = format!("{:margin$}{text}", "");
            rows.push(LadderRow { time: None, states: [None, None], middle: Middle::Data { text, color } });
        }
    }

    fn draw_row(&mut self, row: &LadderRow) {
        // Without any clock, all times are 0.
        let time = row.time.filter(|_| self.record.began_at.is_some());
        let time = time.map_or(String::new(), |time| self.relative(time));
        let [left, right] = row.states.each_ref().map(|state| state.as_deref().unwrap_or(""));
        let (color, middle) = match &row.middle {
            Middle::Nothing => (Color::Plain, String::new()),
            Middle::Arrow { rightwards, label, color } => (*color, self.arrow(*rightwards, label)),
            Middle::More { text, color } | Middle::Data { text, color } => (*color, text.clone()),
        };
        let padding = self.inner.saturating_sub(middle.chars().count());
        let time = self.style.paint(Color::Dim, format!("{time:>TIME$}"));
        let middle =
            if middle.is_empty() { String::new() } else { self.style.paint(color, middle).to_string() };
        let row = format!("{time} {left:>STATE$} │{middle}{:padding$}│ {right}", "");
        self.line(&row);
    }

    fn arrow(&self, rightwards: bool, label: &str) -> String {
        let label = if label.is_empty() { String::new() } else { format!(" {label} ") };
        let rest = "─".repeat(self.inner.saturating_sub(label.chars().count() + 2));
        if rightwards { format!("─{label}{rest}▶") } else { format!("◀{label}{rest}─") }
    }

    fn draw_foot(&mut self, occasion: Occasion) {
        let (color, outcome) = summary::outcome(self.record, occasion, self.style);
        let mut notes = Details::new(self.style);
        for note in summary::notes(self.record, occasion) {
            notes.phrase(note);
        }
        let is_absolute = |segment: &SegmentEntry| segment.seq_rel.is_none() && segment.step != Step::Rst;
        if self.record.segments().any(is_absolute) {
            notes.phrase("numbers are absolute where no SYN was seen");
        }
        match self.inferred {
            Inferred::Nothing => {}
            Inferred::Some => {
                notes.phrase("* inferred from segments or timeouts, not reported by the kernel");
            }
            Inferred::All => notes.phrase("states are inferred from segments and timeouts"),
        }
        for (color, text) in [(color, outcome), (Color::Plain, notes)] {
            let words = text.as_str().split(' ').filter(|word| !word.is_empty());
            let words: Vec<_> = words.map(str::to_owned).collect();
            for line in wrap(&words, " ", self.width) {
                self.line(&self.style.paint(color, line).to_string());
            }
        }
        self.text.push('\n');
    }

    /// Seconds since the first segment, to the microsecond if they are less than a thousand.
    fn relative(&self, time: Time) -> String {
        let (sign, distance) =
            if time < self.zero { ("-", self.zero.since(time)) } else { ("", time.since(self.zero)) };
        // Rounded down to a microsecond, as in the log.
        let micros = Duration::from_micros(u64::try_from(distance.as_micros()).unwrap_or(u64::MAX));
        let seconds = micros.as_secs_f64();
        let shown = [6, 4, 2].map(|decimals| format!("{sign}{seconds:.decimals$}"));
        let fitting = shown.into_iter().find(|shown| shown.len() <= TIME);
        fitting.unwrap_or_else(|| format!("{sign}{seconds:.0}"))
    }

    fn state(&self, state: TcpState, evidence: Evidence) -> String {
        let mark = match (self.inferred, evidence) {
            (Inferred::Nothing | Inferred::All, _) | (Inferred::Some, Evidence::Kernel) => "",
            (Inferred::Some, Evidence::Segment | Evidence::Timer) => "*",
        };
        format!("{state}{mark}")
    }

    /// 0 for the client, 1 for the server.
    fn side(&self, end: End) -> usize {
        usize::from(end != self.client)
    }

    fn spelled(&self, pieces: Vec<String>) -> Vec<String> {
        pieces.into_iter().map(|piece| self.style.spell(&piece).into_owned()).collect()
    }

    fn line(&mut self, line: &str) {
        let line = self.style.spell(line.trim_end()).into_owned();
        self.text.push_str(&line);
        self.text.push('\n');
    }
}

/// Adds a state beside the arrow that it follows, if there is room.
fn add_state(time: Time, side: usize, state: String, rows: &mut Vec<LadderRow>) {
    let last = rows.iter_mut().rev().find(|row| !matches!(row.middle, Middle::More { .. }));
    match last {
        Some(row)
            if row.states[side].is_none()
                && row.time.is_some_and(|sent| time.since(sent) < FOLLOWS_WITHIN) =>
        {
            row.states[side] = Some(state);
        }
        Some(_) | None => {
            let mut states = [None, None];
            states[side] = Some(state);
            rows.push(LadderRow { time: Some(time), states, middle: Middle::Nothing });
        }
    }
}

/// Whether `end` entered this state to send the next segment.
fn sends_next(state: TcpState, end: End, following: &[ViewEntry]) -> bool {
    use TcpState as S;
    let sends = match state {
        S::SynSent | S::FinWait1 | S::LastAck => true,
        S::Established
        | S::SynRecv
        | S::FinWait2
        | S::TimeWait
        | S::Close
        | S::CloseWait
        | S::Listen
        | S::Closing
        | S::NewSynRecv => false,
    };
    let next = following.iter().find_map(|entry| match entry {
        ViewEntry::Segment(segment) => Some(segment),
        ViewEntry::State { .. } => None,
    });
    sends
        && next.is_some_and(|segment| {
            segment.from == end && !segment.retransmission && is_sent_in(state, segment.step)
        })
}

/// Whether an end sends such a segment when it enters a state.
fn is_sent_in(state: TcpState, step: Step) -> bool {
    match step {
        Step::Syn => state == TcpState::SynSent,
        Step::Fin => state != TcpState::SynSent,
        Step::SynAck | Step::HandshakeAck | Step::FinAck | Step::Rst => false,
    }
}

fn is_teardown(entry: &ViewEntry) -> bool {
    use TcpState as S;
    match entry {
        ViewEntry::Segment(segment) => matches!(segment.step, Step::Fin | Step::FinAck | Step::Rst),
        ViewEntry::State { to, .. } => match to {
            S::FinWait1 | S::FinWait2 | S::CloseWait | S::Closing | S::LastAck | S::TimeWait | S::Close => {
                true
            }
            S::SynSent | S::SynRecv | S::NewSynRecv | S::Established | S::Listen => false,
        },
    }
}

/// The pieces in lines of at most `width` characters; a longer piece is broken.
fn wrap(pieces: &[String], separator: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for piece in pieces {
        let len = piece.chars().count();
        match lines.last_mut() {
            Some(line) if line.chars().count() + separator.len() + len <= width => {
                line.push_str(separator);
                line.push_str(piece);
            }
            Some(_) | None => {
                let characters: Vec<_> = piece.chars().collect();
                lines.extend(characters.chunks(width.max(1)).map(|chunk| chunk.iter().collect::<String>()));
            }
        }
    }
    lines
}

/// A state that is entered later than this after an arrow has a line of its own.
const FOLLOWS_WITHIN: Duration = Duration::from_millis(200);
const MIN_WIDTH: usize = 60;
/// Longer arrows are no easier to follow.
const MAX_WIDTH: usize = 100;
/// Columns of times, and of states: `ESTABLISHED*` is the widest.
const TIME: usize = 10;
const STATE: usize = 12;
/// The column of the left line.
const LEFT_LINE: usize = TIME + 1 + STATE + 1;
/// Columns outside the vertical lines.
const OUTSIDE: usize = LEFT_LINE + 2 + 1 + STATE;
/// Columns of an arrow besides its label: both ends, spaces, and a short shaft.
const ARROW: usize = 5;
/// Indentation of text below an arrow.
const INDENT: usize = 2;
