//! A wire between a client and a server, as a capture sees it: each segment is one line.

use std::time::Duration;

use crate::lifecycle::segment::{Flags, Options as TcpOptions};
use crate::lifecycle::tests::script::{Script, at, from_client, from_server};
use crate::lifecycle::{Event, EventKind, Options, SegmentInput, TcpHeader, Tracker};

/// Passes segments to the tracker, 1 ms apart, and returns the events.
pub(in crate::lifecycle::tests) struct Wire {
    script: Script,
    now: u64,
}

pub(in crate::lifecycle::tests) const ACK: Flags = Flags::ACK;
pub(in crate::lifecycle::tests) const FIN: Flags = Flags::FIN.union(Flags::ACK);
pub(in crate::lifecycle::tests) const RST: Flags = Flags::RST;
pub(in crate::lifecycle::tests) const RST_ACK: Flags = Flags::RST.union(Flags::ACK);
pub(in crate::lifecycle::tests) const SYN: Flags = Flags::SYN;
pub(in crate::lifecycle::tests) const SYN_ACK: Flags = Flags::SYN.union(Flags::ACK);

impl Wire {
    pub(in crate::lifecycle::tests) fn new() -> Self {
        Self { script: Script::inferring(), now: 0 }
    }

    pub(in crate::lifecycle::tests) fn with(options: Options) -> Self {
        Self { script: Script::with(options), now: 0 }
    }

    /// A wire on which the handshake completed at 2 ms. All events up to then have been read.
    pub(in crate::lifecycle::tests) fn established() -> Self {
        let mut wire = Self::new();
        wire.handshake();
        wire.reported();
        wire
    }

    pub(in crate::lifecycle::tests) fn handshake(&mut self) {
        self.client(SYN, 0, 0, 0);
        self.server(SYN_ACK, 0, 1, 0);
        self.client(ACK, 1, 1, 0);
    }

    /// The client sends a segment. Its numbers are relative to the initial sequence numbers.
    pub(in crate::lifecycle::tests) fn client(&mut self, flags: Flags, seq: u32, ack: u32, len: u32) {
        self.see(SegmentInput { payload_len: len, ..from_client(self.now, flags, seq, ack) });
    }

    pub(in crate::lifecycle::tests) fn server(&mut self, flags: Flags, seq: u32, ack: u32, len: u32) {
        self.see(SegmentInput { payload_len: len, ..from_server(self.now, flags, seq, ack) });
    }

    /// The segment is captured now.
    pub(in crate::lifecycle::tests) fn see(&mut self, segment: SegmentInput) {
        // What Linux offers, scaled by 2⁷ after the handshake.
        let options = TcpOptions { window_scale: Some(7), ..TcpOptions::default() };
        let is_syn = segment.header.flags.contains(Flags::SYN);
        let options = if is_syn { options } else { TcpOptions::default() };
        let header = TcpHeader { window: 501, options, ..segment.header };
        self.script.segment(SegmentInput {
            time: at(self.now),
            direction: None,
            ifindex: 0,
            netns: 0,
            header,
            ..segment
        });
        self.now += 1;
    }

    /// As [`Self::see`], with addresses, window and options as they are.
    pub(in crate::lifecycle::tests) fn see_as_is(&mut self, segment: SegmentInput) {
        self.script.segment(SegmentInput { time: at(self.now), ..segment });
        self.now += 1;
    }

    /// No segment passes until `ms`.
    pub(in crate::lifecycle::tests) fn wait_until(&mut self, ms: u64) {
        self.script.wait_until(ms);
        self.now = ms;
    }

    pub(in crate::lifecycle::tests) fn script(&mut self) -> &mut Script {
        &mut self.script
    }

    pub(in crate::lifecycle::tests) fn tracker(&self) -> &Tracker {
        self.script.tracker()
    }

    pub(in crate::lifecycle::tests) fn events(&mut self) -> Vec<Event> {
        self.script.events()
    }

    /// The events reported since the last call, except segments, with addresses as `client` and
    /// `server`.
    pub(in crate::lifecycle::tests) fn reported(&mut self) -> Vec<String> {
        short(self.script.reported())
    }

    /// The segments reported since the last call, and what is unexpected about them.
    pub(in crate::lifecycle::tests) fn segments(&mut self) -> Vec<String> {
        let events = self.events();
        let reported = events.iter().filter_map(|event| match &event.kind {
            EventKind::Segment(segment) => {
                let unexpected = segment.unexpected.map_or("", |unexpected| unexpected.label());
                Some(format!("{} {unexpected}", crate::lifecycle::tests::script::describe(event)))
            }
            EventKind::State(_)
            | EventKind::Handshake(_)
            | EventKind::Reset(_)
            | EventKind::Retransmit(_)
            | EventKind::Closed(_)
            | EventKind::Lost(_)
            | EventKind::Stuck(_) => None,
        });
        short(reported.map(|line| line.trim_end().to_owned()).collect())
    }
}

fn short(lines: Vec<String>) -> Vec<String> {
    let replace = |line: String| {
        let line = line.replace("10.0.0.5:51920 10.0.0.9:8899", "client");
        let line = line.replace("10.0.0.9:8899 10.0.0.5:51920", "server");
        line.replace("10.0.0.5:51920", "client").replace("10.0.0.9:8899", "server")
    };
    lines.into_iter().map(replace).collect()
}

pub(in crate::lifecycle::tests) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
