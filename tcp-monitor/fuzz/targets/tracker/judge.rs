//! What must hold of everything that is told, whatever happened.

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

/// What was told of each end, by its address: no two have the same IP address.
pub(crate) struct Judge {
    rules: Rules,
    /// With port 0: connects from a port that is not known yet.
    lives: HashMap<SocketAddr, Life>,
    last: Time,
}

#[derive(Debug)]
struct Life {
    state: TcpState,
    /// It is established, and its handshake must be told.
    awaits_handshake: bool,
    /// Its handshake failed, or its connection was closed.
    is_over: bool,
}

impl Judge {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, lives: HashMap::new(), last: Time::default() }
    }

    /// Judges what was told of one input. `untold` is what [`Tracker::earliest_deferred`] said
    /// before, `span` from the time of the last input to that of this one.
    pub(crate) fn hear(
        &mut self,
        events: &[Event],
        tracker: &Tracker,
        untold: Option<Time>,
        span: Range<Time>,
        scene: &Scene,
    ) {
        for event in events {
            self.judge_time(event, untold, &span);
        }
        self.judge_size(tracker, span.end);
        // What was forgotten is met again, anywhere.
        let forgets = tracker.evicted() > 0 || self.may_be_forgotten(scene);
        for event in events {
            match &event.kind {
                EventKind::State(change) if self.is_followed(change.local.ip(), scene) && !forgets => {
                    self.change(change);
                }
                EventKind::Handshake(handshake)
                    if self.is_followed(handshake.local.ip(), scene) && !forgets =>
                {
                    self.end_handshake(handshake);
                }
                EventKind::Closed(closed) if self.is_followed(closed.local.ip(), scene) && !forgets => {
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

    /// All that could end with time has ended, and what is still there is where the kernel has it.
    pub(crate) fn conclude(&self, scene: &Scene, tracker: &Tracker) {
        if tracker.evicted() > 0 {
            return;
        }
        assert_eq!(tracker.inferred(), 0, "what is inferred ends in silence");
        if self.may_be_forgotten(scene) {
            return;
        }
        for (end, life) in self.lives.iter().filter(|(end, _)| self.is_followed(end.ip(), scene)) {
            let is_earlier = end.port() != 0 && self.lives.contains_key(&SocketAddr::new(end.ip(), 0));
            let state = scene.state_of(end.ip()).filter(|_| !is_earlier).unwrap_or(TcpState::Close);
            // A child without addresses is not told of until it has them.
            let is_unborn = state == TcpState::SynRecv && life.state == TcpState::Close;
            assert!(life.state == state || is_unborn, "{end} is in {state}, and not in {}", life.state);
            assert_eq!(life.is_over, life.state == TcpState::Close, "{end}");
        }
    }

    /// Whether there is one source of what is told of an end, and one that makes sense.
    fn is_followed(&self, end: IpAddr, scene: &Scene) -> bool {
        if scene.is_told(end) {
            self.rules.infer_from == InferFrom::Nothing && !self.rules.nonsense
        } else {
            true
        }
    }

    /// A connection of which only control segments are seen may be silent as long as it likes, and
    /// is forgotten without a word.
    fn may_be_forgotten(&self, scene: &Scene) -> bool {
        self.rules.infer_from == InferFrom::ControlSegments && scene.elapsed() >= FORGOTTEN
    }

    /// Time does not go back, but for the birth of a socket that is told late, when all is known of
    /// it.
    fn judge_time(&mut self, event: &Event, untold: Option<Time>, span: &Range<Time>) {
        if self.rules.time_goes_back {
            return;
        }
        let time = event.time;
        assert!(time <= span.end, "not yet: {event:?}");
        let was_announced = untold.is_some_and(|untold| untold <= time);
        let is_unusually_late = time + UNUSUALLY_LATE < span.start;
        assert!(
            time >= self.last || was_announced || is_unusually_late,
            "back from {:?}: {event:?}",
            self.last
        );
        self.last = self.last.max(time);
    }

    fn judge_size(&self, tracker: &Tracker, now: Time) {
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
        let unborn = Life { state: TcpState::Close, awaits_handshake: false, is_over: true };
        if change.from == TcpState::SynSent
            && let Some(life) = self.lives.remove(&SocketAddr::new(change.local.ip(), 0))
        {
            let before = self.lives.insert(change.local, life);
            assert!(before.is_none_or(|life| life.is_over), "no word of the end before: {change:?}");
        }
        let is_first = !self.lives.contains_key(&change.local);
        let life = self.lives.entry(change.local).or_insert(unborn);
        assert!(!life.awaits_handshake, "no word of the handshake: {change:?}");
        if life.state == TcpState::Close {
            assert!(life.is_over, "no word of the end before: {change:?}");
            let begins = matches!(change.from, TcpState::Close | TcpState::Listen);
            let may_be_met = change.evidence != Evidence::Kernel || self.rules.begins_midway && is_first;
            assert!(begins || may_be_met, "met midway: {change:?}");
            life.is_over = false;
        } else {
            assert_eq!(life.state, change.from, "{change:?}");
        }
        let opens = matches!(change.from, TcpState::SynSent | TcpState::SynRecv | TcpState::NewSynRecv);
        // The kernel lets a socket of fast open close before its handshake is complete, and tells
        // no more of that.
        let ends = matches!(change.to, TcpState::Established | TcpState::Close);
        let is_inferred = change.evidence == Evidence::Segment && change.to != TcpState::SynRecv;
        life.awaits_handshake = opens && (ends || is_inferred);
        life.state = change.to;
    }

    fn end_handshake(&mut self, handshake: &Handshake) {
        // Of a closed port this is all there is to tell.
        if handshake.result == Err(HandshakeFailure::NoListener) {
            return;
        }
        let Some(life) = self.lives.get_mut(&handshake.local) else { panic!("{handshake:?} of nobody") };
        assert_eq!(handshake.result.is_err(), life.state == TcpState::Close, "{handshake:?} of {life:?}");
        life.awaits_handshake = false;
        if handshake.result.is_err() {
            self.end(handshake.local);
        }
    }

    fn end(&mut self, end: SocketAddr) {
        let Some(life) = self.lives.get_mut(&end) else { panic!("the end of {end}, which never was") };
        assert!(!life.is_over, "{end} ends twice");
        assert!(matches!(life.state, TcpState::Close | TcpState::TimeWait), "{end} ends in {}", life.state);
        assert!(!life.awaits_handshake, "{end} ends without a word of its handshake");
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

/// As the tracker sees it.
const UNUSUALLY_LATE: Duration = Duration::from_millis(20);
/// As documented: five days.
const FORGOTTEN: Duration = Duration::from_secs(5 * 86_400);
/// In a scene.
const CONNECTIONS: usize = 4;
