//! The effect of each segment in each state by RFC 9293, as tables: sections 3.10.1 to 3.10.5 for a
//! segment that is sent, 3.10.7 for one that arrives. They are written from the RFC, not from the
//! tracker, and the tracker is tested against them.

use tcp_monitor_common::TcpState;

use crate::lifecycle::segment::Flags;

/// The columns of all tables. The kernel's NEW_SYN_RECV is SYN_RECV of the RFC.
const STATES: &str =
    "CLOSE LISTEN SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE_WAIT CLOSING LAST_ACK TIME_WAIT";

/// The state of an end that has sent a segment with these flags, its numbers being those that are
/// due; a dot where it does not change. What no end sends in a state proves nothing of it.
///
/// - A SYN begins a new connection where there is none, also in place of one in TIME_WAIT.
/// - An ACK of a SYN-ACK shows that it has arrived: SYN_SENT is over.
/// - A FIN closes an opened connection, SYN_RECV included (3.10.4).
/// - A RST aborts the connection (3.10.5). CLOSE, LISTEN and TIME_WAIT also answer stray segments
///   with one.
const SENT: &str = "
              CLOSE    LISTEN   SYN_SENT    SYN_RECV  ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE_WAIT CLOSING LAST_ACK TIME_WAIT
    -         .        .        .           .         .           .         .         .          .       .        .
    F         .        .        .           .         .           .         .         .          .       .        .
    S         SYN_SENT SYN_SENT .           .         .           .         .         .          .       .        SYN_SENT
    SF        SYN_SENT SYN_SENT .           .         .           .         .         .          .       .        SYN_SENT
    A         .        .        ESTABLISHED .         .           .         .         .          .       .        .
    FA        .        .        FIN_WAIT1   FIN_WAIT1 FIN_WAIT1   .         .         LAST_ACK   .       .        .
    SA        SYN_RECV SYN_RECV SYN_RECV    .         .           .         .         .          .       .        SYN_RECV
    SFA       SYN_RECV SYN_RECV SYN_RECV    .         .           .         .         .          .       .        SYN_RECV
    R         .        .        CLOSE       CLOSE     CLOSE       CLOSE     CLOSE     CLOSE      CLOSE   CLOSE    .
    RF        .        .        CLOSE       CLOSE     CLOSE       CLOSE     CLOSE     CLOSE      CLOSE   CLOSE    .
    RS        .        .        CLOSE       CLOSE     CLOSE       CLOSE     CLOSE     CLOSE      CLOSE   CLOSE    .
    RSF       .        .        CLOSE       CLOSE     CLOSE       CLOSE     CLOSE     CLOSE      CLOSE   CLOSE    .
    RA        .        .        CLOSE       CLOSE     CLOSE       CLOSE     CLOSE     CLOSE      CLOSE   CLOSE    .
    RFA       .        .        CLOSE       CLOSE     CLOSE       CLOSE     CLOSE     CLOSE      CLOSE   CLOSE    .
    RSA       .        .        CLOSE       CLOSE     CLOSE       CLOSE     CLOSE     CLOSE      CLOSE   CLOSE    .
    RSFA      .        .        CLOSE       CLOSE     CLOSE       CLOSE     CLOSE     CLOSE      CLOSE   CLOSE    .
";

/// The same for a segment that acknowledges a FIN of the peer for the first time. For flags that
/// are not listed: as above.
const SENT_ANSWERING_FIN: &str = "
              CLOSE    LISTEN   SYN_SENT    SYN_RECV  ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE_WAIT CLOSING LAST_ACK TIME_WAIT
    A         .        .        CLOSE_WAIT  .         CLOSE_WAIT  CLOSING   TIME_WAIT .          .       .        .
    FA        .        .        LAST_ACK    .         LAST_ACK    CLOSING   TIME_WAIT .          .       .        .
";

