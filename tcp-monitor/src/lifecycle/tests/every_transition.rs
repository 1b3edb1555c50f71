//! Every transition that a kernel could report, of a client and of a server, with each error and
//! with and without the peer's FIN: the events that it causes, at once and when a minute has
//! passed.

use tcp_monitor_common::TcpState::{
    self, Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, NewSynRecv, SynRecv,
    SynSent, TimeWait,
};
use tcp_monitor_common::record::Role;

use super::script::{Script, client, server};
use crate::lifecycle::{Event, EventKind, SocketInput};

/// What each transition is: nothing (`-`), a change of `state`, a handshake that is `done` or
/// `failed`, a connection that is `closed`, or in its first or second half of closing, according to
/// the error (`ends`).
const MEANINGS: &str = "
    from \\ to     ESTABLISHED SYN_SENT SYN_RECV FIN_WAIT1 FIN_WAIT2 TIME_WAIT CLOSE  CLOSE_WAIT LAST_ACK LISTEN CLOSING NEW_SYN_RECV
    ESTABLISHED   -           state    state    state     state     state     ends   state      state    state  state   state
    SYN_SENT      done        -        state    state     state     state     failed state      state    state  state   state
    SYN_RECV      done        state    -        state     state     state     failed state      state    state  state   state
    FIN_WAIT1     state       state    state    -         state     state     ends   state      state    state  state   state
    FIN_WAIT2     state       state    state    state     -         state     ends   state      state    state  state   state
    TIME_WAIT     state       state    state    state     state     -         closed state      state    state  state   state
    CLOSE         state       state    state    state     state     state     -      state      state    state  state   state
    CLOSE_WAIT    state       state    state    state     state     state     ends   -          state    state  state   state
    LAST_ACK      state       state    state    state     state     state     ends   state      -        state  state   state
    LISTEN        state       state    state    state     state     state     state  state      state    -      state   state
    CLOSING       state       state    state    state     state     state     ends   state      state    state  -       state
    NEW_SYN_RECV  done        state    state    state     state     state     failed state      state    state  state   -
";

/// What each `sk_err` means, when a handshake fails for a client and for a server, and when a
/// connection ends.
const ERRORS: [(u32, &str, &str, &str); 9] = [
    (0, "aborted", "aborted", "local_reset"),
    (13, "other", "other", "timed_out"),            // EACCES: an ICMP error
    (32, "other", "other", "remote_reset"),         // EPIPE: a RST in CLOSE_WAIT
    (101, "net_unreachable", "other", "timed_out"), // ENETUNREACH
    (103, "aborted", "aborted", "killed"),          // ECONNABORTED: `ss -K`
    (104, "other", "reset", "remote_reset"),        // ECONNRESET
    (110, "timed_out", "timed_out", "timed_out"),   // ETIMEDOUT
    (111, "refused", "other", "timed_out"),         // ECONNREFUSED
    (113, "host_unreachable", "other", "timed_out"), // EHOSTUNREACH
];

/// The events at once, and those when a minute has passed: the timer of a timewait socket, of which
/// the kernel reports only that it is closed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reported {
    now: Vec<String>,
    later: Vec<String>,
}

fn expected(from: TcpState, to: TcpState, role: Role, error: usize, peer_closed: bool) -> Reported {
    let (errno, of_client, of_server, of_connection) = ERRORS[error];
    let enters = |to: &str| format!("{} {}>{to} kernel", role.label(), from.label());
    let closed = |by: &str| format!("{} closed by {by}", role.label());
    let at_once = |now: Vec<String>| Reported { now, later: Vec::new() };
    let to = to.label();
    match meaning(from, to) {
        "-" => Reported::default(),
        "state" => at_once(vec![enters(to)]),
        "done" => at_once(vec![enters(to), format!("{} handshake completed", role.label())]),
        "failed" => {
            let reason = match role {
                Role::Client => of_client,
                Role::Server => of_server,
            };
            at_once(vec![enters(to), format!("{} handshake {reason}", role.label())])
        }
        "closed" => at_once(vec![enters(to), closed("local")]),
        "ends" if errno != 0 => at_once(vec![enters(to), closed(of_connection)]),
        "ends" if from == LastAck => at_once(vec![enters(to), closed("remote")]),
        // A timewait socket replaces the socket, and the kernel reports no more of it. Its state is
        // TIME_WAIT, or FIN_WAIT2 until the peer's FIN.
        "ends" if from == Closing || from == FinWait2 && peer_closed => {
            let by = if from == Closing { "both" } else { "local" };
            let later = format!("{} time_wait>close timer", role.label());
            Reported { now: vec![enters("time_wait"), closed(by)], later: vec![later] }
        }
        "ends" if from == FinWait2 => {
            let later = vec![format!("{} fin_wait2>close timer", role.label()), closed("local")];
            Reported { now: Vec::new(), later }
        }
        "ends" => at_once(vec![enters(to), closed(of_connection)]),
        other => panic!("{other}: no such meaning"),
    }
}

