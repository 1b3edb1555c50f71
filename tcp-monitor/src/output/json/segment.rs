//! The fields of a segment.

use tcp_monitor_common::record::Direction;

use super::object::{Object, Text};
use crate::lifecycle::event::{AckCheck, Check, Segment, SeqCheck, Unexpected};
use crate::lifecycle::segment::Options;

pub(super) fn add_segment(segment: &Segment, interface: Option<&str>, object: &mut Object<'_>) {
    let header = &segment.header;
    object.field("src", segment.src);
    object.field("dst", segment.dst);
    object.labels("flags", header.flags.names());
    object.field("seq", header.seq);
    object.field("ack", header.ack);
    object.optional("seq_rel", segment.seq_rel);
    object.optional("ack_rel", segment.ack_rel);
    object.field("window", header.window);
    object.field("urgent", header.urgent);
    object.field("checksum", header.checksum);
    object.field("header_len", header.header_len);
    object.field("len", segment.payload_len);
    object.object("options", |options| add_options(&header.options, options));
    object.optional("interface", interface.map(Text));
    object.optional("direction", segment.direction.map(Direction::label));
    object.field("step", segment.step.label());
    object.flag("retransmission", segment.retransmission);
    object.flag("syn_cookie", segment.syn_cookie);
    object.optional("unexpected", segment.unexpected.map(Unexpected::label));
    object.object("check", |check| add_check(segment.check, check));
}

fn add_options(options: &Options, object: &mut Object<'_>) {
    object.optional("mss", options.mss);
    object.optional("wscale", options.window_scale);
    object.flag("sack_permitted", options.sack_permitted);
    if let Some(timestamps) = options.timestamps {
        object.field("ts_val", timestamps.value);
        object.field("ts_ecr", timestamps.echo);
    }
}

fn add_check(check: Check, object: &mut Object<'_>) {
    if let Some(AckCheck { of, seq, len, holds }) = check.ack {
        object.object("ack", |ack| {
            ack.field("of", of.label());
            ack.field("seq", seq);
            ack.field("len", len);
            ack.field("holds", holds);
        });
    }
    if let Some(SeqCheck { expected, holds }) = check.seq {
        object.object("seq", |seq| {
            seq.field("expected", expected);
            seq.field("holds", holds);
        });
    }
}
