//! The fields of each kind of event, except for segments.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use serde::ser::Serializer;
use tcp_monitor_common::TcpState;

use crate::lifecycle::event::{Closed, Handshake, Lost, Reset, Retransmit, StateChange, Stuck};
use crate::lifecycle::input::Process;

#[derive(Serialize)]
pub(super) struct StateBody<'a> {
    local: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<SocketAddr>,
    role: &'static str,
    from: &'static str,
    to: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack: Option<u32>,
    evidence: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<ProcessBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_duration_us: Option<u64>,
}

impl<'a> StateBody<'a> {
    pub(super) fn of(change: &'a StateChange) -> Self {
        Self {
            local: change.local,
            remote: change.remote,
            role: change.role.label(),
            from: change.from.label(),
            to: change.to.label(),
            seq: change.seq,
            ack: change.ack,
            evidence: change.evidence.label(),
            process: change.process.as_ref().map(ProcessBody::of),
            state_duration_us: change.state_duration.map(micros),
        }
    }
}

#[derive(Serialize)]
struct ProcessBody<'a> {
    pid: u32,
    comm: Cow<'a, str>,
}

impl<'a> ProcessBody<'a> {
    pub(super) fn of(process: &'a Process) -> Self {
        Self { pid: process.pid, comm: process.comm.to_text() }
    }
}

#[derive(Serialize)]
pub(super) struct HandshakeBody {
    local: SocketAddr,
    remote: SocketAddr,
    role: &'static str,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    syn_retransmits: Option<u32>,
}

impl HandshakeBody {
    pub(super) fn of(handshake: &Handshake) -> Self {
        Self {
            local: handshake.local,
            remote: handshake.remote,
            role: handshake.role.label(),
            result: handshake.result_label(),
            duration_us: handshake.duration.map(micros),
            syn_retransmits: handshake.syn_retransmits,
        }
    }
}

#[derive(Serialize)]
pub(super) struct ResetBody {
    local: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<SocketAddr>,
    direction: &'static str,
    phase: &'static str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack: Option<u32>,
}

impl ResetBody {
    pub(super) const fn of(reset: &Reset) -> Self {
        Self {
            local: reset.local,
            remote: reset.remote,
            direction: reset.direction.label(),
            phase: reset.phase.label(),
            reason: reset.reason,
            seq: reset.seq,
            ack: reset.ack,
        }
    }
}

#[derive(Serialize)]
pub(super) struct RetransmitBody {
    local: SocketAddr,
    remote: SocketAddr,
    kind: &'static str,
    state: &'static str,
}

impl RetransmitBody {
    pub(super) const fn of(retransmit: &Retransmit) -> Self {
        Self {
            local: retransmit.local,
            remote: retransmit.remote,
            kind: retransmit.kind.label(),
            state: retransmit.state.label(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct ClosedBody<'a> {
    local: SocketAddr,
    remote: SocketAddr,
    role: &'static str,
    closed_by: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_sent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_received: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retransmits: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_us: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<ProcessBody<'a>>,
    #[serde(skip_serializing_if = "is_false")]
    partial: bool,
    #[serde(skip_serializing_if = "StatesBody::is_empty")]
    states: StatesBody<'a>,
}

impl<'a> ClosedBody<'a> {
    pub(super) fn of(closed: &'a Closed) -> Self {
        Self {
            local: closed.local,
            remote: closed.remote,
            role: closed.role.label(),
            closed_by: closed.closed_by.label(),
            duration_us: closed.duration.map(micros),
            bytes_sent: closed.bytes_sent,
            bytes_received: closed.bytes_received,
            retransmits: closed.retransmits,
            rtt_us: closed.rtt_us,
            process: closed.process.as_ref().map(ProcessBody::of),
            partial: closed.partial,
            states: StatesBody(&closed.states),
        }
    }
}

#[derive(Serialize)]
pub(super) struct StuckBody<'a> {
    local: SocketAddr,
    remote: SocketAddr,
    role: &'static str,
    state: &'static str,
    age_s: u64,
    unread_bytes: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<ProcessBody<'a>>,
    hint: &'static str,
}

impl<'a> StuckBody<'a> {
    pub(super) fn of(stuck: &'a Stuck) -> Self {
        Self {
            local: stuck.local,
            remote: stuck.remote,
            role: stuck.role.label(),
            state: stuck.state.label(),
            age_s: stuck.age.as_secs(),
            unread_bytes: stuck.unread_bytes,
            process: stuck.process.as_ref().map(ProcessBody::of),
            hint: stuck.reason.hint(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct LostBody {
    count: u64,
    kind: &'static str,
}

impl LostBody {
    pub(super) const fn of(lost: &Lost) -> Self {
        Self { count: lost.count, kind: lost.kind.label() }
    }
}

struct StatesBody<'a>(&'a [(TcpState, Duration)]);

impl StatesBody<'_> {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for StatesBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(state, duration)| (state.label(), micros(*duration))))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) const fn is_false(value: &bool) -> bool {
    !*value
}