fn meaning(from: TcpState, to: &str) -> &'static str {
    let mut rows = MEANINGS.trim().lines().map(str::split_whitespace);
    let columns = rows.next().expect("a first row").skip(3);
    let column = columns.map(str::to_lowercase).position(|name| name == to).expect("a column for each state");
    let mut row =
        rows.find(|row| row.clone().next() == Some(&from.to_string())).expect("a row for each state");
    row.nth(column + 1).expect("a cell for each pair")
}

fn reported(script: &mut Script) -> Vec<String> {
    let describe = |event: Event| match &event.kind {
        EventKind::State(change) => {
            let (from, to) = (change.from.label(), change.to.label());
            format!("{} {from}>{to} {}", change.role.label(), change.evidence.label())
        }
        EventKind::Handshake(handshake) => {
            format!("{} handshake {}", handshake.role.label(), handshake.result_label())
        }
        EventKind::Closed(closed) => {
            format!("{} closed by {}", closed.role.label(), closed.closed_by.label())
        }
        EventKind::Segment(_)
        | EventKind::Reset(_)
        | EventKind::Retransmit(_)
        | EventKind::Lost(_)
        | EventKind::Stuck(_) => {
            format!("{event:?}")
        }
    };
    script.events().into_iter().map(describe).collect()
}

/// The reported role. SYN_SENT and LISTEN show it; in other states it is the guess of the kernel
/// programs. A socket keeps the role that it was first seen in.
fn role(known: bool, from: TcpState, to: TcpState, guess: Role) -> Role {
    let shown = |state| match state {
        SynSent => Some(Role::Client),
        Listen => Some(Role::Server),
        Close | Established | SynRecv | NewSynRecv | FinWait1 | FinWait2 | CloseWait | Closing | LastAck
        | TimeWait => None,
    };
    let remains = known && from != Close;
    shown(to).filter(|_| !remains).or(shown(from)).unwrap_or(guess)
}

/// Checks the events of one transition. `known`: the tracker has seen the socket enter the state
/// that it leaves.
fn check(known: bool, from: TcpState, to: TcpState, guess: Role, error: usize, peer_closed: bool) {
    let socket = |ms, from, to| match guess {
        Role::Client => client(ms, from, to),
        Role::Server => server(ms, from, to),
    };
    let mut script = Script::new();
    if known && from != Close {
        script.socket(socket(0, Close, from));
        script.events();
    }
    let input = socket(1, from, to).with_err(ERRORS[error].0);
    script.socket(SocketInput { peer_closed, ..input });
    let now = reported(&mut script);
    script.wait_until(60_001);
    let seen = Reported { now, later: reported(&mut script) };
    let case = format!("{from} to {to}, {guess:?}, errno {}, peer closed: {peer_closed}", ERRORS[error].0);
    assert_eq!(seen, expected(from, to, role(known, from, to, guess), error, peer_closed), "{case}");
    let is_open = to != Close && (from != to || known);
    assert_eq!(script.tracker().sockets(), usize::from(is_open), "{case}");
}

#[test]
fn each_transition_is_reported_as_the_table_says() {
    for known in [false, true] {
        for (from, to) in TcpState::ALL.into_iter().flat_map(|from| TcpState::ALL.map(|to| (from, to))) {
            for error in 0..ERRORS.len() {
                for (role, peer_closed) in
                    [Role::Client, Role::Server].into_iter().flat_map(|role| [(role, false), (role, true)])
                {
                    check(known, from, to, role, error, peer_closed);
                }
            }
        }
    }
}
