//! Random inputs in random order: the tracker enters and leaves every TIME_WAIT once.

use tcp_monitor_common::TcpState;
use tcp_monitor_common::record::ResetPhase;

use super::script::{Script, at, client, from_client, from_server, no_addr, server};
use crate::lifecycle::input::{ResetDirection, SocketEvent};
use crate::lifecycle::segment::Flags;
use crate::lifecycle::{Event, EventKind, SegmentInput, SocketInput};

/// xorshift64
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 >> 33).unwrap_or_default() % limit
    }

    pub(super) fn once_in(&mut self, times: u32) -> bool {
        self.below(times) == 0
    }

    /// A state that the kernel reports.
    fn state(&mut self) -> TcpState {
        loop {
            let state = TcpState::ALL[self.below(12) as usize];
            if !matches!(state, TcpState::TimeWait | TcpState::NewSynRecv) {
                return state;
            }
        }
    }

    pub(super) fn socket(&mut self, ms: u64) -> SocketInput {
        let (from, to) = (self.state(), self.state());
        let mut input = if self.once_in(2) { client(ms, from, to) } else { server(ms, from, to) };
        input.netns = self.below(2);
        input.cookie = self.below(4).into();
        input.peer_closed = self.once_in(2);
        if self.once_in(8) {
            input.local.set_port(0);
        }
        if self.once_in(8) {
            input.remote = no_addr();
        }
        if self.once_in(8) {
            input.tcp = None;
        }
        if self.once_in(8) {
            input = input.with_err(104);
        }
        if self.once_in(8) {
            input.kind = SocketEvent::Reset {
                direction: ResetDirection::Sent,
                phase: ResetPhase::Closing,
                reason: 255,
                state: None,
            };
        }
        input
    }

    pub(super) fn segment(&mut self, ms: u64) -> SegmentInput {
        let flags = u8::try_from(self.below(256)).map(Flags::from_low_byte).unwrap_or_default();
        let (seq, ack) = (self.below(60), self.below(60));
        let segment =
            if self.once_in(2) { from_client(ms, flags, seq, ack) } else { from_server(ms, flags, seq, ack) };
        SegmentInput {
            netns: self.below(2),
            ifindex: self.below(3),
            payload_len: self.below(2) * 50,
            acks_syn_ack: self.once_in(2),
            acks_fin: self.once_in(2),
            ..segment
        }
    }
}

#[test]
fn every_time_wait_is_entered_once_and_left_once() {
    let (mut random, mut script, mut ms) = (Random(0x9e37_79b9_7f4a_7c15), Script::new(), 0);
    let mut time_waits = 0;
    let mut count = |events: Vec<Event>| {
        for event in events {
            if let EventKind::State(change) = event.kind {
                time_waits += i32::from(change.to == TcpState::TimeWait);
                time_waits -= i32::from(change.from == TcpState::TimeWait);
                // Two namespaces with four cookies each: no more sockets can be in TIME_WAIT at
                // once.
                assert!((0..=4 * 2).contains(&time_waits), "{change:?}");
            }
        }
    };
    for _ in 0..100_000 {
        // Records of two CPUs can be slightly out of order, and a monitor can be idle for long.
        let now = (ms + u64::from(random.below(3))).saturating_sub(1);
        ms += if random.once_in(500) { 90_000 } else { u64::from(random.below(3)) };
        if random.once_in(2) {
            script.socket(random.socket(now));
        } else {
            script.segment(random.segment(now));
        }
        count(script.events());
    }
    script.wait_until(ms + 1_000_000);
    count(script.events());
    assert!(script.tracker().next_deadline().is_none_or(|deadline| deadline > at(ms + 1_000_000)));
    assert!(script.tracker().sockets() <= 16);
    assert_eq!((time_waits, script.tracker().evicted()), (0, 0));
}
