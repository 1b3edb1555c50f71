//! The fields of a segment.

use std::net::SocketAddr;

use serde::Serialize;
use serde::ser::Serializer;
use tcp_monitor_common::record::Direction;

use super::body::is_false;
use crate::lifecycle::event::{AckCheck, Check, Segment, SeqCheck, Unexpected};
use crate::lifecycle::segment::{Flags, Options};

#[derive(Serialize)]
pub(super) struct SegmentBody {
    src: SocketAddr,
    dst: SocketAddr,
    flags: FlagNames,
    seq: u32,
    ack: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq_rel: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ack_rel: Option<u32>,
    window: u16,
    urgent: u16,
    checksum: u16,
    header_len: u8,
    len: u32,
    #[serde(skip_serializing_if = "OptionsBody::is_empty")]
    options: OptionsBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<&'static str>,
    step: &'static str,
    #[serde(skip_serializing_if = "is_false")]
    retransmission: bool,
    #[serde(skip_serializing_if = "is_false")]
    syn_cookie: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    unexpected: Option<&'static str>,
    #[serde(skip_serializing_if = "CheckBody::is_empty")]
    check: CheckBody,
}

impl SegmentBody {
    pub(super) fn of(segment: &Segment, interface: Option<String>) -> Self {
        let header = &segment.header;
        Self {
            src: segment.src,
            dst: segment.dst,
            flags: FlagNames(header.flags),
            seq: header.seq,
            ack: header.ack,
            seq_rel: segment.seq_rel,
            ack_rel: segment.ack_rel,
            window: header.window,
            urgent: header.urgent,
            checksum: header.checksum,
            header_len: header.header_len,
            len: segment.payload_len,
            options: OptionsBody::of(&header.options),
            interface,
            direction: segment.direction.map(Direction::label),
            step: segment.step.label(),
            retransmission: segment.retransmission,
            syn_cookie: segment.syn_cookie,
            unexpected: segment.unexpected.map(Unexpected::label),
            check: CheckBody::of(segment.check),
        }
    }
}

#[derive(Serialize)]
struct CheckBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    ack: Option<AckCheckBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<SeqCheckBody>,
}

#[derive(Serialize)]
struct AckCheckBody {
    of: &'static str,
    seq: u32,
    len: u32,
    holds: bool,
}

#[derive(Serialize)]
struct SeqCheckBody {
    expected: u32,
    holds: bool,
}

impl CheckBody {
    fn of(check: Check) -> Self {
        let ack = |AckCheck { of, seq, len, holds }| AckCheckBody { of: of.label(), seq, len, holds };
        let seq = |SeqCheck { expected, holds }| SeqCheckBody { expected, holds };
        Self { ack: check.ack.map(ack), seq: check.seq.map(seq) }
    }

    const fn is_empty(&self) -> bool {
        self.ack.is_none() && self.seq.is_none()
    }
}

#[derive(PartialEq, Default, Serialize)]
struct OptionsBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    mss: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wscale: Option<u8>,
    #[serde(skip_serializing_if = "is_false")]
    sack_permitted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts_val: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts_ecr: Option<u32>,
}

impl OptionsBody {
    pub(super) fn of(options: &Options) -> Self {
        Self {
            mss: options.mss,
            wscale: options.window_scale,
            sack_permitted: options.sack_permitted,
            ts_val: options.timestamps.map(|timestamps| timestamps.value),
            ts_ecr: options.timestamps.map(|timestamps| timestamps.echo),
        }
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

struct FlagNames(Flags);

impl Serialize for FlagNames {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.names())
    }
}
