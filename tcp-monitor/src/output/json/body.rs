//! The fields of each kind of event, except for segments.

use super::object::{Object, Text};
use crate::lifecycle::event::{Closed, Handshake, Lost, Reset, Retransmit, StateChange, Stuck};
use crate::lifecycle::input::Process;
use crate::output::Skipped;

pub(super) fn add_state(change: &StateChange, object: &mut Object<'_>) {
    object.field("local", change.local);
    object.optional("remote", change.remote);
    object.field("role", change.role.label());
    object.field("from", change.from.label());
    object.field("to", change.to.label());
    object.optional("seq", change.seq);
    object.optional("ack", change.ack);
    object.field("evidence", change.evidence.label());
    add_process(change.process.as_ref(), object);
    object.optional("state_duration_us", change.state_duration);
}

pub(super) fn add_handshake(handshake: &Handshake, object: &mut Object<'_>) {
    object.field("local", handshake.local);
    object.field("remote", handshake.remote);
    object.field("role", handshake.role.label());
    object.field("result", handshake.result_label());
    object.optional("duration_us", handshake.duration);
    object.optional("syn_retransmits", handshake.syn_retransmits);
}

pub(super) fn add_reset(reset: &Reset, object: &mut Object<'_>) {
    object.field("local", reset.local);
    object.optional("remote", reset.remote);
    object.field("direction", reset.direction.label());
    object.field("phase", reset.phase.label());
    object.field("reason", reset.reason);
    object.optional("seq", reset.seq);
    object.optional("ack", reset.ack);
}

pub(super) fn add_retransmit(retransmit: &Retransmit, object: &mut Object<'_>) {
    object.field("local", retransmit.local);
    object.field("remote", retransmit.remote);
    object.field("kind", retransmit.kind.label());
    object.field("state", retransmit.state.label());
}

pub(super) fn add_closed(closed: &Closed, object: &mut Object<'_>) {
    object.field("local", closed.local);
    object.field("remote", closed.remote);
    object.field("role", closed.role.label());
    object.field("closed_by", closed.closed_by.label());
    object.optional("duration_us", closed.duration);
    object.optional("bytes_sent", closed.bytes_sent);
    object.optional("bytes_received", closed.bytes_received);
    object.optional("retransmits", closed.retransmits);
    object.optional("rtt_us", closed.rtt_us);
    add_process(closed.process.as_ref(), object);
    object.flag("partial", closed.partial);
    object.object("states", |states| {
        for (state, duration) in &closed.states {
            states.field(state.label(), *duration);
        }
    });
}

pub(super) fn add_stuck(stuck: &Stuck, object: &mut Object<'_>) {
    object.field("local", stuck.local);
    object.field("remote", stuck.remote);
    object.field("role", stuck.role.label());
    object.field("state", stuck.state.label());
    object.field("age_s", stuck.age.as_secs());
    object.field("unread_bytes", stuck.unread_bytes);
    add_process(stuck.process.as_ref(), object);
    object.field("hint", stuck.reason.hint());
}

pub(super) fn add_lost(lost: &Lost, object: &mut Object<'_>) {
    object.field("count", lost.count);
    object.field("kind", lost.kind.label());
}

pub(super) fn add_skipped(skipped: Skipped, object: &mut Object<'_>) {
    object.field("connections", skipped.connections);
    object.field("of", skipped.of);
}

fn add_process(process: Option<&Process>, object: &mut Object<'_>) {
    if let Some(Process { pid, comm }) = process {
        object.object("process", |process| {
            process.field("pid", *pid);
            process.field("comm", Text(&comm.to_text()));
        });
    }
}