/// The state of an end that has received a segment with these flags and acceptable numbers, and
/// what it answers: `ack`, `syn-ack` or `rst`; nothing where none is given. `drop` and `challenge`
/// (an ACK as answer, RFC 5961): the segment is not expected in the state.
///
/// Where RFC 9293 and the kernel differ, the table follows the kernel:
/// - SYN with FIN: discarded by a listener (`tcp_rcv_state_process`). The RFC lets the SYN count.
/// - SYN-ACK with FIN, in SYN_SENT: the FIN does not count (`tcp_rcv_synsent_state_process`). The
///   RFC goes on to CLOSE_WAIT.
/// - SYN in SYN_RECV: a retransmitted SYN makes the kernel retransmit the SYN-ACK
///   (`tcp_check_req`). The RFC answers with an ACK.
/// - SYN-ACK in SYN_RECV of a simultaneous open: completes it, as figure 8 of the RFC has it and
///   its section 3.10.7.4 does not, for the sequence number is an old one
///   (`tcp_validate_incoming`).
/// - SYN in TIME_WAIT: a new connection (`TCP_TW_SYN`), which the RFC allows (3.6.1).
/// - Retransmitted FIN in LAST_ACK: its acknowledgment counts, since it ends where the window
///   begins (`tcp_sequence`).
const RECEIVED: &str = "
              CLOSE    LISTEN           SYN_SENT         SYN_RECV       ESTABLISHED    FIN_WAIT1   FIN_WAIT2     CLOSE_WAIT CLOSING   LAST_ACK  TIME_WAIT
    -         rst      drop             drop             drop           drop           drop        drop          drop       drop      drop      drop
    F         rst      drop             drop             drop           drop           drop        drop          drop       drop      drop      drop
    S         rst      SYN_RECV:syn-ack SYN_RECV:syn-ack syn-ack        challenge      challenge   challenge     challenge  challenge challenge SYN_RECV:syn-ack
    SF        rst      .                SYN_RECV:syn-ack syn-ack        challenge      challenge   challenge     challenge  challenge challenge .
    A         rst      rst              drop             ESTABLISHED    .              .           .             .          .         .         .
    FA        rst      rst              drop             CLOSE_WAIT:ack CLOSE_WAIT:ack CLOSING:ack TIME_WAIT:ack ack        ack       ack       ack
    SA        rst      rst              ESTABLISHED:ack  ESTABLISHED    challenge      challenge   challenge     challenge  challenge challenge challenge
    SFA       rst      rst              ESTABLISHED:ack  ESTABLISHED    challenge      challenge   challenge     challenge  challenge challenge challenge
    R         .        .                drop             CLOSE          CLOSE          CLOSE       CLOSE         CLOSE      CLOSE     CLOSE     CLOSE
    RF        .        .                drop             CLOSE          CLOSE          CLOSE       CLOSE         CLOSE      CLOSE     CLOSE     CLOSE
    RS        .        .                drop             CLOSE          CLOSE          CLOSE       CLOSE         CLOSE      CLOSE     CLOSE     CLOSE
    RSF       .        .                drop             CLOSE          CLOSE          CLOSE       CLOSE         CLOSE      CLOSE     CLOSE     CLOSE
    RA        .        .                CLOSE            CLOSE          CLOSE          CLOSE       CLOSE         CLOSE      CLOSE     CLOSE     CLOSE
    RFA       .        .                CLOSE            CLOSE          CLOSE          CLOSE       CLOSE         CLOSE      CLOSE     CLOSE     CLOSE
    RSA       .        .                CLOSE            CLOSE          CLOSE          CLOSE       CLOSE         CLOSE      CLOSE     CLOSE     CLOSE
    RSFA      .        .                CLOSE            CLOSE          CLOSE          CLOSE       CLOSE         CLOSE      CLOSE     CLOSE     CLOSE
";

/// The same for a segment that acknowledges the FIN of the end for the first time. For flags that
/// are not listed: as above.
const RECEIVED_ACKING_FIN: &str = "
              CLOSE    LISTEN   SYN_SENT    SYN_RECV  ESTABLISHED FIN_WAIT1     FIN_WAIT2 CLOSE_WAIT CLOSING       LAST_ACK TIME_WAIT
    A         .        .        .           .         .           FIN_WAIT2     .         .          TIME_WAIT     CLOSE    .
    FA        .        .        .           .         .           TIME_WAIT:ack .         .          TIME_WAIT:ack CLOSE    .
";

/// What an end does with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) state: TcpState,
    pub(super) answer: Option<Answer>,
    /// The segment is not expected in the state.
    pub(super) misplaced: bool,
}

/// What an end answers a segment with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Ack,
    SynAck,
    Rst,
}

/// The state of an end after it has sent a segment with these flags in `state`.
pub(super) fn after_sending(state: TcpState, flags: Flags, answers_fin: bool) -> TcpState {
    let special = answers_fin.then(|| find(SENT_ANSWERING_FIN, state, flags)).flatten();
    let cell = special.or_else(|| find(SENT, state, flags)).expect("the table names all flags");
    effect(cell, state).state
}

/// What an end in `state` does with a segment that has these flags.
pub(super) fn on_receiving(state: TcpState, flags: Flags, acks_fin: bool) -> Effect {
    let special = acks_fin.then(|| find(RECEIVED_ACKING_FIN, state, flags)).flatten();
    let cell = special.or_else(|| find(RECEIVED, state, flags)).expect("the table names all flags");
    effect(cell, state)
}

fn effect(cell: &str, state: TcpState) -> Effect {
    let (to, answer) = cell.split_once(':').unwrap_or((cell, ""));
    let named = TcpState::ALL.into_iter().find(|state| state.to_string() == to);
    let answered = if named.is_some() { answer } else { cell };
    let (answer, misplaced) = match answered {
        "" | "." => (None, false),
        "ack" => (Some(Answer::Ack), false),
        "syn-ack" => (Some(Answer::SynAck), false),
        "rst" => (Some(Answer::Rst), false),
        "challenge" => (Some(Answer::Ack), true),
        "drop" => (None, true),
        _ => panic!("unknown cell {cell:?}"),
    };
    Effect { state: named.unwrap_or(state), answer, misplaced }
}

/// The cell of a table, where it has a row of these flags.
fn find(table: &'static str, state: TcpState, flags: Flags) -> Option<&'static str> {
    let state = if state == TcpState::NewSynRecv { TcpState::SynRecv } else { state };
    let mut rows = table.lines().map(str::split_whitespace).filter(|row| row.clone().next().is_some());
    let header = rows.next()?;
    assert!(header.clone().eq(STATES.split(' ')), "the columns are the states");
    let column = header.into_iter().position(|name| name == state.to_string())?;
    let mut row = rows.find(|row| row.clone().next() == Some(&name(flags)))?;
    assert_eq!(row.clone().count(), STATES.split(' ').count() + 1, "a cell for each state");
    row.nth(column + 1)
}

/// Flags as the tables name them: those of RST, SYN, FIN and ACK, the others do not matter.
pub(super) fn name(flags: Flags) -> String {
    let letters = [(Flags::RST, 'R'), (Flags::SYN, 'S'), (Flags::FIN, 'F'), (Flags::ACK, 'A')];
    let name: String =
        letters.into_iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| name).collect();
    if name.is_empty() { "-".into() } else { name }
}
