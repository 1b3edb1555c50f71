//! The label of a line: the kind of event.

use crate::lifecycle::event::Step;
use crate::output::append::Spaces;
use crate::output::style::Color;

/// The kind of event of a line.
#[derive(Clone, Copy, Debug)]
pub(super) enum Label {
    Syn,
    SynAck,
    Ack,
    Fin,
    Rst,
    State,
    Open,
    Failed,
    Closed,
    Reset,
    Retrans,
    Stuck,
    Lost,
    Skipped,
}

impl Label {
    /// The width of the widest: `SYN-ACK`, `RETRANS`.
    pub(super) const WIDTH: usize = 7;

    pub(super) const fn of(step: Step) -> Self {
        match step {
            Step::Syn => Self::Syn,
            Step::SynAck => Self::SynAck,
            Step::HandshakeAck | Step::FinAck => Self::Ack,
            Step::Fin => Self::Fin,
            Step::Rst => Self::Rst,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Syn => "SYN",
            Self::SynAck => "SYN-ACK",
            Self::Ack => "ACK",
            Self::Fin => "FIN",
            Self::Rst => "RST",
            Self::State => "STATE",
            Self::Open => "OPEN",
            Self::Failed => "FAILED",
            Self::Closed => "CLOSED",
            Self::Reset => "RESET",
            Self::Retrans => "RETRANS",
            Self::Stuck => "STUCK",
            Self::Lost => "LOST",
            Self::Skipped => "SKIPPED",
        }
    }

    /// The name, and spaces up to the width of the widest.
    pub(super) const fn padded(self) -> (&'static str, Spaces) {
        let name = self.name();
        (name, Spaces(Self::WIDTH - name.len()))
    }

    /// Green and cyan for what is right, red for what may be wrong.
    pub(super) const fn color(self) -> Color {
        match self {
            Self::Syn | Self::SynAck | Self::Ack | Self::Fin => Color::Cyan,
            Self::State => Color::Plain,
            Self::Open => Color::Green,
            Self::Closed => Color::Blue,
            Self::Retrans => Color::Yellow,
            Self::Rst | Self::Failed | Self::Reset | Self::Stuck | Self::Lost | Self::Skipped => Color::Red,
        }
    }
}
