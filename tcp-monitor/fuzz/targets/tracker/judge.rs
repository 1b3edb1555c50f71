//! Invariants of the reported events, for any input.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use tcp_monitor::lifecycle::event::{Evidence, Handshake, StateChange};
use tcp_monitor::lifecycle::{Event, EventKind, InferFrom, Time, Tracker};
use tcp_monitor_common::TcpState;
use tcp_monitor_common::counters::HandshakeFailure;

use super::rules::Rules;
use super::scene::Scene;

/// The state reported of each end, by its address. No two ends have the same IP address.
pub(crate) struct Judge {
    rules: Rules,
    /// Port 0: a connecting socket whose port is not known yet.
    lives: HashMap<SocketAddr, Life>,
    last: Time,
}

#[derive(Debug)]
struct Life {
    state: TcpState,
    /// It is established, and its handshake must be reported.
    awaits_handshake: bool,
    /// Its handshake failed, or its connection was closed.
    is_over: bool,
}

impl Judge {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, lives: HashMap::new(), last: Time::default() }
    }

    /// Checks the events of one input. `deferred` is the result of [`Tracker::earliest_deferred`]
    /// before it. `span` lasts from the time of the previous input to that of this one.
    pub(crate) fn check(
        &mut self,
        events: &[Event],
        tracker: &Tracker,
        deferred: Option<Time>,
        span: Range<Time>,
        scene: &Scene,
    ) {
        for event in events {
            self.check_time(event, deferred, &span);
        }
        self.check_size(tracker, span.end);
        // A connection whose entry was removed can be seen again in any state.
        let loses_entries = tracker.evicted() > 0 || self.may_have_expired(scene);
        for event in events {
            match &event.kind {
                EventKind::State(change) if self.is_checked(change.local.ip(), scene) && !loses_entries => {
                    self.change(change);
                }
                EventKind::Handshake(handshake)
                    if self.is_checked(handshake.local.ip(), scene) && !loses_entries =>
                {
                    self.end_handshake(handshake);
                }
                EventKind::Closed(closed) if self.is_checked(closed.local.ip(), scene) && !loses_entries => {
                    self.end(closed.local);
                }
                EventKind::State(_)
                | EventKind::Handshake(_)
                | EventKind::Closed(_)
                | EventKind::Segment(_)
                | EventKind::Reset(_)
                | EventKind::Retransmit(_)
                | EventKind::Lost(_)
                | EventKind::Stuck(_) => {}
            }
        }
    }

    /// Checks that every timeout has passed, and that every open socket is in the state that the
    /// kernel has it in.
    pub(crate) fn check_end(&self, scene: &Scene, tracker: &Tracker) {
        if tracker.evicted() > 0 {
            return;
        }
        assert_eq!(tracker.inferred(), 0, "inferred connections time out");
        if self.may_have_expired(scene) {
            return;
        }
        for (end, life) in self.lives.iter().filter(|(end, _)| self.is_checked(end.ip(), scene)) {
            let is_earlier = end.port() != 0 && self.lives.contains_key(&SocketAddr::new(end.ip(), 0));
            let state = scene.state_of(end.ip()).filter(|_| !is_earlier).unwrap_or(TcpState::Close);
            // A child is not reported until it has addresses.
            let is_unaddressed = state == TcpState::SynRecv && life.state == TcpState::Close;
            assert!(life.state == state || is_unaddressed, "{end} is in {state}, and not in {}", life.state);
            assert_eq!(life.is_over, life.state == TcpState::Close, "{end}");
        }
    }

    /// Whether the events of an end have one source, which reports no impossible transitions.
    fn is_checked(&self, end: IpAddr, scene: &Scene) -> bool {
        if scene.is_reported(end) {
            self.rules.infer_from == InferFrom::Nothing && !self.rules.nonsense
        } else {
            true
        }
    }

    /// A connection of which only control segments are seen may be idle for any time. Its entry
    /// expires without an event.
    fn may_have_expired(&self, scene: &Scene) -> bool {
        self.rules.infer_from == InferFrom::ControlSegments && scene.elapsed() >= IDLE_LIMIT
    }

    /// Time does not go back, except for a new socket that is reported late, once its addresses are
    /// known.
    fn check_time(&mut self, event: &Event, deferred: Option<Time>, span: &Range<Time>) {
        if self.rules.time_goes_back {
            return;
        }
        let time = event.time;
        assert!(time <= span.end, "later than its input: {event:?}");
        let was_deferred = deferred.is_some_and(|deferred| deferred <= time);
        let is_unusually_late = time + UNUSUALLY_LATE < span.start;
        assert!(
            time >= self.last || was_deferred || is_unusually_late,
            "back from {:?}: {event:?}",
            self.last
        );
        self.last = self.last.max(time);
    }

    fn check_size(&self, tracker: &Tracker, now: Time) {
        let most = self.rules.max_connections;
        assert!(tracker.inferred() <= most.min(CONNECTIONS), "{} inferred", tracker.inferred());
        assert!(tracker.sockets() <= most, "{} sockets", tracker.sockets());
        if !self.rules.time_goes_back {
            let deadline = tracker.next_deadline();
            assert!(deadline.is_none_or(|deadline| deadline > now), "{deadline:?} has passed: {now:?}");
        }
    }

    fn change(&mut self, change: &StateChange) {
        assert!(is_legal(change.from, change.to), "{change:?}");
        let closed = Life { state: TcpState::Close, awaits_handshake: false, is_over: true };
        if change.from == TcpState::SynSent
            && let Some(life) = self.lives.remove(&SocketAddr::new(change.local.ip(), 0))
        {
            let before = self.lives.insert(change.local, life);
            assert!(
                before.is_none_or(|life| life.is_over),
                "the previous connection has not ended: {change:?}"
            );
        }
        let is_first = !self.lives.contains_key(&change.local);
        let life = self.lives.entry(change.local).or_insert(closed);
        assert!(!life.awaits_handshake, "the handshake was not reported: {change:?}");
        if life.state == TcpState::Close {
            assert!(life.is_over, "the previous connection has not ended: {change:?}");
            let begins = matches!(change.from, TcpState::Close | TcpState::Listen);
            let may_begin_midway =
                change.evidence != Evidence::Kernel || self.rules.begins_midway && is_first;
            assert!(begins || may_begin_midway, "begins midway: {change:?}");
            life.is_over = false;
        } else {
            assert_eq!(life.state, change.from, "{change:?}");
        }
        let opens = matches!(change.from, TcpState::SynSent | TcpState::SynRecv | TcpState::NewSynRecv);
        // A fast open socket may close before its handshake is complete. The kernel then reports no
        // handshake.
        let ends = matches!(change.to, TcpState::Established | TcpState::Close);
        let is_inferred = change.evidence == Evidence::Segment && change.to != TcpState::SynRecv;
        life.awaits_handshake = opens && (ends || is_inferred);
        life.state = change.to;
    }

    fn end_handshake(&mut self, handshake: &Handshake) {
        // Of a closed port this is the only event.
        if handshake.result == Err(HandshakeFailure::NoListener) {
            return;
        }
        let Some(life) = self.lives.get_mut(&handshake.local) else {
            panic!("{handshake:?} of no known end")
        };
        assert_eq!(handshake.result.is_err(), life.state == TcpState::Close, "{handshake:?} of {life:?}");
        life.awaits_handshake = false;
        if handshake.result.is_err() {
            self.end(handshake.local);
        }
    }

    fn end(&mut self, end: SocketAddr) {
        let Some(life) = self.lives.get_mut(&end) else { panic!("{end} ends without a beginning") };
        assert!(!life.is_over, "{end} ends twice");
        assert!(matches!(life.state, TcpState::Close | TcpState::TimeWait), "{end} ends in {}", life.state);
        assert!(!life.awaits_handshake, "{end} ends before its handshake is reported");
        life.is_over = true;
    }
}

/// The transitions of RFC 9293, figure 5, and those that a RST, a timer or a lost segment adds.
fn is_legal(from: TcpState, to: TcpState) -> bool {
    use TcpState as S;
    let next: &[S] = match from {
        S::Close => &[S::SynSent, S::Listen],
        S::Listen => &[S::SynRecv, S::Close],
        S::SynSent => &[S::SynRecv, S::Established, S::Close],
        S::SynRecv | S::NewSynRecv => &[S::Established, S::FinWait1, S::CloseWait, S::Close],
        S::Established => &[S::FinWait1, S::CloseWait, S::Close],
        S::FinWait1 => &[S::FinWait2, S::Closing, S::Close],
        S::FinWait2 => &[S::TimeWait, S::Close],
        S::CloseWait => &[S::LastAck, S::Close],
        S::Closing => &[S::TimeWait, S::Close],
        S::LastAck | S::TimeWait => &[S::Close],
    };
    next.contains(&to)
}

/// As in the tracker.
const UNUSUALLY_LATE: Duration = Duration::from_millis(20);
/// As documented: five days.
const IDLE_LIMIT: Duration = Duration::from_secs(5 * 86_400);
/// In a scene.
const CONNECTIONS: usize = 4;
