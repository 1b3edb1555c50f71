//! Sockets as the kernel reports them: the transitions that `inet_sock_set_state` and its callers
//! make.

use std::net::SocketAddr;
use std::time::Duration;

use tcp_monitor::lifecycle::Time;
use tcp_monitor::lifecycle::input::{
    Comm, Presence, PresentSocket, Process, ResetDirection, RetransmitKind, SocketEvent, SocketInput, TcpSock,
};
use tcp_monitor_common::TcpState::{
    self, Close, CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, NewSynRecv, SynRecv,
    SynSent, TimeWait,
};
use tcp_monitor_common::record::{ResetPhase, Role};

use super::Script;
use super::scene::Connection;

/// A socket, and later ones with the same addresses.
pub(crate) struct Socket {
    pub(crate) state: TcpState,
    /// The index of its end among all ends.
    number: u64,
    role: Role,
    lives: u64,
    /// The kernel gave it a cookie; before Linux 5.12 only if asked.
    has_cookie: bool,
    peer_closed: bool,
}

impl Socket {
    pub(crate) fn new(number: u64, state: TcpState) -> Self {
        Self { state, number, role: Role::Client, lives: 0, has_cookie: true, peer_closed: false }
    }

    /// An event that does not change its state.
    fn aside(&self, what: u8) -> Option<SocketEvent> {
        let state = self.state;
        match what >> 4 & 7 {
            0 => Some(SocketEvent::State { from: state, to: state }),
            1 => Some(SocketEvent::Retransmit { kind: RetransmitKind::Data, state }),
            2 => Some(SocketEvent::Reset {
                direction: if what & 1 == 0 { ResetDirection::Sent } else { ResetDirection::Received },
                phase: ResetPhase::Closing,
                reason: what,
                state: Some(state).filter(|state| *state != Close),
            }),
            _ => None,
        }
    }

    /// Its next transition.
    fn advance(&mut self, what: u8) -> Option<SocketEvent> {
        let from = if self.state == Close && what & 4 != 0 { Listen } else { self.state };
        let choices = next(from);
        let to = *choices.get(usize::from(what & 3) % choices.len().max(1))?;
        if matches!(from, Close | Listen) {
            self.lives += 1;
            self.role = if from == Close { Role::Client } else { Role::Server };
            self.has_cookie = what & 64 != 0;
            self.peer_closed = false;
        }
        self.peer_closed |=
            matches!(to, CloseWait | Closing) || (from, to) == (FinWait2, Close) && what & 4 != 0;
        self.state = to;
        Some(SocketEvent::State { from, to })
    }

    fn cookie(&self) -> u64 {
        if self.has_cookie { 1000 * self.number + self.lives } else { 0 }
    }
}

impl Connection {
    /// What happens to the socket of an end.
    pub(crate) fn happen(
        &mut self,
        end: usize,
        time: Time,
        nonsense: bool,
        script: &mut Script<'_>,
    ) -> Option<SocketInput> {
        let [snd_nxt, rcv_nxt] = [end, 1 - end].map(|end| self.streams[end].next());
        let (netns, [mut local, mut remote]) = (self.netns, [self.ends[end], self.ends[1 - end]]);
        let socket = self.sockets[end].as_mut()?;
        let what = script.byte();
        let details = script.byte();
        let kind = if nonsense && details & 1 == 1 {
            SocketEvent::State { from: script.pick(&TcpState::ALL), to: script.pick(&TcpState::ALL) }
        } else {
            socket.aside(what).or_else(|| socket.advance(what))?
        };
        let mut cookie = socket.cookie();
        // Fields that the kernel may not have filled in yet.
        if details & 2 == 2 {
            match kind {
                SocketEvent::State { from: Close, to: SynSent } => local.set_port(0),
                SocketEvent::State { from: Listen, to: SynRecv } => {
                    remote = SocketAddr::from(([0, 0, 0, 0], 0));
                    cookie = 77;
                }
                SocketEvent::State { .. } | SocketEvent::Reset { .. } | SocketEvent::Retransmit { .. } => {}
            }
        }
        Some(SocketInput {
            time,
            netns,
            cookie,
            sk: socket.number + 1,
            cgroup: 0,
            role: socket.role,
            local,
            remote,
            process: (details & 4 == 4).then_some(Process { pid: 7, comm: Comm([details; 16]) }),
            peer_closed: socket.peer_closed,
            orphan: details & 8 == 8,
            tcp: (details & 48 != 48).then(|| TcpSock {
                snd_nxt,
                rcv_nxt,
                snd_una: snd_nxt,
                sk_err: if details & 64 == 64 { script.pick(&ERRORS) } else { 0 },
                ..TcpSock::default()
            }),
            kind,
        })
    }

    /// The socket of an end as sock_diag reports it. With `nonsense`, a timewait socket where the
    /// socket is closed.
    pub(crate) fn find(
        &self,
        end: usize,
        time: Time,
        nonsense: bool,
        script: &mut Script<'_>,
    ) -> Option<PresentSocket> {
        let socket = self.sockets[end].as_ref()?;
        let details = script.byte();
        let presence = if socket.state == SynRecv {
            // A child is in SYN_RECV only for a moment, in which no dump is made.
            return None;
        } else if socket.state != Close {
            Presence::Socket(socket.state)
        } else if nonsense {
            let left = Duration::from_secs(1 + u64::from(details >> 2));
            Presence::Waiting { peer_closed: details & 1 == 1, left }
        } else {
            return None;
        };
        Some(PresentSocket {
            time,
            netns: self.netns,
            // A dump gives the socket a cookie, which later events do not have before Linux 5.12.
            cookie: if socket.has_cookie { socket.cookie() } else { return None },
            role: if details & 2 == 2 { Role::Server } else { Role::Client },
            local: self.ends[end],
            remote: self.ends[1 - end],
            presence,
        })
    }
}

/// The states that a socket in `state` can enter, as the kernel reports them.
const fn next(state: TcpState) -> &'static [TcpState] {
    match state {
        Close => &[SynSent],
        Listen => &[SynRecv],
        SynSent => &[Established, Established, SynRecv, Close],
        // With fast open, a socket can close in SYN_RECV.
        SynRecv => &[Established, Established, FinWait1, Close],
        Established => &[FinWait1, CloseWait, Close],
        FinWait1 => &[FinWait2, Closing, Close],
        CloseWait => &[LastAck, LastAck, Close],
        // The kernel reports the change to TIME_WAIT as CLOSE, too.
        FinWait2 | Closing | LastAck => &[Close],
        TimeWait | NewSynRecv => &[],
    }
}

/// ECONNRESET, EPIPE, ECONNABORTED, ETIMEDOUT, ECONNREFUSED, EHOSTUNREACH.
const ERRORS: [u32; 6] = [104, 32, 103, 110, 111, 113];
